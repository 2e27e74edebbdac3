"""The model against its formulas written out, and one token at a time against all at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprnn.baselines import DeltaProductLayer, LSTMLayer
from fprnn.layers import FPRNN, DenseRNN, DiagonalRNN, FPMamba, FPMamba2
from fprnn.mixers import HouseholderMixer, KroneckerMixer
from fprnn.model import SequenceModel, sample_tokens
from fprnn.solvers import (
    AndersonSolver,
    AutomaticSolver,
    FixedCountSolver,
    FixedPointSolver,
    PicardSolver,
    SequentialSolver,
)

Layer = Callable[[int], nn.Module]
SOLVERS: dict[str, FixedPointSolver] = {
    "picard": PicardSolver(tol=1e-6),
    "anderson": AndersonSolver(tol=1e-6),
    "fixed": FixedCountSolver(60),
    "automatic": AutomaticSolver(PicardSolver(tol=1e-6)),
    "sequential": SequentialSolver(),
}
LAYERS: dict[str, Layer] = {
    **{name: partial(FPRNN, solver=solver) for name, solver in SOLVERS.items()},
    "conv": partial(FPRNN, solver=PicardSolver(tol=1e-6), conv_width=4),
    "in-loop norm": partial(FPRNN, solver=PicardSolver(tol=1e-6), in_loop_norm=True),
    "kronecker": partial(FPRNN, mixer=KroneckerMixer, solver=PicardSolver(tol=1e-6)),
    "fpmamba": partial(FPMamba, solver=PicardSolver(tol=1e-6), conv_width=4),
    "fpmamba2": partial(FPMamba2, solver=PicardSolver(tol=1e-6), d_state=4, head_dim=8, glu_in_loop=True),
    "dense": DenseRNN,
    "diagonal": DiagonalRNN,
    "lstm": partial(LSTMLayer, hidden_size=12),
    "delta product": partial(DeltaProductLayer, num_heads=2),
}


def make(layer: Layer = FPRNN, **options: Any) -> SequenceModel:
    return SequenceModel(7, 5, layer, **({"d_model": 16, "n_layers": 2} | options)).eval()


def tokens(batch: int = 3, length: int = 12) -> Tensor:
    return torch.randint(0, 7, (batch, length))


def normalised(x: Tensor, norm: nn.Module, eps: float) -> Tensor:
    weight = norm.weight
    assert isinstance(weight, Tensor)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("tie_head", [False, True])
@pytest.mark.parametrize("pad_vocab_to", [1, 8])
def test_the_stack_is_the_one_written_out(tie_head: bool, pad_vocab_to: int) -> None:
    model = make(LSTMLayer, tie_head=tie_head, pad_vocab_to=pad_vocab_to, norm_eps=0.1)
    for norm in [*model.norms, model.final_norm]:
        nn.init.normal_(norm.weight)
    ids = tokens()
    x = model.embedding.weight[ids]
    for norm, layer in zip(model.norms, model.layers, strict=True):
        x = x + layer(normalised(x, norm, 0.1))
    head = model.embedding.weight if model.head is None else model.head.weight
    expected = normalised(x, model.final_norm, 0.1) @ head.T
    torch.testing.assert_close(model(ids), expected[..., :5])
    assert model(ids).shape == (3, 12, 5)
    assert len(model.embedding.weight) == (8 if pad_vocab_to == 8 else 7)
    assert len(head) == (8 if pad_vocab_to == 8 else 7 if tie_head else 5)


@pytest.mark.parametrize(("d", "rank", "n", "tie"), [(8, 1, 1, False), (6, 3, 2, True)])
def test_parameters_are_as_many_as_the_formulas_have(d: int, rank: int, n: int, tie: bool) -> None:
    model = SequenceModel(67, 60, partial(FPRNN, mixer=partial(HouseholderMixer, rank=rank)), d, n, tie, pad_vocab_to=8)
    e = 2 * d
    gates = 2 * e * d + e * e + (e * e + e) + 2 * e * e
    mixer = (rank * e + rank) * (2 * e + 1) + rank
    layer = gates + mixer + e + e * d
    expected = 72 * d + n * (d + layer) + d + (0 if tie else 64 * d)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_the_start_is_as_specified() -> None:
    torch.manual_seed(1)
    plain = SequenceModel(500, 5, d_model=64, n_layers=4, embedding_std=0.02, scale_output=False)
    torch.manual_seed(1)
    scaled = SequenceModel(500, 5, d_model=64, n_layers=4, embedding_std=0.02)
    assert plain.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for name, weight in plain.named_parameters():
        factor = 0.5 if name.endswith("out_proj.weight") else 1.0
        torch.testing.assert_close(dict(scaled.named_parameters())[name], factor * weight)


UNIQUE = {name: layer for name, layer in LAYERS.items() if name != "in-loop norm"}  # it has several fixed points


@pytest.mark.parametrize("layer", UNIQUE.values(), ids=UNIQUE.keys())
def test_one_token_at_a_time_equals_all_at_once(layer: Layer) -> None:
    """In three ways: by steps, by a prompt and steps, and by two parts; a prefix knows nothing of what follows."""
    model = make(layer)
    ids = tokens()
    with torch.no_grad():
        whole = model(ids)
        states, stepped = model.initial_state(3), []
        for t in range(12):
            logits, states = model.step(ids[:, t], states)
            stepped.append(logits)
        torch.testing.assert_close(torch.stack(stepped, 1), whole, atol=1e-4, rtol=1e-4)
        first, states = model.advance(ids[:, :7], model.initial_state(3))
        then, _ = model.step(ids[:, 7], states)
        rest, _ = model.advance(ids[:, 7:], states)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(then, whole[:, 7], atol=1e-4, rtol=1e-4)


def greedy_by_rerunning(model: SequenceModel, prompt: Tensor, n: int) -> Tensor:
    ids = prompt
    for _ in range(n):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    return ids[:, prompt.shape[1] :]


@torch.no_grad()
def test_generation_continues_as_the_whole_sequence_would() -> None:
    model = make(partial(FPRNN, solver=SequentialSolver()))
    prompt = tokens(4, 3)
    generated = model.generate(prompt, 20, temperature=0)
    assert torch.equal(generated, greedy_by_rerunning(model, prompt, 20))
    assert generated.unique().numel() > 1
    assert torch.equal(model.generate(prompt, 20, temperature=2.0, top_k=1), generated)
    draws = [model.generate(prompt, 30, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert model.generate(prompt, 0).shape == (4, 0)


def sizes(state: Any) -> list[int]:
    if isinstance(state, Tensor):
        return [state.numel()]
    return [size for part in state or () for size in sizes(part)]


@pytest.mark.parametrize("name", ["conv", "in-loop norm", "fpmamba", "fpmamba2", "lstm", "delta product"])
def test_decoding_needs_constant_memory(name: str) -> None:
    model = make(LAYERS[name])
    start = sizes(model.initial_state(3))
    with torch.no_grad():
        _, after = model.advance(tokens(3, 50), model.initial_state(3))
        _, after = model.step(tokens(3, 1)[:, 0], after)
    assert sizes(after) == start
    assert sum(start) > 0


def test_sampling_follows_the_softmax() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0]).expand(40_000, 4)
    generator = torch.Generator().manual_seed(0)

    def shares(**options: Any) -> Tensor:
        return torch.bincount(sample_tokens(logits, generator=generator, **options), minlength=4) / 40_000

    torch.testing.assert_close(shares(temperature=0.7), (logits[0] / 0.7).softmax(-1), atol=0.01, rtol=0)
    two = torch.tensor([2.0, -torch.inf, 1.0, -torch.inf]).softmax(-1)
    torch.testing.assert_close(shares(top_k=2), two, atol=0.01, rtol=0)
    assert shares(temperature=0)[0] == 1
    assert shares(top_k=9).gt(0).all()


class Echo(nn.Module):
    """Tells in which precision it is called and answers in that of its weight."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        self.seen += [x.dtype, out.dtype]
        return out


def test_the_residual_stream_is_float32_in_any_precision() -> None:
    """So that small additions to it are not lost: bfloat16 cannot add 2 ** -9 to 1."""
    half, full = torch.bfloat16, torch.float32
    model = make(Echo, n_layers=1).bfloat16()
    assert model.first_block(tokens()).dtype == full
    assert model.layers[0].seen == [half, half]
    nn.init.constant_(model.embedding.weight, 1.0)
    nn.init.zeros_(model.layers[0].linear.weight)
    nn.init.constant_(model.layers[0].linear.bias, 2.0**-9)
    assert (model.first_block(tokens()) == 1 + 2.0**-9).all()
    mixed = make(Echo, n_layers=1)
    with torch.autocast("cpu", half):
        assert mixed.first_block(tokens()).dtype == full
        assert mixed(tokens()).dtype == half
    assert mixed.layers[0].seen[-2:] == [full, half]
    assert make(Echo).double()(tokens()).dtype == torch.float64


def test_a_compiled_model_with_a_fixed_count_has_no_graph_break() -> None:
    model = make(partial(FPRNN, solver=FixedCountSolver(4)), n_layers=1)
    ids = tokens(2, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model(ids).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = compiled(ids)
    torch.testing.assert_close(logits, model(ids))
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_targets": 8, "tie_head": True}, "tie_head=True: gives 7 classes"),
        ({"n_layers": 0}, "n_layers: 0 is too small"),
        ({"n_layers": 10**12}, "n_layers: 1000000000000 is too large; use 10000 or less"),
        ({"vocab_size": 0}, "vocab_size: 0 is too small"),
        ({"pad_vocab_to": 0}, "pad_vocab_to: 0 is too small"),
        ({"embedding_std": -1.0}, "embedding_std=-1.0: must be at least 0"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be positive"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        SequenceModel(**({"vocab_size": 7, "num_targets": 5} | options))
    assert "\n" not in str(raised.value)


def test_what_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(TypeError, match="Echo cannot stream: it needs initial_state, advance and step"):
        make(Echo).initial_state(1)
    with pytest.raises(ValueError, match="prompt: is empty"):
        make(LSTMLayer).generate(tokens(2, 0), 1)
    with pytest.raises(ValueError, match="num_targets=9: more than 7 tokens"):
        SequenceModel(7, 9).generate(tokens(), 1)
    with pytest.raises(ValueError, match="temperature=-1"):
        sample_tokens(torch.zeros(1, 2), temperature=-1)
