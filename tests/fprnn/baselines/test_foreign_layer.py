"""A package that nobody knows: its modules become layers by class path, with the width under either name."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from fprnn.baselines import ForeignLayer
from fprnn.model import SequenceModel


class Flash(nn.Module):
    """As in flash-linear-attention: the width is not the first argument, and outputs come in a tuple."""

    def __init__(self, mode: str = "chunk", hidden_size: int = 1024, num_heads: int = 4, **kwargs: Any) -> None:
        super().__init__()
        self.mode, self.num_heads = mode, num_heads
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None, None]:
        return self.o_proj(hidden_states), None, None


class Serpent(nn.Module):
    """As in mamba-ssm: a width, a tensor."""

    def __init__(self, d_model: int, d_state: int = 16) -> None:
        super().__init__()
        self.d_state = d_state
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.out_proj(hidden_states)


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that holds both."""
    module = ModuleType("elsewhere")
    for cls in (Flash, Serpent):
        monkeypatch.setattr(cls, "__module__", "elsewhere")
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "elsewhere", module)


FLASH = {
    "class_path": "fprnn.baselines.ForeignLayer",
    "init_args": {"layer": {"class_path": "elsewhere.Flash", "init_args": {"num_heads": 3}}},
}
SERPENT = {"class_path": "elsewhere.Serpent", "init_args": {"d_state": 5}}


def configured(layer: dict[str, Any]) -> SequenceModel:
    """A model as the command makes it from a configuration."""
    parser = ArgumentParser()
    parser.add_class_arguments(SequenceModel, "model")
    sizes = {"vocab_size": 7, "num_targets": 5, "d_model": 8, "n_layers": 2}
    model = parser.instantiate(parser.parse_object({"model": sizes | {"layer": layer}})).model
    assert isinstance(model, SequenceModel)
    return model


def test_a_width_called_hidden_size() -> None:
    model = configured(FLASH)
    first, second = (layer.layer for layer in model.layers)
    assert isinstance(first, Flash)
    assert (first.mode, first.num_heads, first.o_proj.in_features) == ("chunk", 3, 8)
    assert not torch.equal(first.o_proj.weight, second.o_proj.weight)  # each its own draw
    x = torch.randn(2, 4, 8)
    assert torch.equal(model.layers[0](x), first.o_proj(x))
    model(torch.randint(0, 7, (2, 4))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_width_in_the_first_place_needs_no_adapter() -> None:
    model = configured(SERPENT)
    assert [layer.d_state for layer in model.layers] == [5, 5]
    assert model(torch.randint(0, 7, (2, 4))).shape == (2, 4, 5)


def test_a_foreign_layer_does_not_stream() -> None:
    with pytest.raises(TypeError, match="ForeignLayer cannot stream: it needs initial_state, advance and step"):
        configured(FLASH).initial_state(1)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            lambda x: x[:, 1:],
            r"layer=Odd: makes \(2, 3, 8\) of \(2, 4, 8\); use one that keeps the shape",
        ),
        (lambda x: {"out": x}, r"layer=Odd: makes dict of \(2, 4, 8\); use one that keeps the shape"),
    ],
)
def test_a_module_that_changes_the_shape_is_refused(output: Any, message: str) -> None:
    class Odd(nn.Module):
        def __init__(self, hidden_size: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Any:
            return output(x)

    with pytest.raises(ValueError, match=message):
        ForeignLayer(8, Odd)(torch.zeros(2, 4, 8))
