"""Stratified subsets that are nested: a smaller one is contained in every larger one of the same seed.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 4 and Figure 4: how the number of images
changes what a student learns. Nested subsets keep that curve free of the noise of redrawing. What differs from the
authors' code, which rounds each class down: sizes are exact, and class counts follow the quota method (Balinski and
Young, "The quota method of apportionment", American Mathematical Monthly 1975), whose seats never move when the house
grows and whose every count is its proportional quota rounded down or up.
"""

import numpy as np
import torch
from torch import Tensor


def class_sequence(counts: list[int], size: int) -> list[int]:
    """Classes of the first ``size`` samples of a nested stratified order, from the number of samples of each class.

    Each prefix of length ``m`` holds class ``c`` either ``floor(m * p)`` or ``ceil(m * p)`` times, where ``p`` is the
    class's part of all samples.
    """
    if len(set(counts)) == 1:  # what follows takes each class in turn, but not as fast
        return [m % len(counts) for m in range(size)]
    available = np.asarray(counts, dtype=np.int64)
    total = available.sum()
    given = np.zeros_like(available)
    sequence = []
    for m in range(1, size + 1):
        # One more must not exceed the upper quota; among those, Jefferson's divisor decides. Exact in integers.
        eligible = given * total < m * available
        chosen = int(np.argmax(np.where(eligible, available / (given + 1), -1.0)))
        given[chosen] += 1
        sequence.append(chosen)
    return sequence


def first_of_each_class(order: Tensor, label: Tensor, size: int) -> Tensor:
    """The first ``size`` samples of an order in which every class has its proportional part, to within one sample.

    Args:
        order: a permutation of the samples, ``(N,)`` int64.
        label: class of each sample, ``(N,)`` integers.
        size: number of samples wanted, 1 to N.

    Returns:
        Samples in increasing order. In the same order of samples, those of any smaller size are among them.
    """
    _, classes, counts = torch.unique(label.cpu(), return_inverse=True, return_counts=True)
    wanted = counts  # of each class; all, without walking through the whole sequence of classes
    if size < len(label):
        wanted = torch.bincount(torch.tensor(class_sequence(counts.tolist(), size)), minlength=len(counts))
    # A stable sort by class leaves each class's samples together and in the given order. A sample's place in its class
    # is then its position less the position where its class begins, and it is taken if that is below the class's count.
    # One pass for all classes, where a loop over them would read all labels once for each.
    by_class = order[classes[order].argsort(stable=True)]
    begin = counts.cumsum(0) - counts
    place = torch.arange(len(label)) - begin[classes[by_class]]
    return by_class[place < wanted[classes[by_class]]].sort().values


def stratified_subset(label: Tensor, size: int, seed: int | None = None) -> Tensor:
    """Rows of a subset of ``size`` samples in which every class has its proportional part, to within one sample.

    Args:
        label: class of each sample, ``(N,)`` integers.
        size: number of samples wanted, 1 to N.
        seed: which samples of a class come first; None takes them in data set order.

    Returns:
        Rows in increasing order, ``(size,)`` int64. With the same seed, the rows of any smaller size are among them.

    Raises:
        ValueError: if ``label`` is not one-dimensional and of integers, or ``size`` is out of range.
    """
    _check(label, size, largest=len(label))
    if seed is None:
        return first_of_each_class(torch.arange(len(label)), label, size)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    return first_of_each_class(order, label, size)


def stratified_split(label: Tensor, size: int, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """All rows as a rest and a stratified part of ``size`` samples that is held out, both increasing.

    Raises:
        ValueError: as for ``stratified_subset``, whose arguments these are; the rest must not be empty.
    """
    _check(label, size, largest=len(label) - 1)
    held = stratified_subset(label, size, seed)
    rest = torch.ones(len(label), dtype=torch.bool)
    rest[held] = False
    return rest.nonzero().squeeze(1), held


def count_of(size: int | float, total: int, name: str) -> int:
    """Number of samples of a size that is a count or a fraction of ``total``; ``name`` is the argument that holds it.

    A floating-point number up to 1 is a fraction; a whole number is a count, also as 500.0, which is what a command
    line may make of 500.

    Raises:
        ValueError: if ``size`` is negative, more than there are, or neither whole nor a fraction.
    """
    if isinstance(size, float) and 0 <= size <= 1:
        return round(size * total)
    if isinstance(size, bool) or not 0 <= size <= total or size != int(size):
        raise ValueError(f"{name}={size}: give a count of at most {total} images, or a fraction from 0.0 to 1.0")
    return int(size)


def _check(label: Tensor, size: int, largest: int) -> None:
    if label.ndim != 1 or label.is_floating_point() or label.dtype == torch.bool:
        raise ValueError(f"labels must be one integer per sample, got {label.dtype} of shape {tuple(label.shape)}")
    if not 1 <= size <= largest:
        raise ValueError(f"cannot take {size} of {len(label)} samples; give a number from 1 to {largest}")
