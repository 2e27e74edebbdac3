"""Functions against loops over positions, classes against the functions."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fprnn.metrics import (
    MaskedCrossEntropy,
    MaskedSequenceAccuracy,
    MaskedTokenAccuracy,
    Scores,
    Tally,
    add_up,
    answer_tallies,
)


def problem(seed: int, batch: int, length: int, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, length, classes, generator=generator)
    targets = torch.randint(0, classes, (batch, length), generator=generator)
    return logits, targets, torch.rand(batch, length, generator=generator) < 0.4


def by_hand(logits: Tensor, targets: Tensor, mask: Tensor) -> dict[str, tuple[float, int]]:
    """Sums and counts, position by position."""
    loss, right, scored, right_rows, scored_rows = 0.0, 0, 0, 0, 0
    for row in range(len(mask)):
        wrong, seen = 0, 0
        for t in range(mask.shape[1]):
            if mask[row, t]:
                loss -= float(logits[row, t].double().log_softmax(-1)[targets[row, t]])
                hit = int(logits[row, t].argmax()) == int(targets[row, t])
                right, wrong, seen = right + hit, wrong + (not hit), seen + 1
        scored, scored_rows = scored + seen, scored_rows + (seen > 0)
        right_rows += seen > 0 and wrong == 0
    return {
        "loss": (loss, scored),
        "token_accuracy": (right, scored),
        "sequence_accuracy": (right_rows, scored_rows),
    }


@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_the_functions_count_as_a_loop_does(seed: int, batch: int, length: int) -> None:
    logits, targets, mask = problem(seed, batch, length)
    for name, tally in answer_tallies(logits, targets, mask).items():
        total, number = by_hand(logits, targets, mask)[name]
        torch.testing.assert_close(float(tally.total), float(total), atol=1e-5, rtol=1e-5)
        assert int(tally.number) == number


def test_the_loss_is_pytorchs_and_so_is_its_gradient() -> None:
    logits, targets, mask = problem(0, 4, 6)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    tally = answer_tallies(ours, targets, mask)["loss"]
    (tally.total / tally.number).backward()
    F.cross_entropy(theirs[mask], targets[mask]).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_loss_of_half_precision_is_computed_in_float32() -> None:
    logits, targets, mask = problem(0, 40, 60)
    half = logits.bfloat16()
    total = answer_tallies(half, targets, mask)["loss"].total
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, answer_tallies(half.float(), targets, mask)["loss"].total)


def test_the_classes_add_up_over_batches_of_any_size() -> None:
    logits, targets, mask = problem(1, 20, 5)
    mask[3:9] = False  # a part of them is wholly masked
    whole = {name: float(t.total / t.number) for name, t in answer_tallies(logits, targets, mask).items()}
    classes = [MaskedCrossEntropy(), MaskedTokenAccuracy(), MaskedSequenceAccuracy()]
    for start, end in pairwise([0, 3, 9, 10, 20]):
        part = slice(start, end)
        classes[0].update(logits[part], targets[part], mask[part])
        for metric in classes[1:]:
            metric.update(logits[part].argmax(-1), targets[part], mask[part])
    for metric, value in zip(classes, whole.values(), strict=True):
        torch.testing.assert_close(float(metric.compute()), value)


def test_scores_are_kept_by_name_and_forgotten_on_request() -> None:
    def tally(total: float, number: int) -> Tally:
        return Tally(torch.tensor(total), torch.tensor(number))

    scores = Scores()
    scores.add("test/loss/length=3", tally(1.0, 2))
    assert float(scores.add("test/loss/length=3", tally(2.0, 4)).compute()) == 0.5
    assert float(scores.add("other", tally(1.0, 4)).compute()) == 0.25
    assert not scores.state_dict()
    scores.reset()
    assert float(scores.add("other", tally(3.0, 4)).compute()) == 0.75
    assert [float(value) for value in add_up([tally(1.0, 2), tally(3.0, 3)])] == [4.0, 5.0]
