"""Objectives on features: equal features, equal similarities between samples, equal kernels up to scale.

Section 5 of the study: a student may match its teacher inside, not only at the output. Feature regression is that of
"FitNets" (Romero et al., ICLR 2015); the similarity objective is the authors' early code's; CKA is "Similarity of
Neural Network Representations Revisited" (Kornblith et al., ICML 2019), as a loss. Unlike an
:class:`kd.losses.Objective`, these may compare samples with one another, so they return one number a batch, to be
added to the mean of the objective.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.precision import at_least_float32
from dinopl.core.random import seeded, stream_seed
from kd.features.capture import FeatureObjective
from kd.features.kernels import kernel_cka, spectral_power


class FeatureMSE(FeatureObjective):
    """Mean squared difference of the features.

    Where widths differ, a learned linear map (for images a 1 x 1 convolution) takes the student's to the teacher's
    width. It is trained with the student and serves nothing but this loss.

    Args:
        student: dotted names of the student's modules; ``:input`` behind a name means what goes into the module.
        teacher: the teacher's, in the same order; None means the same names.
        weight: what the distance is multiplied by before it is added to the objective.
        regressor: put the map in between even where widths agree; false refuses widths that differ.
        seed: of the map's initialisation; None takes the stream "regressor" of the run's seed.
    """

    def __init__(
        self,
        student: list[str],
        teacher: list[str] | None = None,
        weight: float = 1.0,
        regressor: bool | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(student, teacher, weight)
        self.regressor = regressor
        self.seed = stream_seed("regressor") if seed is None else seed
        self.regressors = nn.ModuleList()

    def connect(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
        """Makes the maps; ValueError if widths differ and may not, or anything but the width differs."""
        with seeded(self.seed):
            maps = [self._map(student[s], teacher[t], f"{s!r} and {t!r}") for s, t in self.pairs()]
        self.regressors = nn.ModuleList(maps)

    def distance(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        """``mean (map(student) - teacher)^2``."""
        if not self.regressors:
            raise RuntimeError(
                "call connect() before the optimiser is made: FeatureMSE depends on the features' shapes"
            )
        return F.mse_loss(self.regressors[pair](student), teacher)

    def _map(self, student: Tensor, teacher: Tensor, names: str) -> nn.Module:
        """What takes the student's features to the teacher's width."""
        ours, theirs = tuple(student.shape[1:]), tuple(teacher.shape[1:])
        mapped = ours != theirs if self.regressor is None else self.regressor
        width = 0 if len(ours) == 3 else -1  # images are (channels, height, width), tokens (length, width)
        rest = [list(shape[1:] if width == 0 else shape[:-1]) for shape in (ours, theirs)]
        if ours != theirs and not (mapped and len(ours) == len(theirs) and rest[0] == rest[1]):
            raise ValueError(
                f"student={names}: their features are {ours} and {theirs} per sample and cannot be compared; name "
                "modules whose features differ in width only, and leave regressor at None"
            )
        if not mapped:
            return nn.Identity()
        layer = nn.Linear(ours[-1], theirs[-1]) if width else nn.Conv2d(ours[0], theirs[0], kernel_size=1)
        return layer.to(student.device)


class SimilarityMatching(FeatureObjective):
    """Squared difference of the cosine similarities between the samples of a batch, as a mean over pairs of samples.

    Args:
        student: dotted names of the student's modules; ``:input`` behind a name means what goes into the module.
        teacher: the teacher's, in the same order; None means the same names.
        weight: what the distance is multiplied by before it is added to the objective.
        norm_weight: of the student's mean feature norm, which cosines leave free; it is not multiplied by ``weight``.
    """

    def __init__(
        self,
        student: list[str],
        teacher: list[str] | None = None,
        weight: float = 300.0,
        norm_weight: float = 0.01,
    ) -> None:
        super().__init__(student, teacher, weight)
        self.norm_weight = norm_weight

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """The weighted distance plus the weighted mean norm."""
        norms = [at_least_float32(student[name]).flatten(1).norm(dim=1).mean() for name in self.student_modules]
        return super().forward(student, teacher) + self.norm_weight * torch.stack(norms).mean()

    def distance(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`similarity_difference`."""
        return similarity_difference(student, teacher)


def similarity_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum_ij (n(s_i) n(s_j)^T - n(t_i) n(t_j)^T)^2 / (B (B - 1))`` with unit rows n: a scalar.

    Features are ``(B, ...)``, of any width. Under autocast the products are rounded; :class:`SimilarityMatching`
    switches it off.
    """
    s, t = (F.normalize(at_least_float32(x).flatten(1), dim=1) for x in (student, teacher))
    return (s @ s.T - t @ t.T).square().sum() / max(len(s) * (len(s) - 1), 1)


class CKAMatching(FeatureObjective):
    """``1 - CKA`` of the linear kernels of a batch: equal features up to rotation and scale cost nothing.

    Args:
        student: dotted names of the student's modules; ``:input`` behind a name means what goes into the module.
        teacher: the teacher's, in the same order; None means the same names.
        weight: what the distance is multiplied by before it is added to the objective.
        power: the eigenvalues of the teacher's kernel are raised to it; below 1 small directions count more.
        filter_student: raise the student's as well.
    """

    def __init__(
        self,
        student: list[str],
        teacher: list[str] | None = None,
        weight: float = 1.0,
        power: float = 1.0,
        filter_student: bool = False,
    ) -> None:
        super().__init__(student, teacher, weight)
        if not power > 0:
            raise ValueError(f"power={power}: must be above 0; 1 leaves the kernels as they are")
        self.power = power
        self.filter_student = filter_student

    def distance(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        """``1 - CKA`` of the two kernels ``(B, B)``."""
        ours, theirs = (x.flatten(1) @ x.flatten(1).T for x in (student, teacher))
        if self.power != 1:
            theirs = spectral_power(theirs, self.power)
            ours = spectral_power(ours, self.power) if self.filter_student else ours
        return 1 - kernel_cka(ours, theirs)
