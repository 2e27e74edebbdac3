"""What is watched while a student is trained: parameters, outputs, features, and the variance of the gradient.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), appendix D, and the metrics of its published code.
What differs: each kind has an interval; feature statistics are of the encoder's output unless others are asked for,
since a singular value decomposition of a batch of 65,536 logits takes longer than a step; networks are in eval mode,
so that watching moves no running average; and the start, from which distances are measured, survives a resume.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.optim.optimizer import Optimizer

from dinopl.core.divergences import cross_entropy, entropy, kl_divergence
from dinopl.core.types import ImageBatch, as_batch
from dinopl.distillation.losses import ViewLoss
from dinopl.encoders.common import evaluation
from dinopl.probes.base import FeatureName
from dinopl.probes.features import compared_logits, network_outputs

EXPLAINED = (0.95, 0.99, 0.999)
PARTS = {"all": "", "encoder": "encoder.", "head": "head."}
"""Parts of a network by the beginning of their parameters' names."""

Tensors = Mapping[str, Tensor]


def feature_statistics(x: Tensor, explained: Sequence[float] = EXPLAINED) -> dict[str, float]:
    """Statistics of the features of a batch, ``(N, F)`` with at least two samples.

    Returns:
        By name: ``mean/mean``, ``mean/std``, ``std/mean``, ``std/std``: the inner statistic, the first word, is over
        samples, the outer one over features, deviations being unbiased; ``rank``: torch's matrix rank;
        ``components/explained=p``: how many of the singular values s of the centred features it takes until
        ``cumsum(s) / sum(s)`` would exceed p, as the published code counts them (of s, not of its square);
        ``correlation/mean`` and ``correlation/rank``: of Pearson's correlation between samples, over pairs;
        ``pairwise_distance``: Euclidean, the mean over pairs. Deviations over features and correlations are missing
        where there is a single feature.
    """
    x = x.double()
    std, mean = torch.std_mean(x, dim=0)
    found = {"mean/mean": mean.mean(), "std/mean": std.mean()}
    if x.shape[1] > 1:
        found |= {"mean/std": mean.std(), "std/std": std.std()}
    found["rank"] = torch.linalg.matrix_rank(x.float()).double()
    singular = torch.linalg.svdvals(x - mean)
    shares = singular.cumsum(0) / singular.sum()
    for share in explained:
        found[f"components/explained={share:g}"] = (shares <= share).sum()
    if x.shape[1] > 1:
        rows, columns = torch.triu_indices(len(x), len(x), 1, device=x.device)
        correlation = torch.corrcoef(x)
        found["correlation/mean"] = correlation[rows, columns].mean()
        found["correlation/rank"] = torch.linalg.matrix_rank(torch.nan_to_num(correlation).float()).double()
    found["pairwise_distance"] = F.pdist(x).mean()
    return {name: float(value) for name, value in found.items()}


def paired_statistics(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """How far two networks' features ``(N, F)`` of the same samples are apart, each a mean over samples.

    Returns:
        ``distance``, Euclidean; ``rmse``, that over the square root of F; ``cosine``.
    """
    student, teacher = student.double(), teacher.double()
    distance = torch.linalg.vector_norm(student - teacher, dim=1).mean()
    cosine = F.cosine_similarity(student, teacher, dim=1).mean()
    return {"distance": float(distance), "rmse": float(distance) / student.shape[1] ** 0.5, "cosine": float(cosine)}


def pseudo_label_accuracy(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    """How often the class that the student's mean softmax over views favours is the teacher's.

    Args:
        student: logits of each view, ``(B, m)`` each, as the loss compares them.
        teacher: likewise.
    """
    own, theirs = (torch.stack([view.softmax(1) for view in views]).mean(0).argmax(1) for views in (student, teacher))
    return float((own == theirs).double().mean())


def parameter_statistics(
    student: Tensors, teacher: Tensors, student_start: Tensors, teacher_start: Tensors, gradient: Tensors
) -> dict[str, float]:
    """Lengths, distances and angles of parameters, each argument being one vector in pieces of the same names.

    Args:
        student: theta_S.
        teacher: theta_T.
        student_start: theta_S at the start of training.
        teacher_start: theta_T at the start of training.
        gradient: of the loss in theta_S; pieces may be missing, for 0.

    Returns:
        ``norm/V`` and ``rms/V``, the L2 norm and the root of the mean square, for V of ``student``, ``teacher``,
        ``gradient``, ``difference`` (``theta_T - theta_S``), ``student_move`` and ``teacher_move`` (from the start);
        ``cosine/student_teacher``, ``cosine/gradient_difference``, ``cosine/moves``, NaN where one is 0; ``nans/V`` and
        ``infs/V``, counts in student, teacher and gradient.
    """
    squares: dict[str, Tensor | float] = dict.fromkeys(
        ("student", "teacher", "gradient", "difference", "student_move", "teacher_move"), 0.0
    )
    products: dict[str, Tensor | float] = dict.fromkeys(("student_teacher", "gradient_difference", "moves"), 0.0)
    counts: dict[str, Tensor | int] = {f"{kind}/{v}": 0 for kind in ("nans", "infs") for v in list(squares)[:3]}
    size = 0
    for name, own in student.items():
        theirs = teacher[name]
        slope = gradient[name] if name in gradient else torch.zeros_like(own)
        vectors = {"student": own, "teacher": theirs, "gradient": slope, "difference": theirs - own}
        vectors |= {"student_move": own - student_start[name], "teacher_move": theirs - teacher_start[name]}
        for label, vector in vectors.items():
            squares[label] = squares[label] + torch.linalg.vector_norm(vector, dtype=torch.float64) ** 2
        for label, (a, b) in {
            "student_teacher": (own, theirs),
            "gradient_difference": (slope, vectors["difference"]),
            "moves": (vectors["student_move"], vectors["teacher_move"]),
        }.items():
            products[label] = products[label] + (a * b).sum(dtype=torch.float64)
        for label in list(squares)[:3]:
            counts[f"nans/{label}"] = counts[f"nans/{label}"] + vectors[label].isnan().sum()
            counts[f"infs/{label}"] = counts[f"infs/{label}"] + vectors[label].isinf().sum()
        size += own.numel()
    norms = {label: float(square) ** 0.5 for label, square in squares.items()}
    lengths = {
        "student_teacher": norms["student"] * norms["teacher"],
        "gradient_difference": norms["gradient"] * norms["difference"],
        "moves": norms["student_move"] * norms["teacher_move"],
    }
    return {
        **{f"norm/{label}": norm for label, norm in norms.items()},
        **{f"rms/{label}": norm / size**0.5 for label, norm in norms.items()},
        **{f"cosine/{label}": float(products[label]) / n if n else math.nan for label, n in lengths.items()},
        **{label: float(count) for label, count in counts.items()},
    }


def gradient_variance(
    loss: Callable[..., Tensor], parameters: dict[str, Tensor], *samples: Tensor, chunk: int = 8
) -> dict[str, float]:
    """``sum_i |g - g_i|^2 / (B - 1)`` of the gradients of single samples around their mean, parameter by parameter.

    The sum over all parameters is that of the whole gradient.

    Args:
        loss: of the parameters and one sample, an entry of each of ``samples``, without its first dimension.
        parameters: where the gradients are taken.
        *samples: ``(B, ...)`` each, B of 2 or more.
        chunk: gradients to hold at a time.
    """
    count = len(samples[0])
    if count < 2:
        raise ValueError(f"samples: {count} have no variance; give at least 2")
    per_sample = vmap(grad(loss), in_dims=(None, *(0 for _ in samples)))
    squares = dict.fromkeys(parameters, 0.0)
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}
    for some in zip(*(torch.split(each, chunk) for each in samples), strict=True):
        for name, value in per_sample(parameters, *some).items():
            squares[name] += float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2
            sums[name] += value.sum(0, dtype=torch.float64)
    return {
        name: max(squares[name] - float(sums[name].square().sum()) / count, 0.0) / (count - 1) for name in parameters
    }


class Monitors(Callback):
    """Logs what is watched, each kind at every so many optimiser steps; an interval of 0 switches a kind off.

    Values belong to the parameters before the step whose number they are logged at, 0 for the first:

    - ``params/PART/...`` with PART of ``all``, ``encoder`` and ``head``: see :func:`parameter_statistics`. The gradient
      is that of the step, before it is clipped;
    - ``outputs/...`` on the batch's views, both networks in eval mode: ``kl``, ``cross_entropy``, ``student_entropy``,
      ``teacher_entropy``, each also ``.../view=NUMBER`` where there are several views, and ``pseudo_label_accuracy``;
    - ``hparams/...``, the numbers that the step is taken with, at the same steps as ``outputs/...``; the centres are
      those that the loss subtracts, before it moves them;
    - ``features/NAME/student/...`` and ``features/NAME/teacher/...`` of the first view: see :func:`feature_statistics`;
      ``features/NAME/...``: see :func:`paired_statistics`. NAME is ``encoder``, or another output that is asked for;
    - ``params/PART/gradient_variance``, of the loss between both networks' outputs of the first view, in eval mode.

    The module needs ``student`` and ``teacher``, and for the last a ``loss`` of ``dinopl.distillation.losses``. With
    several processes the first one watches its own batches. Statistics of features and the gradient's variance need two
    samples; a batch of one is passed over with a warning. The start is kept in checkpoints, unless it is that of a
    teacher that never moves.

    Args:
        parameters_every: optimiser steps between two looks at the parameters.
        outputs_every: likewise, at outputs.
        features_every: likewise, at features.
        gradient_variance_every: likewise; off unless given, since it takes a gradient of every sample.
        features: which outputs of the networks have their features looked at.
        gradient_samples: how many samples of the batch the gradient's variance is of.

    Raises:
        ValueError: if an interval is negative, or there are fewer than 2 ``gradient_samples``.
    """

    def __init__(
        self,
        parameters_every: int = 100,
        outputs_every: int = 100,
        features_every: int = 100,
        gradient_variance_every: int = 0,
        features: Sequence[FeatureName] = ("encoder",),
        gradient_samples: int = 32,
    ) -> None:
        self.every = {
            "parameters_every": parameters_every,
            "outputs_every": outputs_every,
            "features_every": features_every,
            "gradient_variance_every": gradient_variance_every,
        }
        for name, every in self.every.items():
            if every < 0:
                raise ValueError(f"{name}={every}: must be at least 1 step, or 0 to switch it off")
        if gradient_samples < 2:
            raise ValueError(f"gradient_samples={gradient_samples}: must be at least 2, to have a variance")
        self.features = tuple(features)
        self.gradient_samples = gradient_samples
        self._start: dict[str, dict[str, Tensor] | None] | None = None
        self._seen: int | None = None
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets an earlier fit.

        Raises:
            ValueError: if the module has no student and teacher, or no loss that the gradient's variance can be of.
        """
        if stage == "fit":
            self._start, self._seen, self._warned = None, None, False
            for name in ("student", "teacher"):
                if not isinstance(getattr(pl_module, name, None), nn.Module):
                    raise ValueError(f"callbacks: Monitors needs a module with a {name}; leave it out of this training")
            every = self.every["gradient_variance_every"]
            if every and not isinstance(getattr(pl_module, "loss", None), ViewLoss):
                raise ValueError(
                    f"gradient_variance_every={every}: needs a module whose loss is a ViewLoss; use 0 to switch it off"
                )

    def state_dict(self) -> dict[str, Any]:
        """Where student and teacher started; None for what stands in a teacher that never moves."""
        return {"start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the start of the run that is resumed."""
        self._start = state_dict["start"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the start, unless a checkpoint had it."""
        if self._start is not None or not self.every["parameters_every"]:
            return
        if trainer.global_step:
            rank_zero_warn(
                f"Monitors: the checkpoint does not hold the start; distances are from step {trainer.global_step}."
            )
        student, teacher = networks(pl_module)
        static = bool(getattr(getattr(pl_module, "teacher_rule", None), "static", False))
        at_teacher = static and all(torch.equal(value, teacher[name]) for name, value in student.items())
        self._start = {
            "student": None if at_teacher else {name: value.clone() for name, value in student.items()},
            "teacher": None if static else {name: value.clone() for name, value in teacher.items()},
        }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Looks at outputs and features, and at the gradient's variance; once where batches are accumulated."""
        step, seen = trainer.global_step, self._seen
        self._seen = step
        due = [name for name, every in self.every.items() if every and step % every == 0 and step != seen]
        if not trainer.is_global_zero or not set(due) - {"parameters_every"}:
            return
        module: Any = pl_module
        values: dict[str, float] = {}
        batch = as_batch(batch)
        student, teacher, views = module.student, module.teacher, batch["views"]
        if len(views[0]) < 2 and (lacking := {"features_every", "gradient_variance_every"}.intersection(due)):
            due = [name for name in due if name not in lacking]
            if not self._warned:
                rank_zero_warn(f"Monitors: the batch at step {step} is one sample, of which there are no statistics.")
            self._warned = True
        if getattr(module, "scheduled", None):  # the module's own hook, which sets the step's numbers, comes after this
            module.advance_all(step)
        with isolate_rng(), evaluation(student), evaluation(teacher), trainer.precision_plugin.forward_context():
            with torch.no_grad():
                if "outputs_every" in due:
                    values |= output_statistics(module, batch) | centres(module)
                if "features_every" in due:
                    both = [network_outputs(each, views[0], self.features) for each in (student, teacher)]
                    for name in self.features:
                        own, theirs = (each[name].flatten(1) for each in both)
                        found = {f"student/{key}": value for key, value in feature_statistics(own).items()}
                        found |= {f"teacher/{key}": value for key, value in feature_statistics(theirs).items()}
                        found |= paired_statistics(own, theirs)
                        values |= {f"features/{name}/{key}": value for key, value in found.items()}
            if "gradient_variance_every" in due:
                found = gradient_variance(
                    lambda parameters, image, target: sample_loss(module, parameters, image, target),
                    networks(module)[0],
                    *samples_and_targets(module, views[0][: self.gradient_samples]),
                )
                for part, prefix in PARTS.items():
                    total = sum(value for name, value in found.items() if name.startswith(prefix))
                    values[f"params/{part}/gradient_variance"] = total
        log(trainer, values)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Looks at the numbers, the parameters and the gradient of the step that follows."""
        every = self.every["outputs_every"]
        if every and trainer.global_step % every == 0 and trainer.is_global_zero:
            log(trainer, hyper_parameters(trainer, pl_module))  # once every schedule has set them for this step
        every = self.every["parameters_every"]
        if not every or trainer.global_step % every or not trainer.is_global_zero or self._start is None:
            return
        student, teacher = networks(pl_module)
        starts = []
        for side in ("student", "teacher"):
            kept = self._start[side]
            starts.append(teacher if kept is None else {name: kept[name].to(own) for name, own in student.items()})
        module: Any = pl_module
        gradient = {n: p.grad for n, p in module.student.named_parameters() if p.grad is not None}
        values: dict[str, float] = {}
        for part, prefix in PARTS.items():
            vectors = [
                {name: value for name, value in vector.items() if name.startswith(prefix)}
                for vector in (student, teacher, *starts, gradient)
            ]
            if vectors[0]:
                found = parameter_statistics(*vectors)
                values |= {f"params/{part}/{name}": value for name, value in found.items()}
        log(trainer, values)


def networks(module: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of student and teacher by name, detached."""
    student, teacher = (
        {name: p.detach() for name, p in network.named_parameters()} for network in (module.student, module.teacher)
    )
    return student, teacher


def output_statistics(module: Any, batch: ImageBatch) -> dict[str, float]:
    """Distances and entropies of both networks' outputs, as the loss compares them; see :class:`Monitors`.

    Distances are of the views that both networks see. A batch says which those are where they do not see all.
    """
    views, logits = batch["views"], {}
    roles: Mapping[str, Any] = batch
    for side in ("student", "teacher"):
        seen = roles.get(f"{side}_views", range(len(views)))
        logits[side] = {i: compared_logits(module, side, getattr(module, side)(views[i])) for i in seen}
    student, teacher = logits["student"], logits["teacher"]
    both = [i for i in student if i in teacher]
    by_view = {
        "kl": {i: kl_divergence(student[i], teacher[i]) for i in both},
        "cross_entropy": {i: cross_entropy(student[i], teacher[i]) for i in both},
        "student_entropy": {i: entropy(view) for i, view in student.items()},
        "teacher_entropy": {i: entropy(view) for i, view in teacher.items()},
    }
    agreement = pseudo_label_accuracy(list(student.values()), list(teacher.values()))
    values = {"outputs/pseudo_label_accuracy": agreement}
    for name, found in by_view.items():
        means = {i: float(each.mean()) for i, each in found.items()}
        values |= {f"outputs/{name}": sum(means.values()) / len(means)} if means else {}
        values |= {f"outputs/{name}/view={i}": mean for i, mean in means.items() if len(views) > 1}
    return values


def hyper_parameters(trainer: Trainer, module: Any) -> dict[str, float]:
    """The numbers that a step is taken with, as far as optimiser, loss and teacher's rule have them."""
    group = trainer.optimizers[0].param_groups[0]
    values = {f"hparams/{name}": group.get(name) for name in ("lr", "weight_decay")}
    loss, rule = getattr(module, "loss", None), getattr(module, "teacher_rule", None)
    values["hparams/teacher_momentum"] = getattr(rule, "momentum", None)
    for side in ("student", "teacher"):
        for name in (f"{side}_temperature", f"{side}_centre_momentum"):
            values[f"hparams/{name}"] = getattr(loss, name, None)
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def centres(module: Any) -> dict[str, float]:
    """Norm and mean of the loss's centres, as far as it has any."""
    values = {}
    for side in ("student", "teacher"):
        if (centre := getattr(getattr(module, "loss", None), f"{side}_centre", None)) is not None:
            values[f"hparams/{side}_centre/norm"] = float(torch.linalg.vector_norm(centre))
            values[f"hparams/{side}_centre/mean"] = float(centre.mean())
    return values


def samples_and_targets(module: Any, images: Tensor) -> Iterator[Tensor]:
    """Images ``(B, C, H, W)``, and the teacher's logits of them as the loss compares them."""
    yield images
    with torch.no_grad():
        yield compared_logits(module, "teacher", module.teacher(images))


def sample_loss(module: Any, parameters: dict[str, Tensor], image: Tensor, teacher: Tensor) -> Tensor:
    """The module's loss of one image ``(C, H, W)`` and the teacher's logits ``(m,)``, at parameters of the student."""
    logits = functional_call(module.student, parameters, (image[None],))
    student, teacher = compared_logits(module, "student", logits), teacher[None]
    log_p, log_q = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    distance: Tensor = module.loss.distance(student, log_p, teacher, log_q, F.softmax(teacher, dim=-1))
    return distance.squeeze(0)


def log(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Gives values to all loggers at the number of optimiser steps taken, and to what monitors a metric.

    Not by Lightning's ``log``, which would pass over steps that are no multiples of its own interval.
    """
    for logger in trainer.loggers if values else ():
        logger.log_metrics(dict(values), step=trainer.global_step)
        logger.save()
    trainer.callback_metrics.update({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
