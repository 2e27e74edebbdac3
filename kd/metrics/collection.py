"""All metrics of a student in one collection."""

from typing import Any

from torchmetrics import Metric, MetricCollection

from kd.metrics.alignment import FeatureAlignment
from kd.metrics.collapse import NeuralCollapse
from kd.metrics.predictions import (
    Agreement,
    BrierScore,
    CentredLogitError,
    ExpectedCalibrationError,
    HellingerDistance,
    LabelAccuracy,
    LogitError,
    NegativeLogLikelihood,
    PredictiveEntropy,
    PredictiveKL,
    ProbabilityDistance,
)


class FidelityMetrics(MetricCollection):
    """A student's predictions, its fidelity to the teacher, and its features.

    ``update`` takes keywords, and each metric the ones that it knows: ``student`` and ``teacher``, logits ``(..., C)``;
    ``label`` ``(...)``; ``index`` ``(B,)``; ``student_features`` and ``teacher_features`` ``(B, d)``; ``weight``, the
    classifier's rows. ``compute`` gives "accuracy", "nll", "brier", "ece" and "entropy"; with a teacher "agreement",
    "kl", "hellinger", "l2", "logit_mse" and "centred_logit_mse"; "cka" and "feature_alignment"; "nc1", "nc2_norm",
    "nc2_angle", "nc3" and "nc4".

    Args:
        num_classes: C.
        teacher: whether there are a teacher's logits.
        alignment: whether there are features of both.
        collapse: whether to measure neural collapse on the student's features; not for text.
        bins: of the calibration error.
        alignment_samples: samples that features are compared on at most.
        collapse_samples: samples that neural collapse is measured on at most.
        prefix: of the names, such as "test/".
    """

    def __init__(
        self,
        num_classes: int,
        teacher: bool = True,
        alignment: bool = False,
        collapse: bool = False,
        bins: int = 15,
        alignment_samples: int = 2000,
        collapse_samples: int = 20_000,
        prefix: str | None = None,
    ) -> None:
        metrics: dict[str, Metric] = {
            "accuracy": LabelAccuracy(num_classes),
            "nll": NegativeLogLikelihood(),
            "brier": BrierScore(),
            "ece": ExpectedCalibrationError(num_classes, bins),
            "entropy": PredictiveEntropy(),
        }
        if teacher:
            metrics |= _fidelity(num_classes)
        if alignment:
            metrics["alignment"] = FeatureAlignment(alignment_samples)
        if collapse:
            metrics["collapse"] = NeuralCollapse(num_classes, collapse_samples)
        # Left to itself, the collection takes metrics for one that are equal on the first batch: accuracy and
        # agreement are where the teacher knows every label of it.
        super().__init__(dict[str, Any](metrics), prefix=prefix, compute_groups=False)


def _fidelity(num_classes: int) -> dict[str, Metric]:
    return {
        "agreement": Agreement(num_classes),
        "kl": PredictiveKL(),
        "hellinger": HellingerDistance(),
        "l2": ProbabilityDistance(),
        "logit_mse": LogitError(),
        "centred_logit_mse": CentredLogitError(),
    }
