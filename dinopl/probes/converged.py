"""Probes that scikit-learn solves to convergence: logistic regression and linear discriminant analysis.

Later than "Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), where the linear
probe has a fixed budget: these have none, so they show what a linear readout can reach. No hyper-parameter is selected;
the settings are scikit-learn's defaults.
"""

from typing import Any

import torch
from torch import Tensor

from dinopl.probes.base import FeatureName, Probe


class LogisticRegressionProbe(Probe):
    """Multinomial logistic regression with an L2 penalty, solved to convergence on the CPU in float64.

    Args:
        name: last part of the probe's metric names.
        standardize: whether features are standardised first, with the training split's statistics.
        inverse_penalty: scikit-learn's ``C``: larger values penalise less.
        max_iter: iterations at which the solver gives up, with scikit-learn's ``ConvergenceWarning``.
        features: which output of a network is probed; see :class:`Probe`.
    """

    def __init__(
        self,
        name: str = "logistic_regression",
        standardize: bool = False,
        inverse_penalty: float = 1.0,
        max_iter: int = 10_000,
        features: FeatureName = "encoder",
    ) -> None:
        super().__init__(name, standardize, features)
        if not inverse_penalty > 0:
            raise ValueError(f"inverse_penalty={inverse_penalty}: probe {name!r} needs a number above 0")
        if max_iter < 1:
            raise ValueError(f"max_iter={max_iter}: probe {name!r} needs at least 1")
        self.inverse_penalty = inverse_penalty
        self.max_iter = max_iter

    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """See :meth:`Probe.predict`; nothing is random."""
        from sklearn.linear_model import LogisticRegression

        return _predict_on_cpu(LogisticRegression(C=self.inverse_penalty, max_iter=self.max_iter), train_x, train_y, x)


class LDAProbe(Probe):
    """Linear discriminant analysis (scikit-learn's default solver), on the CPU in float64.

    Args:
        name: last part of the probe's metric names.
        features: which output of a network is probed; see :class:`Probe`.
    """

    def __init__(self, name: str = "lda", features: FeatureName = "encoder") -> None:
        super().__init__(name, features=features)  # the method standardises within classes by itself

    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """See :meth:`Probe.predict`; nothing is random."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        return _predict_on_cpu(LinearDiscriminantAnalysis(), train_x, train_y, x)


def _predict_on_cpu(classifier: Any, train_x: Tensor, train_y: Tensor, x: Tensor) -> Tensor:
    """Fits a scikit-learn classifier; its predictions come back on the features' device."""
    classifier.fit(train_x.double().cpu().numpy(), train_y.cpu().numpy())
    return torch.as_tensor(classifier.predict(x.double().cpu().numpy()), device=x.device)
