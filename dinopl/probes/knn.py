"""k-nearest-neighbour probe: exact search, Euclidean distance, unweighted majority vote.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), appendix C.1 (k = 20). The reference searches with faiss; here one matrix
product a chunk of queries finds candidates, and their distances are then computed from differences, so that neither
cancellation nor a reduced-precision matrix product (TF32) decides who is near.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dinopl.probes.base import Probe, at_least_float32


def knn_predict(
    train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, *, k: int = 20, chunk_elements: int = 2**24
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
        chunk_elements: upper bound on the elements of a temporary tensor (but one query is always taken whole).

    Returns:
        Predicted classes, ``(M,)`` int64.

    Raises:
        ValueError: if there are fewer than ``k`` training features.
    """
    if k > len(train_x):
        raise ValueError(f"k={k} is more than the {len(train_x)} training samples: lower k or probe on more samples")
    train_x, x = at_least_float32(train_x), at_least_float32(x)
    center = train_x.mean(0)  # small norms cancel less in the matrix product
    train_x, x = train_x - center, x - center
    squares = train_x.square().sum(1)
    candidates = min(2 * k, len(train_x))
    rows = max(1, chunk_elements // max(len(train_x), candidates * train_x.shape[1]))
    predicted = []
    for queries in x.split(rows):
        # ||q - t||^2 without ||q||^2, which does not change a query's order
        near = torch.addmm(squares, queries, train_x.T, alpha=-2).topk(candidates, largest=False).indices
        distance = (train_x[near] - queries[:, None]).square().sum(2)
        nearest = near.gather(1, distance.topk(k, largest=False).indices)
        predicted.append(F.one_hot(train_y[nearest], num_classes).sum(1).argmax(1))
    return torch.cat(predicted)


class KNNProbe(Probe):
    """Majority vote of the nearest training features.

    Args:
        k: number of neighbours.
        name: last part of the probe's metric names.
        standardize: whether features are standardised first, with the training split's statistics.
    """

    def __init__(self, k: int = 20, name: str = "knn", standardize: bool = False) -> None:
        super().__init__(name, standardize)
        if k < 1:
            raise ValueError(f"k={k} of probe {name!r} must be at least 1")
        self.k = k

    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """See :meth:`Probe.predict`; nothing is random."""
        return knn_predict(train_x, train_y, x, num_classes, k=self.k)
