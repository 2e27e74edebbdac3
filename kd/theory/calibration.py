"""The temperature at which a teacher is calibrated, which is not the one that teaches best.

"On Calibration of Modern Neural Networks" (Guo et al., ICML 2017): dividing logits by a temperature changes a teacher's
probabilities and leaves its accuracy alone. If a teacher helped by being close to the posterior, the best temperature
for distillation would be the one that minimises its negative log-likelihood on held-out samples.
"""

import math

import torch
from torch import Tensor


def calibration_temperature(logits: Tensor, label: Tensor, least: float = 1e-3, most: float = 1e3) -> float:
    """The temperature of least negative log-likelihood, by bisection of its slope, which is monotone in ``1 / T``.

    Args:
        logits: of held-out samples, ``(N, C)``.
        label: ``(N,)`` int64.
        least: what is returned if the optimum is below it: every sample is classified correctly.
        most: what is returned if the optimum is above it: the logits say nothing about the labels.
    """
    logits = logits.double()
    of_label = logits.gather(1, label[:, None]).squeeze(1).mean()

    def slope(temperature: float) -> float:
        """Of the negative log-likelihood in ``1 / T``."""
        expected = (torch.softmax(logits / temperature, dim=1) * logits).sum(dim=1).mean()
        return float(expected - of_label)

    low, high = math.log(least), math.log(most)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) <= 0 else (middle, high)
    return math.exp((low + high) / 2)
