"""Each baseline learns what it is known to learn, in a few seconds, and fails where it is known to fail."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fprnn.baselines import (
    ALiBi,
    DeltaNetLayer,
    DeltaProductLayer,
    HardALiBi,
    LSTMLayer,
    MambaLayer,
    MLSTMLayer,
    NoPE,
    RoPE,
    SLSTMLayer,
    TransformerLayer,
)
from fprnn.tasks import Parity, SequenceDataModule, WordProblem

Layer = Callable[[int], nn.Module]


def trained_accuracy(data: SequenceDataModule, layer: Layer, steps: int, lr: float) -> dict[int, float]:
    """Sequence accuracy by length, of one layer between embedding and head, after at most so many steps."""
    torch.manual_seed(0)
    width = 32
    model = nn.Sequential(
        nn.Embedding(data.vocab_size, width), layer(width), nn.LayerNorm(width), nn.Linear(width, data.num_targets)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for step in range(steps):
        batch = data.training_batch(step)
        loss = F.cross_entropy(model(batch["tokens"])[batch["mask"]], batch["targets"][batch["mask"]])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() < 0.002:
            break
    with torch.no_grad():
        return {
            loader.length: float(
                torch.cat([((model(b["tokens"]).argmax(-1) == b["targets"]) | ~b["mask"]).all(1) for b in loader])
                .float()
                .mean()
            )
            for loader in data.test_dataloader()
        }


def words(group: str, bos: bool = False) -> SequenceDataModule:
    return SequenceDataModule(
        WordProblem(group, bos), train_length=8, eval_lengths=[8, 16], batch_size=64, test_size=500, seed=0
    )


def test_the_lstm_learns_parity_at_every_token() -> None:
    accuracy = trained_accuracy(words("Z2"), LSTMLayer, steps=150, lr=1e-2)
    assert accuracy[8] > 0.99
    assert accuracy[16] > 0.95


def test_the_lstm_learns_parity_labelled_at_the_end() -> None:
    """From mixed lengths: at length 8 alone it does not leave the coin toss in 600 steps."""
    data = SequenceDataModule(Parity(), (1, 8), eval_lengths=[8, 16], batch_size=64, test_size=500, seed=0)
    accuracy = trained_accuracy(data, LSTMLayer, steps=400, lr=1e-2)
    assert accuracy[8] > 0.99
    assert accuracy[16] > 0.95


def test_delta_product_learns_s3_with_two_reflections() -> None:
    accuracy = trained_accuracy(words("S3"), partial(DeltaProductLayer, num_heads=2), steps=300, lr=1e-2)
    assert accuracy[8] > 0.9


def test_delta_product_needs_negative_eigenvalues_for_parity() -> None:
    with_them = partial(DeltaProductLayer, num_heads=2, num_householder=2)
    without = partial(with_them, negative_eigenvalues=False)
    assert trained_accuracy(words("Z2"), with_them, steps=200, lr=5e-3)[16] > 0.9
    assert trained_accuracy(words("Z2"), without, steps=200, lr=5e-3)[16] < 0.2


def test_delta_net_needs_negative_eigenvalues_for_parity() -> None:
    """With a first token that is always there, so that there is something to change the sign of."""
    layer = partial(DeltaNetLayer, num_heads=2)
    with_them = partial(layer, negative_eigenvalues=True)
    assert trained_accuracy(words("Z2", bos=True), with_them, steps=200, lr=1e-2)[16] > 0.9
    assert trained_accuracy(words("Z2", bos=True), layer, steps=200, lr=1e-2)[16] < 0.2


def recall(rows: int, generator: torch.Generator, rewrite: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Six of eight keys with one of four values each, a key and its value a token; then the key that is asked for.

    With ``rewrite`` keys may come again, and the last value counts.
    """
    keys, values, pairs = 8, 4, 6
    drawn = torch.rand(rows, keys, generator=generator).argsort(1)[:, :pairs]
    if rewrite:
        drawn = torch.randint(0, keys // 2, (rows, pairs), generator=generator)
    value = torch.randint(0, values, (rows, pairs), generator=generator)
    asked = drawn.gather(1, torch.randint(0, pairs, (rows, 1), generator=generator))
    last = ((drawn == asked) * torch.arange(1, pairs + 1)).argmax(1, keepdim=True)
    return torch.cat([drawn * values + value, keys * values + asked], 1), value.gather(1, last).squeeze(1)


def recall_accuracy(layer: Layer, steps: int, rewrite: bool = False) -> float:
    """Share of right answers on fresh sequences after at most so many steps; chance is 1/4."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Embedding(40, 32), layer(32), nn.LayerNorm(32), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(steps):
        tokens, target = recall(64, generator, rewrite)
        loss = F.cross_entropy(model(tokens)[:, -1], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    with torch.no_grad():
        tokens, target = recall(1000, generator, rewrite)
        return float((model(tokens)[:, -1].argmax(-1) == target).float().mean())


@pytest.mark.parametrize(
    "layer",
    [
        partial(TransformerLayer, positions=NoPE()),
        partial(TransformerLayer, positions=RoPE()),
        partial(TransformerLayer, positions=ALiBi()),
        partial(TransformerLayer, positions=HardALiBi()),
        partial(MLSTMLayer, num_heads=2),
        MambaLayer,
    ],
    ids=["transformer, nope", "transformer, rope", "transformer, alibi", "transformer, hard alibi", "mlstm", "mamba"],
)
def test_what_attends_or_has_a_matrix_memory_recalls_by_key(layer: Layer) -> None:
    assert recall_accuracy(layer, steps=200) > 0.95


def test_delta_net_recalls_the_last_value_of_a_key() -> None:
    assert recall_accuracy(partial(DeltaNetLayer, num_heads=2), steps=250, rewrite=True) > 0.95


def test_the_slstm_learns_parity_at_every_token() -> None:
    accuracy = trained_accuracy(words("Z2"), SLSTMLayer, steps=150, lr=1e-2)
    assert accuracy[8] > 0.99
    assert accuracy[16] > 0.9
