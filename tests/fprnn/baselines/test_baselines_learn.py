"""Each baseline learns what it is known to learn, in a few seconds, and fails where it is known to fail."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from fprnn.baselines import DeltaProductLayer, LSTMLayer
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


def words(group: str) -> SequenceDataModule:
    return SequenceDataModule(
        WordProblem(group), train_length=8, eval_lengths=[8, 16], batch_size=64, test_size=500, seed=0
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
