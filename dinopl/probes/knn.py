"""k-nearest-neighbour probes by exact search: unweighted majority vote, and DINO's vote weighted by cosine similarity.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), appendix C.1 (Euclidean distance, k = 20, majority),
and "Emerging Properties in Self-Supervised Vision Transformers" (Caron et al., ICCV 2021), section 4.1 (cosine, k = 20,
weights ``exp(similarity / 0.07)``). What differs: the reference of the first searches with faiss in float32. Here
neither cancellation nor a reduced-precision product (TF32) decides who is near. Small problems take distances from a
float64 matrix product. Large ones on a CPU take a float32 product, twice as fast, with a bound on its error: where the
bound leaves open who is among the k nearest, the nearest few are compared in float64.

Memory is bounded on both sides: training features are converted a part at a time, and distances are held of a part of
the queries to a part of the training features.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dinopl.core.precision import at_least_float32
from dinopl.probes.base import FeatureName, Probe

SMALL = 2**34  # multiplications up to which float64 is used throughout: 1.7e10, a fraction of a second
TRAIN_ELEMENTS = 2**24  # most numbers of the training features that are held in float64 at a time: 128 MiB
BLOCKS = 32  # distances of a query among which the smallest is taken before anything is sorted
SPARE = 12  # candidates that the float32 search keeps beyond k


def knn_predict(
    train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, *, k: int = 20, chunk_elements: int = 2**22
) -> Tensor:
    """Classes by majority vote of the ``k`` nearest training features; a tie goes to the smallest label.

    Which of several training features at exactly the same distance count as the last neighbours is left to
    ``torch.topk``.

    Args:
        train_x: training features, ``(N, D)``.
        train_y: their classes, ``(N,)`` int64.
        x: features to classify, ``(M, D)``.
        num_classes: number of classes.
        k: number of neighbours, at most ``N``.
        chunk_elements: most distances to hold at a time (but at least one query's).

    Returns:
        Predicted classes, ``(M,)`` int64.

    Raises:
        ValueError: if there are fewer than ``k`` training features.

    Example:
        >>> train_x, train_y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([1, 1, 0])
        >>> knn_predict(train_x, train_y, torch.tensor([[0.4], [6.0]]), num_classes=2, k=1)
        tensor([1, 0])
    """
    nearest = nearest_neighbors(train_x, x, k, chunk_elements=chunk_elements)
    labels = train_y.to(nearest.device)
    votes = [F.one_hot(labels[part], num_classes).sum(1).argmax(1) for part in torch.split(nearest, 4096)]
    return torch.cat(votes).to(x.device) if votes else nearest.new_empty(0)


def weighted_knn_predict(
    train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classes by the vote of the ``k`` training features of largest cosine, each with ``exp(cosine / temperature)``.

    Features are divided by their norm first; one of zeros stays and has cosine 0 to all. Arguments, result and errors
    are those of :func:`knn_predict`.

    Args:
        train_x: training features, ``(N, D)``.
        train_y: their classes, ``(N,)`` int64.
        x: features to classify, ``(M, D)``.
        num_classes: number of classes.
        k: number of neighbours, at most ``N``.
        temperature: of the weights; DINO's is 0.07.
    """
    units, queries = (F.normalize(at_least_float32(part), dim=1) for part in (train_x, x))
    zero = [(part == 0).all(1) for part in (units, queries)]
    if zero[0].any() or zero[1].any():
        # Of unit vectors the nearest are those of largest cosine. So what is zero gets a direction of its own.
        own = torch.eye(2).to(units)
        units, queries = (
            torch.cat([part, is_zero[:, None] * own[side]], 1)
            for side, (part, is_zero) in enumerate(zip((units, queries), zero, strict=True))
        )
    nearest = nearest_neighbors(units, queries, k)
    labels, predicted = train_y.to(nearest.device), []
    for part, query in zip(torch.split(nearest, 1024), torch.split(queries, 1024), strict=True):
        wide = query.to(nearest.device, torch.float64)
        cosine = torch.stack([(units[column].to(wide) * wide).sum(1) for column in part.to(units.device).T], dim=1)
        # less the largest possible cosine, so that no weight overflows at a small temperature
        weights = ((cosine - 1) / temperature).exp()
        votes = weights.new_zeros(len(part), num_classes).scatter_add_(1, labels[part], weights)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted).to(x.device)


def nearest_neighbors(train_x: Tensor, x: Tensor, k: int, *, chunk_elements: int = 2**22) -> Tensor:
    """Positions of the ``k`` training features that are nearest to each query, in any order.

    Args:
        train_x: training features, ``(N, D)``.
        x: queries, ``(M, D)``.
        k: number of neighbours, at most ``N``.
        chunk_elements: most distances to hold at a time (but at least one query's).

    Returns:
        ``(M, k)`` int64, on the queries' device, or on the CPU where that has no float64.

    Raises:
        ValueError: if there are fewer than ``k`` training features.
    """
    if k > len(train_x):
        raise ValueError(f"k={k}: is more than the {len(train_x)} training samples; lower it or probe on more samples")
    # A reduced-precision product, if one was asked for, would be beyond the error that the float32 search allows for.
    plain = x.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    if plain and len(train_x) * len(x) * x.shape[1] > SMALL and x.dtype != torch.float64:
        return neighbors_in_float32(train_x, x, k)
    return neighbors_in_float64(train_x, x, k, chunk_elements=chunk_elements)


def neighbors_in_float64(train_x: Tensor, x: Tensor, k: int, *, chunk_elements: int = 2**22) -> Tensor:
    """:func:`nearest_neighbors` by a float64 matrix product, nearest first."""
    device = torch.device("cpu") if x.device.type == "mps" else x.device  # which has no float64
    parts = torch.split(train_x, max(1, TRAIN_ELEMENTS // train_x.shape[1]))
    center = sum(part.to(device, torch.float64).sum(0) for part in parts) / len(train_x)  # small norms cancel less
    best = x.new_empty(len(x), 0, dtype=torch.float64, device=device)
    nearest = best.long()
    for first, part in zip(range(0, len(train_x), len(parts[0])), parts, strict=True):
        train = part.to(device, torch.float64) - center
        squares = train.square().sum(1)
        found = []
        for queries in torch.split(x, max(1, chunk_elements // len(train))):
            # ||q - t||^2 without ||q||^2, which does not change a query's order
            distances = torch.addmm(squares, queries.to(device, torch.float64) - center, train.T, alpha=-2)
            found.append(distances.topk(min(k, len(train)), largest=False))
        values, places = (torch.cat(column) for column in zip(*found, strict=True))
        values, places = torch.cat([best, values], 1), torch.cat([nearest, places + first], 1)
        best, nearest = smallest(values, places, min(k, values.shape[1]))
    return nearest


def neighbors_in_float32(train_x: Tensor, x: Tensor, k: int, *, chunk_elements: int = 2**24) -> Tensor:
    """:func:`nearest_neighbors` by a float32 matrix product whose error is bounded; exact all the same.

    With ``u = 2^-24``, norms ``|q|`` and ``|t| <= 1``, a distance ``|t|^2 - 2 q.t`` that float32 adds up from D
    products of rounded numbers is wrong by at most ``B = u ((2 D + 10) |q| + 5)``. Of the ``k + 12`` smallest, the
    first k are the nearest where the next is more than ``2 B`` further. Elsewhere those candidates are compared in
    float64, which decides where the k-th is nearer by more than ``B`` than the last candidate. What is still open is
    searched in float64 throughout.
    """
    kept, width = min(k + SPARE, len(train_x)), train_x.shape[1]
    exactly = torch.promote_types(torch.promote_types(train_x.dtype, x.dtype), torch.float32)
    slices = torch.split(train_x, 4096)
    center = torch.stack([part.sum(0, dtype=torch.float64) for part in slices]).sum(0).div(len(train_x)).to(exactly)
    longest = max(float((part.to(exactly) - center).double().square().sum(1).max()) for part in slices) ** 0.5
    scale = 2.0 ** math.ceil(math.log2(longest)) if 0 < longest < math.inf else 1.0  # by which division is exact
    queries = torch.cat([((part.to(exactly) - center) / scale).float() for part in torch.split(x, 4096)])
    best, nearest = queries.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64)
    parts = torch.split(train_x, max(1, 4 * TRAIN_ELEMENTS // width))
    for first, part in zip(range(0, len(train_x), len(parts[0])), parts, strict=True):
        blocks = -(-len(part) // BLOCKS)
        train, squares = queries.new_zeros(blocks * BLOCKS, width), queries.new_full((blocks * BLOCKS,), torch.inf)
        for low in range(0, len(part), 4096):
            rows = (part[low : low + 4096].to(exactly) - center) / scale
            train[low : low + len(rows)], squares[low : low + len(rows)] = rows, rows.double().square().sum(1)
        step = max(1, chunk_elements // len(train))
        buffer, found = queries.new_empty(min(step, len(x)), len(train)), []
        column = torch.arange(BLOCKS)[:, None] * blocks
        for some in torch.split(queries, step):
            distances = torch.addmm(squares, some, train.T, alpha=-2, out=buffer[: len(some)])
            # The smallest few are in as few blocks: those whose smallest distance is smallest.
            least = distances.view(-1, BLOCKS, blocks).amin(1)
            chosen = least.topk(min(kept, blocks), largest=False).indices
            places = (chosen[:, None] + column).flatten(1)
            found.append(smallest(distances.gather(1, places), places, min(kept, len(part))))
        values, places = (torch.cat(list(column)) for column in zip(*found, strict=True))
        values, places = torch.cat([best, values], 1), torch.cat([nearest, places + first], 1)
        best, nearest = smallest(values, places, min(kept, values.shape[1]))
    norms = torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64)
    bound = 2**-24 * ((2 * width + 10) * norms + 5)
    open_ = (best[:, k] - best[:, k - 1] <= 2 * bound) if kept > k else torch.ones(len(x), dtype=torch.bool)
    open_ |= ~best.isfinite().all(1)  # queries too far away for float32
    result = nearest[:, :k].clone()
    for some in torch.split(open_.nonzero().flatten(), max(1, 2**22 // (kept * width))):
        candidates, query = nearest[some], x[some].double()
        exact = (train_x[candidates].double() - query[:, None]).square().sum(2)
        exact, places = smallest(exact, candidates, k)
        beyond = best[some, -1] + norms[some].square() - bound[some]  # the least distance of what is no candidate
        decided = (exact[:, -1] / scale**2 < beyond) if kept < len(train_x) else torch.ones(len(some), dtype=torch.bool)
        if not decided.all():
            places[~decided] = neighbors_in_float64(train_x, x[some[~decided]], k)
        result[some] = places
    return result


def smallest(values: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` smallest values of each row, ascending, and what stands at their place in ``places``."""
    values, order = values.topk(count, largest=False)
    return values, places.gather(1, order)


class KNNProbe(Probe):
    """Majority vote of the nearest training features.

    Args:
        k: number of neighbours.
        name: last part of the probe's metric names.
        standardize: whether features are standardised first, with the training split's statistics.
        features: which output of a network is probed; see :class:`Probe`.
    """

    splits_queries: ClassVar[bool] = True

    def __init__(
        self, k: int = 20, name: str = "knn", standardize: bool = False, features: FeatureName = "encoder"
    ) -> None:
        super().__init__(name, standardize, features)
        if k < 1:
            raise ValueError(f"k={k}: probe {name!r} needs at least 1 neighbour; the paper uses 20")
        self.k = k

    def check_samples(self, samples: int) -> None:
        """Raises a ``ValueError`` if there are fewer than k training samples."""
        if self.k > samples:
            raise ValueError(
                f"probes: k={self.k} of {self.name!r} is more than the {samples} samples that probes are "
                "trained on; lower k or probe on more samples"
            )

    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """See :meth:`Probe.predict`; nothing is random."""
        return knn_predict(train_x, train_y, x, num_classes, k=self.k)


class WeightedKNNProbe(KNNProbe):
    """Vote of the training features of largest cosine, weighted by ``exp(cosine / temperature)``: DINO's k-NN.

    Args:
        k: number of neighbours.
        temperature: of the weights.
        name: last part of the probe's metric names.
        standardize: whether features are standardised first, with the training split's statistics.
        features: which output of a network is probed; see :class:`Probe`.
    """

    def __init__(
        self,
        k: int = 20,
        temperature: float = 0.07,
        name: str = "knn_weighted",
        standardize: bool = False,
        features: FeatureName = "encoder",
    ) -> None:
        super().__init__(k, name, standardize, features)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: probe {name!r} needs a number above 0; DINO uses 0.07")
        self.temperature = temperature

    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """See :meth:`Probe.predict`; nothing is random."""
        return weighted_knn_predict(train_x, train_y, x, num_classes, k=self.k, temperature=self.temperature)
