"""Values that are kept by sample index."""

import pytest
import torch

from dinopl.data.indexed import IndexedValues

CPU = torch.device("cpu")


@pytest.mark.parametrize("index", [None, torch.tensor([4, 1, 7])], ids=["all samples", "some samples"])
def test_values_are_found_in_any_order_whatever_batches_they_came_in(index: torch.Tensor | None) -> None:
    known = torch.arange(9) if index is None else index
    values = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0))
    kept = IndexedValues(9, index, CPU)
    for batch in known.flip(0).split(2):
        kept.put(batch, values[batch])
    assert torch.equal(kept.take(known.roll(1)), values[known.roll(1)])


def test_a_sample_that_is_not_kept_fails_and_finds_no_others_value() -> None:
    kept = IndexedValues(9, torch.tensor([4, 1]), CPU)
    kept.put(torch.tensor([1, 4]), torch.ones(2, 3))
    with pytest.raises(IndexError):
        kept.take(torch.tensor([2]))
