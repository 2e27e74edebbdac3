"""Linear probe: one linear layer on frozen features, trained for a fixed number of epochs.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 3 and table 1. As in the
reference, the budget is fixed and the accuracy is that of the last epoch, so the raw probe depends on the features'
scale. What differs: batches are drawn anew in every epoch (``frozen_order`` is the reference's behaviour), and the
gradient of the softmax regression is written out, which halves the time of a step that is too small for automatic
differentiation to be worth it.
"""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from dinopl.core.precision import at_least_float32
from dinopl.probes.base import FeatureName, Probe


def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    x: Tensor,
    num_classes: int,
    *,
    seed: int,
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    frozen_order: bool = False,
) -> Tensor:
    """Classes that a linear layer predicts after its last epoch of AdamW on the cross-entropy.

    Weights and biases start uniform in ``[-1/sqrt(D), 1/sqrt(D)]``; initialisation and batch order come from one CPU
    generator, so they are the same on every device.

    Args:
        train_x: training features, ``(N, D)``.
        train_y: their classes, ``(N,)`` int64.
        x: features to classify, ``(M, D)``.
        num_classes: number of classes.
        seed: of the probe's generator.
        epochs: passes over the training features.
        batch_size: samples per step; the last batch of an epoch may be smaller.
        lr: AdamW's learning rate (betas 0.9 and 0.999).
        weight_decay: AdamW's, on weights and biases alike.
        frozen_order: the reference's quirk: every epoch has the same batches in the same order.

    Returns:
        Predicted classes, ``(M,)`` int64.
    """
    train_x, x = at_least_float32(train_x), at_least_float32(x)
    generator = Generator().manual_seed(seed)
    bound = train_x.shape[1] ** -0.5
    # drawn on the CPU in float32, weight first, whatever the features' device and type
    weight, bias = (
        torch.empty(shape, dtype=torch.float32, device="cpu").uniform_(-bound, bound, generator=generator).to(train_x)
        for shape in ((num_classes, train_x.shape[1]), (num_classes,))
    )
    target = F.one_hot(train_y, num_classes).to(train_x.dtype)
    optimizer = AdamW([weight, bias], lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)
    order = _epoch_order(train_x, generator)
    for epoch in range(epochs):
        if epoch and not frozen_order:
            order = _epoch_order(train_x, generator)
        for batch in torch.split(order, batch_size):
            weight.grad, bias.grad = softmax_regression_gradient(weight, bias, train_x[batch], target[batch])
            optimizer.step()
    return torch.addmm(bias, x, weight.T).argmax(1)


def softmax_regression_gradient(weight: Tensor, bias: Tensor, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of :func:`softmax_regression_loss` in weight and bias, written out.

    Args:
        weight: ``(K, D)``.
        bias: ``(K,)``.
        x: features, ``(B, D)``.
        target: one-hot classes, ``(B, K)``.
    """
    error = (torch.addmm(bias, x, weight.T).softmax(1) - target) / len(x)  # d(loss)/d(logits)
    return error.T @ x, error.sum(0)


def softmax_regression_loss(weight: Tensor, bias: Tensor, x: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy, a scalar: what the gradient above is tested against, by autograd."""
    return F.cross_entropy(F.linear(x, weight, bias), target)


def _epoch_order(features: Tensor, generator: Generator) -> Tensor:
    return torch.randperm(len(features), generator=generator, device="cpu").to(features.device)


class LinearProbe(Probe):
    """Linear classifier, trained with AdamW for a fixed number of epochs; its accuracy is the last epoch's.

    Args:
        name: last part of the probe's metric names.
        standardize: whether features are standardised first, with the training split's statistics.
        epochs: passes over the training features.
        batch_size: samples per step.
        lr: learning rate.
        weight_decay: AdamW's weight decay, on weights and biases alike.
        frozen_order: the reference's quirk: every epoch has the same batches in the same order.
        seed: of initialisation and order; None takes the stream "probe" of the run's seed.
        features: which output of a network is probed; see :class:`Probe`.
    """

    def __init__(
        self,
        name: str = "linear",
        standardize: bool = False,
        epochs: int = 10,
        batch_size: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        frozen_order: bool = False,
        seed: int | None = None,
        features: FeatureName = "encoder",
    ) -> None:
        super().__init__(name, standardize, features)
        for option, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{option}={value}: probe {name!r} needs at least 1")
        if not lr > 0:
            raise ValueError(f"lr={lr}: probe {name!r} needs a number above 0")
        if weight_decay < 0:
            raise ValueError(f"weight_decay={weight_decay}: probe {name!r} needs at least 0, which switches it off")
        self.seed = seed
        self.options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
        self.options |= {"weight_decay": weight_decay, "frozen_order": frozen_order}

    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """See :meth:`Probe.predict`; a seed of the probe's own wins over ``seed``."""
        seed = seed if self.seed is None else self.seed
        return linear_probe(train_x, train_y, x, num_classes, seed=seed, **self.options)
