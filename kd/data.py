"""A fraction of a data set for the student: how much of it, for how many steps, and with which labels.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516): students
are trained on fractions kappa of what their teacher was trained on, on labels or on the teacher's outputs. Both get the
same samples in the same order; only the target differs. What differs from the first author's early code: fractions are
nested and stratified, training lasts as many steps at every fraction unless passes are asked for, and each draw has a
stream of its own.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from dinopl.core.seeds import stream_seed
from dinopl.core.types import ImageBatch, ImageShape
from dinopl.data.indexed import IndexedDataModule, IndexedLoader, skip_validation
from dinopl.data.subsets import count_of
from dinopl.data.views import ImageView
from kd.fractions import covering_size, draw_subset, index_digest, noisy_labels
from kd.samplers import PassSampler, SelectedSampler, steps_per_pass


class Selection(NamedTuple):
    """Which samples of the pool a run trains on."""

    student: Tensor
    """The student's samples, ``(M,)`` int64, increasing."""
    teacher: Tensor
    """The teacher's samples, likewise."""
    label: Tensor | None
    """Class of each sample of the pool, with noise; None where samples have no single class."""


class DataFraction(LightningDataModule):
    """The data of another data module, of whose training samples a fraction is trained on.

    The pool is the other module's training samples. Its validation, test and probing splits stay as they are. A
    sample's index is its index in the pool, whatever the fraction, so outputs of a teacher that are kept by index serve
    all fractions. A teacher is trained with the options of its students and ``fraction`` 1.0 in ``subset`` mode.

    Known after construction: ``image_shape`` or, for text, ``vocab_size``; ``input_shape``; ``num_classes``. A batch
    has "visit", the number of the pass over the fraction, in passes after the first.

    Args:
        data: where the samples come from; what a last batch that is not full comes to is decided here, not there.
        fraction: how many samples the student is trained on, as a multiple of what ``fraction_of`` says.
        fraction_of: what ``fraction`` multiplies: the number of samples that the ``teacher`` is trained on, or that the
            ``pool`` has.
        mode: ``subset``: the student's samples are among the teacher's, or contain them if they are more; ``fresh``:
            they are none of the teacher's.
        teacher_size: samples that the teacher is trained on: a count, or a fraction of the pool such as 0.1; null
            is all of them.
        stratified: whether each class has its proportional share; data without classes are never stratified.
        nested: whether a smaller fraction is part of every larger one; otherwise each size has a draw of its own.
        allow_empty_classes: whether a fraction may leave out a class whole.
        label_noise: probability with which a training label, the teacher's and the student's alike, is replaced by
            another class. Validation and test keep theirs.
        steps_per_epoch: batches of an epoch, over as many passes as that takes: with the trainer's ``max_epochs`` 1 the
            optimiser steps of the whole training, the same for every fraction. Null makes an epoch one pass, so that a
            smaller fraction gets fewer steps.
        min_passes: passes that an epoch of ``steps_per_epoch`` has at least; where that takes more steps, it has more.
        augmentations: different augmentations of each sample, which follow one another from pass to pass, so that a
            teacher's outputs on all of them can be kept; null draws a new one in every pass.
        split_seed: what the other module draws its held-out samples from, where its own ``seed`` is null. Teacher and
            students need the same.
        teacher_seed: what the teacher's samples are drawn from.
        noise_seed: what the label noise is drawn from.
        subset_seed: what the student's samples are drawn from; null derives this and the seeds below from the run's
            seed, each a stream of its own, and a resumed run then keeps those of its checkpoint.
        order_seed: what the order of the batches is drawn from.
        augmentation_seed: what augmentation is drawn from.

    Raises:
        ValueError: if an option is out of range, here or, where that takes the data, in ``setup``.
    """

    def __init__(
        self,
        data: IndexedDataModule,
        fraction: float = 1.0,
        fraction_of: Literal["teacher", "pool"] = "teacher",
        mode: Literal["subset", "fresh"] = "subset",
        teacher_size: int | float | None = None,
        stratified: bool = True,
        nested: bool = True,
        allow_empty_classes: bool = False,
        label_noise: float = 0.0,
        steps_per_epoch: int | None = None,
        min_passes: int = 0,
        augmentations: int | None = None,
        split_seed: int = 0,
        teacher_seed: int = 0,
        noise_seed: int = 0,
        subset_seed: int | None = None,
        order_seed: int | None = None,
        augmentation_seed: int | None = None,
    ) -> None:
        super().__init__()
        _check_fraction(fraction, mode, teacher_size, label_noise)
        _check_budget(steps_per_epoch, min_passes, augmentations)
        self.data = data
        self.fraction = fraction
        self.fraction_of = fraction_of
        self.mode = mode
        self.teacher_size = teacher_size
        self.stratified = stratified
        self.nested = nested
        self.allow_empty_classes = allow_empty_classes
        self.label_noise = label_noise
        self.steps_per_epoch = steps_per_epoch
        self.min_passes = min_passes
        self.augmentations = augmentations
        self.teacher_seed = teacher_seed
        self.noise_seed = noise_seed
        self.seeds = {"subset": subset_seed, "order": order_seed, "augmentation": augmentation_seed}
        self.data.reseed(split_seed)
        if not data.val_size:
            skip_validation(self)
        self._root = torch.initial_seed()
        self._selection: Selection | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes that a label may have."""
        return self.data.num_classes

    @property
    def image_shape(self) -> ImageShape:
        """Shape of an image; missing where the samples are none."""
        return self.data.image_shape  # type: ignore[attr-defined]

    @property
    def input_shape(self) -> Any:
        """Shape of a sample, of whatever kind: ``ImageShape`` or ``TextShape``."""
        return self.data.input_shape

    @property
    def views(self) -> list[ImageView]:
        """How an image is seen in training; missing where the samples are none."""
        return self.data.views  # type: ignore[attr-defined]

    @property
    def deterministic_views(self) -> bool:
        """Whether what training sees of a sample depends on its index alone."""
        return self.data.deterministic_views

    @property
    def num_train(self) -> int:
        """Number of samples of the pool: indices run from 0 to below it. Known after ``setup``, as all that follows."""
        return self.data.num_train

    @property
    def index(self) -> Tensor:
        """The student's samples, ``(M,)`` int64, increasing."""
        return self._selected().student

    @property
    def teacher_index(self) -> Tensor:
        """The teacher's samples, increasing, int64."""
        return self._selected().teacher

    @property
    def train_label(self) -> Tensor | None:
        """Class of each sample of the pool, with noise, ``(num_train,)`` int64; None for text."""
        return self._selected().label

    @property
    def num_steps(self) -> int:
        """Batches of an epoch."""
        if self.steps_per_epoch is None:
            return self._steps_per_pass()
        return max(self.steps_per_epoch, self.min_passes * self._steps_per_pass())

    def facts(self) -> dict[str, Any]:
        """What a result must say about the data, in plain values."""
        size, teacher, pool = len(self.index), len(self.teacher_index), self.num_train
        batch = self.data.batch_size * self.data.place()[2]
        whole = self.steps_per_epoch is not None
        return {
            "fingerprint": self.data.fingerprint(),
            "pool_size": pool,
            "teacher_size": teacher,
            "subset_size": size,
            "fraction_of_teacher": size / teacher,
            "fraction_of_pool": size / pool,
            "mode": self.mode,
            "subset_sha1": index_digest(self.index),
            "label_noise": self.label_noise,
            "seeds": {name: self._seed(name) for name in self.seeds}
            | {"teacher": self.teacher_seed, "noise": self.noise_seed},
            "steps_per_epoch": self.num_steps,
            "passes_per_epoch": self.num_steps / self._steps_per_pass(),
            "samples_per_epoch": self.num_steps * min(batch, size) if whole else size,
        }

    def fingerprint(self) -> str:
        """What identifies the pool, whatever fraction of it is trained on."""
        return self.data.fingerprint()

    def prepare_data(self) -> None:
        """Fetches what is not there."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Reads the data and draws the fraction, once.

        Args:
            stage: as for the other data module.

        Raises:
            FileNotFoundError: if data are not there.
            ValueError: if an option does not fit the data.
        """
        self.data.trainer = self.trainer
        root = self._root if self.trainer is None else self.trainer.strategy.broadcast(self._root)
        with _options_one_level_down():
            self.data.setup(stage)  # type: ignore[arg-type]
        if self._selection is None or root != self._root:
            self._root, self._selection = root, self._select(root)

    def teardown(self, stage: str) -> None:
        """Frees the device's copies of the data."""
        self.data.teardown(stage)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As the other data module does."""
        return self.data.transfer_batch_to_device(batch, device, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """The seed that streams are derived from, and which samples were drawn."""
        return {"seed": self._root, "subset_sha1": None if self._selection is None else index_digest(self.index)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the checkpoint's seed; options that gave a stream's seed stay.

        Raises:
            ValueError: if the fraction is then another one than the checkpoint's.
        """
        self._root = state_dict["seed"]
        if self._selection is None:
            return
        self._selection = self._select(self._root)
        found = index_digest(self.index)
        if state_dict["subset_sha1"] not in (None, found):
            raise ValueError(
                f"--ckpt_path: it was trained on other samples (SHA-1 {state_dict['subset_sha1']}) than --data.fraction"
                f" {self.fraction} draws here ({found}); go on with the data options of its config.yaml."
            )

    def train_dataloader(self) -> IndexedLoader:
        """Batches of the fraction in shuffled order, this process's part."""
        _, rank, processes = self.data.place()
        steps = None if self.steps_per_epoch is None else self.num_steps
        order = stream_seed("order", self._seed("order"))
        return self._loader(PassSampler(self.index, self.data.batch_size, rank, processes, seed=order, steps=steps))

    def cache_dataloader(self, augmentation: int = 0, selected: bool = False) -> IndexedLoader:
        """Training samples once, in order of their index, as training sees them: for what is computed once and kept.

        Args:
            augmentation: which of the ``augmentations``, 0 where there is but one.
            selected: the student's samples only, instead of the whole pool; their indices are the same.
        """
        index = self.index if selected else torch.arange(self.num_train)
        return self._loader(SelectedSampler(index, self.data.batch_size, visit=augmentation))

    def subset_dataloader(self, clean: bool = True) -> IndexedLoader:
        """The fraction as evaluation sees it, un-augmented and in order of the index, shared out among processes.

        Args:
            clean: with the samples' own labels, instead of those with noise.
        """
        _, rank, processes = self.data.place()
        sampler = SelectedSampler(self.index, self.data.eval_batch_size, rank, processes)
        return self._loader(sampler, augment=False, label=None if clean else self.train_label)

    def val_dataloader(self) -> Any:
        """The other module's; with its ``val_size`` 0 a trainer finds no such method."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> Any:
        """The other module's."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> Any:
        """The other module's."""
        return self.data.predict_dataloader()

    def probe_dataloaders(self) -> dict[str, Iterable[ImageBatch]]:
        """The other module's: the training split is the whole pool with its own labels."""
        return self.data.probe_dataloaders()

    def _loader(self, sampler: Any, *, augment: bool = True, label: Tensor | None = None) -> IndexedLoader:
        label = self.train_label if augment else label
        seed = stream_seed("augmentation", self._seed("augmentation"))
        return self.data.indexed_loader(sampler, augment=augment, label=label, seed=seed, cycle=self.augmentations)

    def _seed(self, name: str) -> int:
        given = self.seeds[name]
        return self._root if given is None else given

    def _selected(self) -> Selection:
        if self._selection is None:
            raise RuntimeError("call setup() before asking a DataFraction for its data.")
        return self._selection

    def _steps_per_pass(self) -> int:
        batch = self.data.batch_size * self.data.place()[2]
        return steps_per_pass(len(self.index), batch, whole_batches=self.steps_per_epoch is not None)

    def _select(self, root: int) -> Selection:
        """Draws the teacher's and the student's samples and the noise."""
        label = self.data.train_label
        teacher = self._draw(label, self._teacher_count(), self.teacher_seed)
        seed = self.seeds["subset"]
        seed = root if seed is None else seed
        pool = torch.arange(self.num_train)
        if self.mode == "fresh":
            pool = torch.ones(self.num_train, dtype=torch.bool).index_fill(0, teacher, False).nonzero().squeeze(1)
        drawn = None if label is None else label[pool]
        size = self._student_count(len(teacher), len(pool), drawn)
        first = teacher if self.mode == "subset" else None
        index = pool[self._draw(drawn, size, seed, count=len(pool), first=first)]
        if label is not None:
            self._check_classes(label, pool, index, len(teacher))
        return Selection(index, teacher, self._with_noise(label))

    def _draw(
        self, label: Tensor | None, size: int, seed: int, *, count: int | None = None, first: Tensor | None = None
    ) -> Tensor:
        count = self.num_train if count is None else count
        classes = label if self.stratified else None
        return draw_subset(classes, count, size, stream_seed("subset", seed), first=first, nested=self.nested)

    def _teacher_count(self) -> int:
        pool = self.num_train
        count = pool if self.teacher_size is None else count_of(self.teacher_size, pool, "--data.teacher_size")
        left = pool - count if self.mode == "fresh" else count
        if count == 0 or left == 0:
            who = "the student" if count else "the teacher"
            raise ValueError(
                f"--data.teacher_size {self.teacher_size}: that leaves no sample of the pool's {pool} to {who}; "
                "give another size."
            )
        return count

    def _base(self, teacher: int) -> int:
        """What the fraction multiplies."""
        return teacher if self.fraction_of == "teacher" else self.num_train

    def _student_count(self, teacher: int, available: int, label: Tensor | None) -> int:
        base = self._base(teacher)
        size = round(self.fraction * base)
        if not 1 <= size <= available:
            most = f"give at most {math.floor(1e6 * available / base) / 1e6:g}"
            raise ValueError(
                f"--data.fraction {self.fraction}: that is {size} samples, of {base} ({self.fraction_of}), and there "
                f"are {available} to draw from; {most if size else self._at_least(label, teacher)}."
            )
        return size

    def _at_least(self, label: Tensor | None, teacher: int) -> str:
        """The least fraction that has every class of those drawn from; without strata, that may have."""
        count = 1
        if label is not None and not self.allow_empty_classes:
            count = covering_size(label) if self.stratified else len(torch.unique(label))
        return f"give at least {math.ceil(1e6 * count / self._base(teacher)) / 1e6:g} ({_counted(count)})"

    def _check_classes(self, label: Tensor, pool: Tensor, index: Tensor, teacher: int) -> None:
        """Refuses a fraction without any sample of some class, unless that was asked for."""
        classes, there, found = (len(torch.unique(part)) for part in (label, label[pool], label[index]))
        if found == classes or self.allow_empty_classes:
            return
        enough = self._at_least(label[pool], teacher) if self.stratified else "draw more, set --data.stratified true"
        if there < classes:
            enough = f"leave more than {len(pool)} to draw from by a smaller --data.teacher_size"
        raise ValueError(
            f"--data.fraction {self.fraction}: its {_counted(len(index))} leave{'s' if len(index) == 1 else ''} "
            f"{classes - found} of {classes} classes without any; {enough}, or set --data.allow_empty_classes true."
        )

    def _with_noise(self, label: Tensor | None) -> Tensor | None:
        if not self.label_noise:
            return label
        if label is None:
            raise ValueError(f"--data.label_noise {self.label_noise}: these samples have no single class; set it to 0.")
        return noisy_labels(label, self.label_noise, self.num_classes, stream_seed("noise", self.noise_seed))


def _counted(samples: int) -> str:
    return f"{samples} sample{'' if samples == 1 else 's'}"


@contextmanager
def _options_one_level_down() -> Iterator[None]:
    """Lets messages of the module inside name its options as the command line does here."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(str(error).replace("--data.", "--data.data.")) from error


def _check_fraction(fraction: float, mode: str, teacher_size: int | float | None, label_noise: float) -> None:
    if not (math.isfinite(fraction) and fraction > 0):
        raise ValueError(f"--data.fraction {fraction}: give a number above 0, such as 0.02.")
    if mode == "fresh" and teacher_size is None:
        raise ValueError("--data.mode fresh: the teacher has the whole pool; give --data.teacher_size.")
    if teacher_size is not None and not teacher_size > 0:
        raise ValueError(f"--data.teacher_size {teacher_size}: give a count, a fraction of the pool, or null.")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"--data.label_noise {label_noise}: give a probability from 0 to 1.")


def _check_budget(steps_per_epoch: int | None, min_passes: int, augmentations: int | None) -> None:
    for option, value in (("steps_per_epoch", steps_per_epoch), ("augmentations", augmentations)):
        if value is not None and value < 1:
            raise ValueError(f"--data.{option} {value}: give a number of at least 1, or null.")
    if min_passes < 0 or (min_passes and steps_per_epoch is None):
        raise ValueError(
            f"--data.min_passes {min_passes}: give 0 or more, and with it --data.steps_per_epoch; for passes alone set "
            "--trainer.max_epochs."
        )
