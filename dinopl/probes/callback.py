"""The Lightning callback that probes input, teacher and student while a student is trained, and reports a collapse.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 3: before training, after epochs, and at the
end. What differs from the reference: a probe's seed is the same at every point and for every network, so a frozen
teacher's curve is flat and is measured once; and probing neither reads nor moves the state of training.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from dinopl.core.divergences import entropy
from dinopl.core.random import stream_seed
from dinopl.data.order import OrderSampler
from dinopl.encoders.common import evaluation
from dinopl.probes.base import Probe
from dinopl.probes.collapse import collapsed_features, collapsed_targets, feature_measures, lidar
from dinopl.probes.features import (
    accuracies,
    check_outputs,
    compared_logits,
    extract_several,
    network_outputs,
    probe_loaders,
    sample_count,
)

PREFIXES = {"test": "probe", "val": "probe_val", "collapse": "collapse"}
"""First part of the metric names, by split; of label-free measures their own."""
ENTROPY_SAMPLES = 1024  # training images whose softmax outputs the entropies are means of
LIDAR_IMAGES, LIDAR_VIEWS = 1000, 4  # the paper takes 1,000 and 50


class ProbeCallback(Callback):
    """Probes input, teacher and student: before training, after chosen epochs, and when training ends.

    Metrics are ``probe/{input,teacher,student}/NAME`` on the test split and ``probe_val/...`` on the validation split,
    as fractions. Points of a fit go to the loggers at the number of optimiser steps taken, with the epochs completed as
    ``probe/epoch``, and to ``trainer.callback_metrics``; the progress bar shows the student under the first probe.
    ``trainer.validate`` probes the validation split only and ``trainer.test`` the test split only.

    Points of a fit also hold label-free measures of the encoder's features on the training split,
    ``collapse/{teacher,student}/NAME``: ``rankme``, ``alpha_req`` and ``effective_rank``; ``entropy``, of the softmax
    output as the loss sees it, in nats, where the network has a head; and ``lidar`` where training views are random. A
    warning names what has collapsed: the student's features; and, once the teacher has moved, its features, and its
    targets.

    The module needs ``student.embed`` and ``teacher.embed`` (a teacher that is None is left out); the input is the
    first view, flattened. What cannot change is probed once and reused: the input, and a teacher whose
    ``teacher_rule.static`` is true. Batches come from ``probe_dataloaders()`` of the data module (a dict with "train",
    "val", "test" of what can be iterated over repeatedly); without that, from the loaders that the trainer was given,
    in the data set's order: training with validation in ``fit``, with test in a ``test`` that follows a ``fit``.

    Probes see whole splits whatever ``limit_train_batches`` and its like are, since a probe on less is another
    measurement; but a split that is limited to 0 batches is left out, and under ``fast_dev_run=n`` the first n batches
    of each split are used. Several processes share the work, and know one result: that of one process.

    Args:
        probes: what is trained on the features; their names must differ.
        probe_epochs: after every how many epochs to probe, or after which. Before training and at the end always.
        subjects: the module's networks to probe, besides the input, by the names of its attributes.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        probe_epochs: int | list[int] = 1,
        subjects: Sequence[str] = ("teacher", "student"),
    ) -> None:
        names = [probe.name for probe in probes]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"probes: {repeated[0]!r} is the name of {len(repeated)} probes; give each its own name")
        if isinstance(probe_epochs, int) and probe_epochs < 1:
            raise ValueError(f"probe_epochs={probe_epochs}: must be at least 1, or a list of epochs")
        if not isinstance(probe_epochs, int) and any(epoch < 0 for epoch in probe_epochs):
            raise ValueError(f"probe_epochs={probe_epochs}: must not hold a negative epoch; 0 is before training")
        self.probes = list(probes)
        self.probe_epochs = probe_epochs
        self.subjects = tuple(subjects)
        self._seed = 0
        self._fitted = False
        self._data: Any = None
        self._train_loader: Any = None
        self._kept: dict[str, dict[str, dict[str, float]]] = {}
        self._epochs_completed = 0.0
        self._last_step: int | None = None
        self._last_values: dict[str, float] = {}
        self._teacher_start: float | None = None
        self._collapsed: dict[str, str | None] = {}
        self._warned: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what an earlier run found; a test after a fit on the same data reuses input and static teacher.

        Raises:
            ValueError: if a probe asks for more neighbours than there are training samples, or for an output that a
                network does not have.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" or data is None or data is not self._data:
            self._kept.clear()
        if stage == "fit":
            self._epochs_completed, self._last_step, self._last_values = 0.0, None, {}
            self._teacher_start, self._collapsed, self._warned = None, {}, set()
        self._data = data
        if stage == "fit" or not self._fitted:  # what follows a fit keeps its seed: resuming moves the run's
            self._seed = trainer.strategy.broadcast(stream_seed("probe"))  # without a common seed, each has its own
        self._fitted = self._fitted or stage == "fit"
        for subject in self._networks(pl_module):
            check_outputs(getattr(pl_module, subject), self.probes)
        if self.probes and stage != "predict" and hasattr(data, "probe_dataloaders"):
            samples = sample_count(data.probe_dataloaders()["train"])
            for probe in self.probes:
                if samples is not None:
                    probe.check_samples(samples)

    def _networks(self, pl_module: LightningModule) -> list[str]:
        return [name for name in self.subjects if getattr(pl_module, name, None) is not None]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Forgets the teacher that was probed before."""
        self._kept.clear()

    def state_dict(self) -> dict[str, Any]:
        """When the latest point was taken, what it was, and where the teacher started."""
        return {"step": self._last_step, "values": self._last_values, "teacher_start": self._teacher_start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the latest point, which is not taken again."""
        self._last_step, self._last_values = state_dict["step"], dict(state_dict["values"])
        self._teacher_start = state_dict.get("teacher_start")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the point before training; a resumed run shows its latest point to monitors and progress bar."""
        self._train_loader = trainer.train_dataloader
        if trainer.global_step == 0:
            self._take_point(trainer, pl_module, 0.0)
        else:
            self._show(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes a point after chosen epochs and at a limit of training; checkpoints and early stopping come later."""
        done, batches = trainer.fit_loop.batch_idx + 1, trainer.num_training_batches
        epochs = trainer.current_epoch + (1.0 if batches == float("inf") else min(done / batches, 1.0))
        self._epochs_completed = epochs  # a fraction where training ended within an epoch
        limits = ((epochs, trainer.max_epochs), (trainer.global_step, trainer.max_steps))
        ends = any(limit not in (None, -1) and value >= limit for value, limit in limits)
        every = self.probe_epochs
        if ends or (epochs % every == 0 if isinstance(every, int) else epochs in every):
            self._take_point(trainer, pl_module, epochs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the last point where something else than a limit ended training."""
        self._take_point(trainer, pl_module, self._epochs_completed)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probes the validation split in ``trainer.validate``; not in the validations of a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log_evaluation(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probes the test split in ``trainer.test``."""
        self._log_evaluation(trainer, pl_module, "test")

    def _take_point(self, trainer: Trainer, pl_module: LightningModule, epochs: float) -> None:
        """Measures and logs, unless it was done at this step already."""
        if self._last_step == trainer.global_step:
            return
        values = self._measure(trainer, pl_module, ("test", "val"), collapse=True)
        self._last_step = trainer.global_step
        self._last_values = {**values, "probe/epoch": epochs} if values else {}
        for logger in trainer.loggers if values else ():
            logger.log_metrics(self._last_values, step=trainer.global_step)
            logger.save()
        if values:
            self.warn_of_collapse(trainer, pl_module)
        self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        """Gives the latest point to monitors and progress bar, in the dictionaries that the trainer keeps for a run.

        Lightning's ``log`` is not allowed before and after training, and rounds to float32.
        """
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in self._last_values.items()}
        trainer.callback_metrics.update(tensors)
        trainer.logged_metrics.update(tensors)
        names = [f"{prefix}/student/{probe.name}" for prefix in PREFIXES.values() for probe in self.probes]
        if shown := [name for name in names if name in self._last_values]:
            trainer.progress_bar_metrics[shown[0].split("/", 1)[1]] = self._last_values[shown[0]]

    def _log_evaluation(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        distributed = trainer.world_size > 1
        device = pl_module.device if distributed else torch.device("cpu")
        for name, value in self._measure(trainer, pl_module, (split,)).items():
            # float64, so that a fraction is not rounded; every process has the same, and Lightning asks for sync_dist
            pl_module.log(name, torch.tensor(value, dtype=torch.float64, device=device), sync_dist=distributed)

    def _measure(
        self, trainer: Trainer, pl_module: LightningModule, splits: tuple[str, ...], collapse: bool = False
    ) -> dict[str, float]:
        """Metrics of the splits; with ``collapse`` also the label-free measures. The same on every process."""

        @isolate_rng()
        @torch.inference_mode(False)  # evaluation runs in inference mode, whose tensors cannot be trained on
        def measure() -> dict[str, float]:
            loaders = probe_loaders(trainer, splits, self._train_loader)
            if "train" not in loaders or len(loaders) < 2:
                rank_zero_warn(
                    f"No probing: it needs train and one of {splits}, and there is {list(loaders) or 'nothing'}."
                )
                return {}
            subjects = ("input", *self._networks(pl_module))
            results = {name: self._probe(trainer, pl_module, name, loaders, collapse) for name in subjects}
            return {
                f"{PREFIXES[split]}/{subject}/{name}": value
                for split in (*splits, *(["collapse"] if collapse else []))
                for subject, result in results.items()
                for name, value in result.get(split, {}).items()
            }

        return measure() if self.probes else {}

    def _probe(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        subject: str,
        loaders: Mapping[str, Iterable[Any]],
        collapse: bool,
    ) -> dict[str, dict[str, float]]:
        """Accuracies of a subject by split and probe, from an earlier point where they cannot have changed."""
        kept = self._kept.get(subject, {})
        if kept.keys() >= loaders.keys() - {"train"}:
            return kept
        network: nn.Module = nn.Identity() if subject == "input" else getattr(pl_module, subject)
        probes = [probe for probe in self.probes if subject != "input" or probe.features == "encoder"]
        names = list(dict.fromkeys(["encoder", *(probe.features for probe in probes)]))
        here = {"rank": trainer.global_rank, "processes": trainer.world_size}
        device, precision = pl_module.device, trainer.precision_plugin

        def outputs(images: Tensor) -> dict[str, Tensor]:
            if subject == "input":
                return {"encoder": images}
            # as in training: images are made outside of the context, which changes the default floating-point type
            images = precision.convert_input(images)
            with precision.forward_context():
                return network_outputs(network, images, names)

        with evaluation(network):
            found = {split: extract_several(outputs, batches, device, **here) for split, batches in loaders.items()}
            measures = {}
            if collapse and subject != "input":
                measures = self.label_free(trainer, pl_module, subject, outputs, found["train"]["encoder"].x)
        train = found.pop("train")
        num_classes = getattr(pl_module, "num_classes", None)
        if num_classes is None:
            num_classes = 1 + max(int(split["encoder"].y.max()) for split in (train, *found.values()))
        by_feature = {
            name: accuracies(
                [probe for probe in probes if probe.features == name],
                train[name],
                {split: features[name] for split, features in found.items()},
                num_classes,
                self._seed,
                **here,
            )
            for name in names
        }
        result = {
            split: {probe.name: by_feature[probe.features][split][probe.name] for probe in probes} for split in found
        }
        result["collapse"] = measures
        rule = getattr(pl_module, "teacher_rule", None)
        if subject == "input" or (subject == "teacher" and getattr(rule, "static", False)):
            self._kept[subject] = result
        return result

    def label_free(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        subject: str,
        outputs: Callable[[Tensor], dict[str, Tensor]],
        x: Tensor,
    ) -> dict[str, float]:
        """Label-free measures of a network by name, and in ``_collapsed`` what they say."""
        measures = feature_measures(x)
        text = collapsed_features(measures["effective_rank"], min(len(x) - 1, x.shape[1]))
        self._collapsed[f"{subject}'s features"] = text
        head = getattr(getattr(pl_module, subject), "head", None)
        if head is not None:
            precision = trainer.precision_plugin
            with torch.no_grad(), precision.forward_context():
                logits = head(precision.convert_input(x[:ENTROPY_SAMPLES]))
            measures["entropy"] = float(entropy(compared_logits(pl_module, subject, logits)).mean())
            if subject == "teacher":
                self._collapsed["teacher's targets"] = collapsed_targets(measures["entropy"], logits.shape[1])
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not getattr(data, "deterministic_views", True) and (images := min(LIDAR_IMAGES, data.num_train // 8)) > 1:
            sampler = OrderSampler(images, data.eval_batch_size)
            loader = data.indexed_loader(sampler)

            def passes() -> Iterator[Any]:
                for view in range(LIDAR_VIEWS):  # the augmentation is keyed by the pass
                    sampler.set_epoch(view)
                    yield from loader

            views = extract_several(outputs, passes(), pl_module.device, trainer.global_rank, trainer.world_size)
            measures["lidar"] = lidar(views["encoder"].x.view(LIDAR_VIEWS, images, -1).transpose(0, 1))
        return measures

    def warn_of_collapse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names what has collapsed, each thing once in a run.

        A frozen random teacher's targets are nearly uniform by nature: of a teacher only what has moved counts.
        """
        rule, teacher = getattr(pl_module, "teacher_rule", None), getattr(pl_module, "teacher", None)
        moved = False
        if teacher is not None and not getattr(rule, "static", True):
            place = float(sum(p.detach().double().sum() for p in teacher.parameters()))
            self._teacher_start = place if self._teacher_start is None else self._teacher_start
            moved = place != self._teacher_start
        for what, text in self._collapsed.items():
            if text and what not in self._warned and (moved or not what.startswith("teacher")):
                self._warned.add(what)
                rank_zero_warn(f"collapse of the {what} at step {trainer.global_step}: {text}")
