"""Looking tokens up in a table: the same outputs and gradients as without, for less work."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fprnn.layers import FPRNN, DiagonalRNN
from fprnn.mixers import ConstantMixer, HouseholderMixer, KroneckerMixer, Mixer
from fprnn.model import SequenceModel
from fprnn.solvers import FixedPointSolver, PicardSolver, SequentialSolver

MIXERS: dict[str, Callable[[int], Mixer]] = {
    "product": lambda d: HouseholderMixer(d, 3),
    "symmetric": lambda d: HouseholderMixer(d, 2, dependence="symmetric"),
    "input": lambda d: HouseholderMixer(d, 2, dependence="input"),
    "kronecker": KroneckerMixer,
    "constant": ConstantMixer,
}


class Plain(nn.Module):
    """A layer that does not show that it could look tokens up."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def twins(make: Callable[[int], nn.Module], n_layers: int = 1) -> tuple[SequenceModel, SequenceModel]:
    """Two models of the same weights; the second one's layers hide what they are."""
    torch.manual_seed(0)
    model = SequenceModel(7, 5, make, d_model=8, n_layers=n_layers)
    torch.manual_seed(0)
    return model, SequenceModel(7, 5, lambda d: Plain(make(d)), d_model=8, n_layers=n_layers, scale_output=False)


def results(model: SequenceModel, tokens: Tensor) -> list[Tensor]:
    """Logits, and every parameter's gradient."""
    logits = model(tokens)
    weights = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape).to(logits)
    return [logits, *torch.autograd.grad((logits * weights).sum(), list(model.parameters()))]


@pytest.mark.parametrize("solver", [SequentialSolver(), PicardSolver(1e-3)])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_table_gives_the_same_outputs_and_gradients(mixer: str, solver: FixedPointSolver) -> None:
    for layer in (lambda d: FPRNN(d, MIXERS[mixer], solver), DiagonalRNN):
        model, plain = twins(layer)
        tokens = torch.randint(6, (4, 9))  # the last token of the vocabulary does not occur
        ours, theirs = results(model.double(), tokens), results(plain.double(), tokens)
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left, right, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("tokens", [torch.arange(6).reshape(2, 3), torch.arange(8).reshape(2, 4) % 7])
def test_a_table_is_used_where_it_is_smaller(tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    look_up = FPRNN.look_up
    monkeypatch.setattr(FPRNN, "look_up", lambda *args: used.append(1) or look_up(*args))
    for n_layers in (1, 2):
        twins(FPRNN, n_layers)[0](tokens)
    assert len(used) == (2 if tokens.numel() > 7 else 0)


def test_a_convolution_needs_the_tokens_in_their_order() -> None:
    model, plain = twins(lambda d: FPRNN(d, solver=SequentialSolver(), conv_width=2))
    tokens = torch.randint(7, (4, 9))
    torch.testing.assert_close(model(tokens), plain(tokens))
    with pytest.raises(ValueError, match="conv_width=2: mixes tokens"):
        model.layers[0](model.embedding.weight, tokens)


def test_gradients_are_summed_in_single_precision() -> None:
    """With 1,000 places for each token, sums in half precision would be some per cent off."""
    model, plain = twins(lambda d: FPRNN(d, solver=SequentialSolver()))
    tokens = torch.randint(7, (500, 14))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = results(model, tokens), results(plain, tokens)
    exact = results(plain, tokens)
    assert ours[0].dtype == theirs[0].dtype
    for left, right, target in zip(ours[1:], theirs[1:], exact[1:], strict=True):
        assert (left - target).norm() < 1.5 * (right - target).norm() + 1e-3 * target.norm()


def test_weights_in_half_precision() -> None:
    model, plain = (twin.bfloat16() for twin in twins(lambda d: FPRNN(d, solver=SequentialSolver())))
    tokens = torch.randint(7, (4, 9))
    left, right = model(tokens), plain(tokens)
    assert left.dtype == right.dtype
    assert (left - right).norm() < 0.03 * right.norm()


def test_a_hook_on_the_layer_sees_the_call() -> None:
    model, _ = twins(FPRNN)
    outputs: list[Tensor] = []
    model.layers[0].register_forward_hook(lambda _, __, out: outputs.append(out))
    model(torch.randint(7, (4, 9)))
    assert outputs[0].shape == (4, 9, 8)
