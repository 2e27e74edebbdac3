"""k-nearest-neighbour probe: exact search, Euclidean distance, unweighted majority vote.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), appendix C.1 (k = 20). What differs: the reference
searches with faiss in float32; here distances come from a float64 matrix product a chunk of queries, so that neither
cancellation nor a reduced-precision product (TF32) decides who is near, for at most twice the time.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dinopl.probes.base import Probe


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
    """
    if k > len(train_x):
        raise ValueError(f"k={k}: is more than the {len(train_x)} training samples; lower it or probe on more samples")
    device = torch.device("cpu") if x.device.type == "mps" else x.device  # which has no float64
    train = train_x.to(device, torch.float64)
    center = train.mean(0)  # small norms cancel less
    train = train - center
    squares = train.square().sum(1)
    labels, predicted = train_y.to(device), []
    for queries in torch.split(x, max(1, chunk_elements // len(train))):
        # ||q - t||^2 without ||q||^2, which does not change a query's order
        distances = torch.addmm(squares, queries.to(device, torch.float64) - center, train.T, alpha=-2)
        nearest = distances.topk(k, largest=False).indices
        predicted.append(F.one_hot(labels[nearest], num_classes).sum(1).argmax(1))
    return torch.cat(predicted).to(x.device)


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
            raise ValueError(f"k={k}: probe {name!r} needs at least 1 neighbour; the paper uses 20")
        self.k = k

    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """See :meth:`Probe.predict`; nothing is random."""
        return knn_predict(train_x, train_y, x, num_classes, k=self.k)
