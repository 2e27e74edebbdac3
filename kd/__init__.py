"""Knowledge distillation against label training as the data fraction varies.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516). The public
names are imported when they are first used, so that ``import kd`` costs next to nothing.

Symbols::

    N, |D_T|     samples that the teacher is trained on                   DataFraction.teacher_index
    M            samples that the student is trained on                   DataFraction.index
    kappa        M / |D_T|, the data fraction                             DataFraction(fraction)
    C, K, V      number of classes; of text, of tokens                    num_classes
    z            the student's logits                                     student
    u            the teacher's logits                                     teacher
    y            the class that the student is given                      label
    T            temperature of both softmax outputs                      Objective.temperature
    alpha        weight of the labels, 1 - alpha of distillation          Mixture(label_weight)
    a_L, a_D     accuracy of label training, of distillation              labels, distilled
    G(kappa)     a_D - a_L, the gain of distillation                      kd.study.gaps

Formulas, each with the function that computes it::

    KL distillation, T^2 KL(p_T(u) || p_T(z))                kd/losses/kl.py:kl_distillation
    its limit for large T, centred logits                    dinopl/core/divergences.py:centred_mean_squared_error
    reverse KL                                               kd/losses/kl.py:reverse_kl
    Jensen-Shannon divergence                                kd/losses/kl.py:jensen_shannon
    soft cross-entropy                                       kd/losses/kl.py:soft_cross_entropy
    cross-entropy to labels                                  kd/losses/labels.py:label_cross_entropy
    label smoothing                                          kd/losses/labels.py:smoothed_cross_entropy
    virtual teacher                                          kd/losses/labels.py:virtual_distillation
    decoupled distillation, the label's part                 kd/losses/decoupled.py:target_class_kl
    decoupled distillation, the other classes' part          kd/losses/decoupled.py:non_target_kl
    labels as logits                                         kd/losses/logits.py:one_hot_mean_squared_error
    the teacher's class alone                                kd/losses/logits.py:hard_cross_entropy
    permuted non-target classes                              kd/targets/rearranged.py:permute_non_targets
    largest logits, the rest level                           kd/targets/reduced.py:top_logits
    class means                                              kd/targets/pooled.py:class_means
    smoothing matched to the teacher's entropy               kd/targets/smoothing.py:smoothing_of_entropy
    smoothing matched to the teacher's confidence            kd/targets/smoothing.py:smoothing_of_confidence
    nested stratified subsets                                kd/fractions.py:draw_subset
    their rule, the first of each class in turn              dinopl/data/subsets.py:first_of_each_class
    label noise that is nested with them                     kd/fractions.py:noisy_labels
    centred kernel alignment (CKA)                           kd/metrics/features.py:linear_cka
    CKA as a loss                                            kd/features/kernels.py:kernel_cka
    similarities between samples as a loss                   kd/features/objectives.py:similarity_difference
    neural collapse, NC1 to NC4                              kd/metrics/features.py:neural_collapse
    expected calibration error                               kd/metrics/predictions.py:calibration_error
    Hellinger distance                                       kd/metrics/predictions.py:hellinger_distance
    gap G(kappa), run by run                                 kd/study.py:gaps
    amplification of the gap at small kappa                  kd/study.py:amplification
    data-efficiency factor kappa' / kappa                    kd/study.py:data_efficiency
    recovered gap (a_D - a_L) / (a_T - a_L)                  kd/study.py:recovered_gap
    log-log slope of the fidelity gap                        kd/study.py:power_law_slope
    linear model, (N - D - 1) / (M - D - 1)                  kd/theory/linear.py:expected_ratio
    variance of the two estimates of a risk                  kd/theory/variance.py:risk_moments
    kernel ridge regression, the cost of noisy labels        kd/theory/linear.py:kernel_outcome
    calibration temperature                                  kd/theory/calibration.py:calibration_temperature
"""

from typing import TYPE_CHECKING

from dinopl.core.lazy import lazy_names

if TYPE_CHECKING:
    from fprnn.baselines import CausalTransformer
    from kd.data import DataFraction
    from kd.features import FeatureCapture, FeatureObjective, refit_head
    from kd.library import TimmClassifier, TorchvisionClassifier
    from kd.losses import KLDistillation, LabelCrossEntropy, Mixture, Objective, TeacherOutputs
    from kd.metrics import FidelityMetrics
    from kd.module import KnowledgeDistillation
    from kd.networks import EncoderClassifier
    from kd.targets import PermutedNonTargets, TargetTransform, WholeTeacher
    from kd.teacher import (
        CachedOutputs,
        NetworkTeacher,
        OnlineOutputs,
        OutputSource,
        RunTeacher,
        SelfDistilledTeacher,
        Teacher,
    )
    from kd.text import TextDataModule

__all__ = [
    "CachedOutputs",
    "CausalTransformer",
    "DataFraction",
    "EncoderClassifier",
    "FeatureCapture",
    "FeatureObjective",
    "FidelityMetrics",
    "KLDistillation",
    "KnowledgeDistillation",
    "LabelCrossEntropy",
    "Mixture",
    "NetworkTeacher",
    "Objective",
    "OnlineOutputs",
    "OutputSource",
    "PermutedNonTargets",
    "RunTeacher",
    "SelfDistilledTeacher",
    "TargetTransform",
    "Teacher",
    "TeacherOutputs",
    "TextDataModule",
    "TimmClassifier",
    "TorchvisionClassifier",
    "WholeTeacher",
    "refit_head",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "kd.data": ["DataFraction"],
        "kd.features": ["FeatureCapture", "FeatureObjective", "refit_head"],
        "kd.library": ["TimmClassifier", "TorchvisionClassifier"],
        "kd.losses": ["KLDistillation", "LabelCrossEntropy", "Mixture", "Objective", "TeacherOutputs"],
        "kd.metrics": ["FidelityMetrics"],
        "kd.module": ["KnowledgeDistillation"],
        "kd.networks": ["EncoderClassifier"],
        "kd.targets": ["PermutedNonTargets", "TargetTransform", "WholeTeacher"],
        "kd.teacher": [
            *("CachedOutputs", "NetworkTeacher", "OnlineOutputs", "OutputSource", "RunTeacher", "SelfDistilledTeacher"),
            "Teacher",
        ],
        "kd.text": ["TextDataModule"],
        "fprnn.baselines": ["CausalTransformer"],
    },
)
