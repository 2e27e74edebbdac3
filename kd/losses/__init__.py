"""What a student minimises: pure functions on logits, and the objects that a configuration names."""

from dinopl.core.divergences import centred_mean_squared_error
from kd.losses.base import Distillation, LabelObjective, Objective, TeacherOutputs
from kd.losses.decoupled import DecoupledKL, non_target_kl, target_class_kl
from kd.losses.kl import (
    JensenShannon,
    KLDistillation,
    ReverseKL,
    SoftCrossEntropy,
    jensen_shannon,
    kl_distillation,
    reverse_kl,
    soft_cross_entropy,
)
from kd.losses.labels import (
    FeaturesAlone,
    LabelCrossEntropy,
    LabelSmoothing,
    VirtualTeacher,
    label_cross_entropy,
    smoothed_cross_entropy,
    virtual_distillation,
    virtual_teacher,
)
from kd.losses.logits import (
    HardTeacher,
    LogitMSE,
    OneHotMSE,
    PartialLogitMSE,
    hard_cross_entropy,
    logit_margin,
    one_hot_mean_squared_error,
)
from kd.losses.mixtures import ConfidenceWeighted, Mixture, WhereTeacherKnows

__all__ = [
    "ConfidenceWeighted",
    "DecoupledKL",
    "Distillation",
    "FeaturesAlone",
    "HardTeacher",
    "JensenShannon",
    "KLDistillation",
    "LabelCrossEntropy",
    "LabelObjective",
    "LabelSmoothing",
    "LogitMSE",
    "Mixture",
    "Objective",
    "OneHotMSE",
    "PartialLogitMSE",
    "ReverseKL",
    "SoftCrossEntropy",
    "TeacherOutputs",
    "VirtualTeacher",
    "WhereTeacherKnows",
    "centred_mean_squared_error",
    "hard_cross_entropy",
    "jensen_shannon",
    "kl_distillation",
    "label_cross_entropy",
    "logit_margin",
    "non_target_kl",
    "one_hot_mean_squared_error",
    "reverse_kl",
    "smoothed_cross_entropy",
    "soft_cross_entropy",
    "target_class_kl",
    "virtual_distillation",
    "virtual_teacher",
]
