"""Attention against loops in numpy, positions against their formulas, and the context's limit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from fprnn.baselines import ALiBi, HardALiBi, NoPE, Positions, RoPE, TransformerLayer, causal_attention
from fprnn.baselines.positions import alibi_slopes, rotate_channels
from fprnn.model import SequenceModel
from fprnn.module import SequenceModeling
from fprnn.tasks import SequenceDataModule, WordProblem


def by_loops(queries: Tensor, keys: Tensor, values: Tensor, bias: Any) -> np.ndarray:
    """Attention as it is written, ``bias(head, distance)`` a number."""
    q, k, v = (x.numpy() for x in (queries, keys, values))
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    earlier = k.shape[2] - q.shape[2]
    for row, head, new in np.ndindex(q.shape[:3]):
        place = earlier + new
        seen = [j for j in range(place + 1) if bias(head, place - j) > -math.inf]
        weights = np.array([math.exp(q[row, head, new] @ k[row, head, j] / math.sqrt(q.shape[-1])) for j in seen])
        weights *= [math.exp(bias(head, place - j)) for j in seen]
        out[row, head, new] = weights @ v[row, head, seen] / weights.sum()
    return out


BIASES: list[tuple[Positions | None, Any]] = [
    (None, lambda head, distance: 0.0),
    (RoPE(), lambda head, distance: 0.0),
    (ALiBi(), lambda head, distance: -(2.0 ** (-8 * (head + 1) / 4)) * distance),
    (HardALiBi([1, 3]), lambda head, distance: -math.inf if head < 2 and distance >= (1, 3)[head] else 0.0),
]


@pytest.mark.parametrize(("positions", "bias"), BIASES)
@pytest.mark.parametrize(("new", "length"), [(7, 7), (1, 6), (3, 8), (1, 1)])
def test_attention_is_the_loop(positions: Positions | None, bias: Any, new: int, length: int) -> None:
    queries, keys = torch.randn(2, 4, new, 6, dtype=torch.float64), torch.randn(2, 4, length, 6, dtype=torch.float64)
    values = torch.randn(2, 4, length, 5, dtype=torch.float64)
    expected = by_loops(queries, keys, values, bias)
    np.testing.assert_allclose(causal_attention(queries, keys, values, positions).numpy(), expected, atol=1e-7)


def test_the_slopes_of_alibi() -> None:
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-h for h in range(1, 9)]))
    torch.testing.assert_close(alibi_slopes(2), torch.tensor([2.0**-4, 2.0**-8]))
    # no power of two: those of 4 heads, then the first and the third of 8
    torch.testing.assert_close(alibi_slopes(6), torch.tensor([2.0**-h for h in (2, 4, 6, 8, 1, 3)]))
    assert len(alibi_slopes(1)) == 1


def test_rope_multiplies_complex_numbers() -> None:
    x = torch.randn(2, 5, 11, dtype=torch.float64)
    places = torch.tensor([0, 1, 4, 100, 7])
    turned = rotate_channels(x, places, 8, base=50.0)
    pairs = x[..., :4].numpy() + 1j * x[..., 4:8].numpy()
    expected = pairs * np.exp(1j * places.numpy()[:, None] * 50.0 ** (-2 * np.arange(4) / 8))
    np.testing.assert_allclose(turned[..., :4].numpy(), expected.real, atol=1e-12)
    np.testing.assert_allclose(turned[..., 4:8].numpy(), expected.imag, atol=1e-12)
    assert torch.equal(turned[..., 8:], x[..., 8:])


@pytest.mark.parametrize("positions", [RoPE(base=100.0, fraction=0.5), ALiBi(), HardALiBi(), NoPE()])
def test_only_distance_counts(positions: Positions) -> None:
    """Products of queries and keys are the same wherever both stand."""
    q, k = torch.randn(2, 1, 1, 6, 8, dtype=torch.float64).unbind()
    here, there = (positions.rotate(q, start) @ positions.rotate(k, start).mT for start in (0, 1000))
    torch.testing.assert_close(here, there, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("positions", "ordered"), [(None, False), (RoPE(), True), (ALiBi(), True)])
def test_the_order_of_the_past_shows_only_through_positions(positions: Positions | None, ordered: bool) -> None:
    """One layer without positions sees a set; what the released Transformer lacked, these have."""
    layer = TransformerLayer(8, num_heads=2, positions=positions)
    x = torch.randn(1, 6, 8)
    shuffled = x[:, [3, 1, 4, 0, 2, 5]]
    change = (layer(x)[:, -1] - layer(shuffled)[:, -1]).abs().max()
    assert change > 1e-3 if ordered else change < 1e-6


@pytest.mark.parametrize("parallel", [False, True])
def test_the_block_is_torchs_own_attention_and_mlp(parallel: bool) -> None:
    torch.manual_seed(0)
    layer, x = TransformerLayer(8, num_heads=2, parallel=parallel, norm_eps=0.1, mlp_width=5), torch.randn(2, 6, 8)
    torchs = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(layer.attention.in_proj.weight)
        torchs.out_proj.weight.copy_(layer.attention.out_proj.weight)
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    a, _ = torchs(x, x, x, attn_mask=future, need_weights=False)
    between = x if parallel else (x + a) / ((x + a).square().mean(-1, keepdim=True) + 0.1).sqrt()
    expected = a + F.gelu(between @ layer.mlp.in_proj.weight.T) @ layer.mlp.out_proj.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_both_outputs_are_scaled_with_depth() -> None:
    """By ``1 / sqrt(n_layers)``, so that a deep stack starts as wide as a shallow one."""
    stacks = []
    for scale_output in (False, True):
        torch.manual_seed(0)
        stacks.append(SequenceModel(5, 5, TransformerLayer, d_model=8, n_layers=4, scale_output=scale_output))
    plain, scaled = (dict(stack.named_parameters()) for stack in stacks)
    for name, parameter in plain.items():
        torch.testing.assert_close(scaled[name], parameter / 2 if ".out_proj." in name else parameter)
    assert sum(".out_proj." in name for name in plain) == 8


LIMIT = "max_length: 6 is too short for a context of 7 tokens; use 7 or more"


def test_a_context_beyond_the_limit_is_refused() -> None:
    layer, x = TransformerLayer(8, max_length=6), torch.randn(1, 7, 8)
    _, state = layer.advance(x[:, :6], layer.initial_state(1))
    for beyond in (lambda: layer(x), lambda: layer.step(x[:, 6], state)):
        with pytest.raises(ValueError, match=LIMIT):
            beyond()
    assert TransformerLayer(8, max_length=None)(torch.zeros(1, 3000, 8)[:, :7]).shape == (1, 7, 8)


@pytest.mark.parametrize("lengths", [{"train_length": 7}, {"train_length": 4, "eval_lengths": [4, 7]}])
def test_data_beyond_the_limit_are_refused_before_training(lengths: dict[str, Any]) -> None:
    data = SequenceDataModule(WordProblem("Z2"), **lengths)
    model = SequenceModeling(
        data.vocab_size, data.num_targets, layer=lambda d: TransformerLayer(d, max_length=6), d_model=8
    )
    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=LIMIT):
        trainer.fit(model, data)
    assert not trainer.global_step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads: 5 does not divide d_model=12; use a divisor, or set head_dim"),
        ({"mlp_width": 0}, "mlp_width: 0 is too small; use 1 or more"),
        ({"max_length": 0}, "max_length: 0 is too small; use 1 or more"),
        (
            {"num_heads": 4, "positions": RoPE()},
            "fraction: 1.0 turns 3 of the 3 channels of a head, which must be even",
        ),
        ({"positions": HardALiBi([1] * 5)}, r"windows: \[1, 1, 1, 1, 1\] are more than 4 heads; use at most 4"),
    ],
)
def test_bad_layer_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerLayer(12, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RoPE(base=1), "base: 1 must be above 1; use 10000, say"),
        (lambda: RoPE(fraction=0), "fraction: 0 must be above 0 and at most 1"),
        (lambda: HardALiBi([2, 0]), r"windows: \[2, 0\] must all see a token; use 1 or more"),
    ],
)
def test_bad_position_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
