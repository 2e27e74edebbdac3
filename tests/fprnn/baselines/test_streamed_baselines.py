"""What every baseline must do, whatever is in it: stream, look back only, and keep its precision."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fprnn.baselines import (
    ALiBi,
    DeltaNetLayer,
    HardALiBi,
    MambaLayer,
    MLSTMLayer,
    RoPE,
    SLSTMLayer,
    TransformerLayer,
)
from fprnn.layers import weight_decay_groups
from fprnn.model import SequenceModel

WIDTH = 12


def mamba_with_long_steps(width: int, **options: int) -> MambaLayer:
    """What a fresh one writes to its state is too little to be seen here."""
    layer = MambaLayer(width, **options)
    with torch.no_grad():
        layer.step_size.bias.add_(3)
        layer.x_proj.weight.mul_(3)
    return layer


LAYERS: dict[str, Callable[[int], Any]] = {
    "transformer": partial(TransformerLayer, num_heads=3),
    "transformer, rope": partial(TransformerLayer, num_heads=2, positions=RoPE(fraction=0.6), head_dim=10),
    "transformer, alibi, parallel": partial(TransformerLayer, num_heads=3, positions=ALiBi(), parallel=True),
    "transformer, hard alibi": partial(TransformerLayer, positions=HardALiBi([1, 3])),
    "mlstm": partial(MLSTMLayer, num_heads=3, chunk_size=4),
    "mlstm, convolved": partial(MLSTMLayer, num_heads=2, head_dim=5, conv_width=3),
    "mlstm, token by token": partial(MLSTMLayer, chunk_size=None),
    "slstm": partial(SLSTMLayer, num_heads=3),
    "slstm, convolved": partial(SLSTMLayer, conv_width=4),
    "mamba": partial(mamba_with_long_steps, d_state=5),
    "mamba, narrow": partial(mamba_with_long_steps, d_inner=7, d_state=3, conv_width=1, step_rank=2),
    "delta net": partial(DeltaNetLayer, num_heads=3, chunk_size=4),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return LAYERS[request.param](WIDTH)


def by_steps(layer: Any, x: Tensor) -> Tensor:
    state, outputs = layer.initial_state(len(x)), [x[:, :0]]
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(y[:, None])
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("length", [0, 1, 4, 11])
def test_steps_equal_forward(layer: Any, length: int) -> None:
    x = torch.randn(3, length, WIDTH)
    torch.testing.assert_close(by_steps(layer, x), layer(x), atol=1e-5, rtol=1e-5)


def test_a_sequence_may_be_cut_anywhere(layer: Any) -> None:
    """In double precision, so that only what a state lacks could show."""
    layer.double()
    x = torch.randn(2, 11, WIDTH, dtype=torch.float64)
    first, state = layer.advance(x[:, :5], layer.initial_state(2))
    nothing, state = layer.advance(x[:, 5:5], state)
    second, state = layer.advance(x[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, nothing, second], 1), layer(x), atol=1e-11, rtol=0)
    assert first.dtype == torch.float64


def test_outputs_do_not_see_the_future_or_the_batch(layer: Any) -> None:
    x = torch.randn(3, 9, WIDTH)
    torch.testing.assert_close(layer(x[:, :5]), layer(x)[:, :5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(x[1:2]), layer(x)[1:2], atol=1e-5, rtol=1e-5)
    changed = torch.cat([x[:, :1] + 1, x[:, 1:]], 1)
    assert (layer(changed)[:, -1] - layer(x)[:, -1]).abs().max() > 1e-4  # but the past


def test_every_parameter_gets_a_gradient(layer: Any) -> None:
    layer(torch.randn(2, 9, WIDTH)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_gradients_are_those_of_finite_differences(layer: Any) -> None:
    layer.double()
    x = torch.randn(1, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)


def test_half_precision(layer: Any) -> None:
    x = torch.randn(2, 11, WIDTH)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
        streamed = by_steps(layer, x)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, atol=0.05, rtol=0.05)
    torch.testing.assert_close(streamed, exact, atol=0.05, rtol=0.05)
    low = layer.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, atol=0.05, rtol=0.05)


def test_an_empty_batch(layer: Any) -> None:
    assert layer(torch.zeros(0, 5, WIDTH)).shape == (0, 5, WIDTH)


def test_biases_and_norms_do_not_decay(layer: Any) -> None:
    decaying = {id(p) for p in weight_decay_groups(layer, 0.1)[0]["params"]}
    assert {name for name, p in layer.named_parameters() if id(p) not in decaying} == {
        name
        for name, _ in layer.named_parameters()
        if name.endswith(".bias") or "norm" in name or name in getattr(layer, "no_weight_decay", ())
    }


def test_a_model_generates_what_it_predicts(layer: Any) -> None:
    torch.manual_seed(0)
    model = SequenceModel(7, 7, lambda _: layer, d_model=WIDTH)
    prompt = torch.randint(0, 7, (2, 4))
    new = model.generate(prompt, 6, temperature=0)
    whole = torch.cat([prompt, new], 1)
    assert torch.equal(model(whole)[:, 3:-1].argmax(-1), new)
