"""A fraction of a data set for the student: how much of it, for how many steps, and with which labels.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516): students
are trained on fractions kappa of what their teacher was trained on, on labels or on the teacher's outputs. Both get the
same samples in the same order; only the target differs. What differs from the first author's early code: fractions are
nested and stratified, training lasts as many steps at every fraction unless passes are asked for, and each draw has a
stream of its own.
"""

import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from dinopl.core.random import stream_seed
from dinopl.data.indexed import IndexedDataModule, IndexedLoader
from dinopl.data.subsets import count_of
from kd.fractions import covering_size, draw_subset, index_digest, noisy_labels
from kd.samplers import PassSampler, SelectedSampler, steps_per_pass

# What a trainer calls of a data module, and what the pool's does as it is.
HOOKS_OF_THE_POOL = (
    "prepare_data",
    "teardown",
    "transfer_batch_to_device",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
)


class DataFraction(LightningDataModule):
    """The data of another data module, of whose training samples a fraction is trained on.

    The pool is the other module's training samples. Its validation, test and probing splits stay as they are. A
    sample's index is its index in the pool, whatever the fraction, so outputs of a teacher that are kept by index serve
    all fractions. A teacher is trained with the options of its students and ``fraction`` 1.0 in ``subset`` mode.

    What is not said here is as the other module has it: ``num_classes``, ``input_shape`` and the like, known after
    construction; ``num_train``, ``fingerprint()`` and ``probe_dataloaders()`` of the whole pool, after ``setup``. A
    batch has "visit", the number of the pass over the fraction, in passes after the first.

    Args:
        data: where the samples come from. Its ``drop_last`` leaves out a last batch of a pass that is not full, as
            ``steps_per_epoch`` always does.
        fraction: how many samples the student is trained on, as a multiple of what ``fraction_of`` says.
        fraction_of: what ``fraction`` multiplies: the number of samples that the ``teacher`` is trained on, or that the
            ``pool`` has.
        mode: ``subset``: the student's samples are among the teacher's, or contain them if they are more; ``fresh``:
            they are none of the teacher's.
        teacher_size: samples that the teacher is trained on: a count, or a fraction of the pool such as 0.1; None
            is all of them.
        stratified: whether each class has its proportional share; data without classes are never stratified.
        nested: whether a smaller fraction is part of every larger one; otherwise each size has a draw of its own.
        allow_empty_classes: whether a fraction may have no sample of some class.
        label_noise: probability with which a training label, the teacher's and the student's alike, is replaced by
            another class. Validation and test keep theirs.
        steps_per_epoch: batches of an epoch, over as many passes as that takes: with the trainer's ``max_epochs`` 1 the
            optimiser steps of the whole training, the same for every fraction. None makes an epoch one pass, so that a
            smaller fraction gets fewer steps.
        min_passes: passes that an epoch of ``steps_per_epoch`` has at least; where that takes more steps, it has more.
        augmentations: different augmentations of each sample, which follow one another from pass to pass, so that a
            teacher's outputs on all of them can be kept; None draws a new one in every pass.
        split_seed: what the other module draws its held-out samples from, where its own ``seed`` is None. Teacher and
            students need the same.
        teacher_seed: what the teacher's samples are drawn from.
        noise_seed: what the label noise is drawn from.
        subset_seed: what the student's samples are drawn from; None derives this and the seeds below from the run's
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
        if not (math.isfinite(fraction) and fraction > 0):
            raise ValueError(f"fraction={fraction}: must be above 0; 0.02 is a fiftieth")
        if mode == "fresh" and teacher_size is None:
            raise ValueError("mode=fresh: the teacher has the whole pool; give teacher_size")
        if teacher_size is not None and not teacher_size > 0:
            raise ValueError(
                f"teacher_size={teacher_size}: must be a count or a fraction of the pool; None is all of it"
            )
        if not 0 <= label_noise <= 1:
            raise ValueError(f"label_noise={label_noise}: must be a probability from 0 to 1")
        for name, value in (("steps_per_epoch", steps_per_epoch), ("augmentations", augmentations)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1, or None")
        if min_passes < 0 or (min_passes and steps_per_epoch is None):
            raise ValueError(
                f"min_passes={min_passes}: must be at least 0 and needs steps_per_epoch; for passes alone set the "
                "trainer's max_epochs"
            )
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
        for hook in HOOKS_OF_THE_POOL:  # the base class has them all, so that ``__getattr__`` is not asked for these
            setattr(self, hook, getattr(data, hook))
        self._root = torch.initial_seed()
        # The student's and the teacher's samples, and the class of each sample of the pool, with noise.
        self._selection: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __getattr__(self, name: str) -> Any:
        """What only the other data module has, such as its shapes."""
        if name == "data" or name.startswith("_"):  # asked for while this is being built or copied
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.data, name)

    @property
    def index(self) -> Tensor:
        """The student's samples, ``(M,)`` int64, increasing."""
        return self._selected()[0]

    @property
    def teacher_index(self) -> Tensor:
        """The teacher's samples, increasing, int64."""
        return self._selected()[1]

    @property
    def train_label(self) -> Tensor | None:
        """Class of each sample of the pool, with noise, ``(num_train,)`` int64; None for text."""
        return self._selected()[2]

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
        whole = self.steps_per_epoch is not None or getattr(self.data, "drop_last", False)
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

    def setup(self, stage: str | None = None) -> None:
        """Reads the data and draws the fraction, once.

        Raises:
            FileNotFoundError: if data are not there.
            ValueError: if an option does not fit the data.
        """
        self.data.trainer = self.trainer
        root = self._root if self.trainer is None else self.trainer.strategy.broadcast(self._root)
        self.data.setup(stage)  # type: ignore[arg-type]
        if self._selection is None or root != self._root:
            self._root, self._selection = root, self._select(root)

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
                f"fraction={self.fraction}: draws other samples (SHA-1 {found}) than the checkpoint was trained on "
                f"({state_dict['subset_sha1']}); go on with the data options of its config.yaml"
            )

    def train_sampler(self) -> PassSampler:
        """The order of the training batches of this process."""
        _, rank, processes = self.data.place()
        steps = None if self.steps_per_epoch is None else self.num_steps
        order, drop_last = stream_seed("order", self._seed("order")), getattr(self.data, "drop_last", False)
        size = self.data.batch_size
        sampler = PassSampler(self.index, size, rank, processes, seed=order, steps=steps, drop_last=drop_last)
        sampler.repeats = self.data.overfits
        return sampler

    def train_dataloader(self) -> IndexedLoader:
        """Batches of the fraction in shuffled order, this process's part."""
        return self._loader(self.train_sampler())

    def cache_dataloader(self, augmentation: int = 0, selected: bool = False) -> IndexedLoader:
        """Training samples once, in order of their index, as training sees them under one of the ``augmentations``.

        With ``selected`` they are the student's samples only, with their indices in the pool.
        """
        index = self.index if selected else torch.arange(self.num_train)
        return self._loader(SelectedSampler(index, self.data.batch_size, visit=augmentation))

    def subset_dataloader(self, clean: bool = True) -> IndexedLoader:
        """The fraction as evaluation sees it, un-augmented and in order of the index, shared out among processes.

        If ``clean``, the labels are the samples' own, without noise.
        """
        _, rank, processes = self.data.place()
        sampler = SelectedSampler(self.index, self.data.eval_batch_size, rank, processes)
        return self._loader(sampler, augment=False, label=None if clean else self.train_label)

    def _loader(self, sampler: Any, *, augment: bool = True, label: Tensor | None = None) -> IndexedLoader:
        label = self.train_label if augment else label
        seed = stream_seed("augmentation", self._seed("augmentation"))
        return self.data.indexed_loader(sampler, augment=augment, label=label, seed=seed, cycle=self.augmentations)

    def _seed(self, name: str) -> int:
        given = self.seeds[name]
        return self._root if given is None else given

    def _selected(self) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._selection is None:
            raise RuntimeError("call setup() before asking a DataFraction for its data.")
        return self._selection

    def _steps_per_pass(self) -> int:
        batch = self.data.batch_size * self.data.place()[2]
        whole = self.steps_per_epoch is not None or getattr(self.data, "drop_last", False)
        return steps_per_pass(len(self.index), batch, whole_batches=whole)

    def _select(self, root: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draws the teacher's and the student's samples and the noise."""
        label, count = self.data.train_label, self.num_train
        size = count if self.teacher_size is None else count_of(self.teacher_size, count, "teacher_size")
        left = count - size if self.mode == "fresh" else size
        if size == 0 or left == 0:
            raise ValueError(
                f"teacher_size={self.teacher_size}: leaves no sample of the pool's {count} to "
                f"{'the student' if size else 'the teacher'}; give another size"
            )
        teacher = self._draw(label, count, size, self.teacher_seed)

        pool = torch.arange(count)
        if self.mode == "fresh":
            pool = torch.ones(count, dtype=torch.bool).index_fill(0, teacher, False).nonzero().squeeze(1)
        drawn = None if label is None else label[pool]
        base = len(teacher) if self.fraction_of == "teacher" else count
        size = round(self.fraction * base)
        if not 1 <= size <= len(pool):
            most = f"give at most {math.floor(1e6 * len(pool) / base) / 1e6:g}"
            raise ValueError(
                f"fraction={self.fraction}: is {size} samples, of {base} ({self.fraction_of}), and there are "
                f"{len(pool)} to draw from; {most if size else self._least_fraction(drawn, base)}"
            )
        seed = self.seeds["subset"]
        seed = root if seed is None else seed
        first = teacher if self.mode == "subset" else None
        index = pool[self._draw(drawn, len(pool), size, seed, first)]
        if label is not None and drawn is not None:
            self._check_classes(label, drawn, label[index], base)
        if self.label_noise:
            if label is None:
                raise ValueError(f"label_noise={self.label_noise}: these samples have no single class; set it to 0")
            label = noisy_labels(label, self.label_noise, self.num_classes, stream_seed("noise", self.noise_seed))
        return index, teacher, label

    def _draw(self, label: Tensor | None, count: int, size: int, seed: int, first: Tensor | None = None) -> Tensor:
        """``size`` of ``count`` samples, in strata of their labels if that is asked for."""
        classes = label if self.stratified else None
        return draw_subset(classes, count, size, stream_seed("subset", seed), first=first, nested=self.nested)

    def _least_fraction(self, label: Tensor | None, base: int) -> str:
        """The least fraction that has every class of those drawn from; without strata, that may have."""
        count = 1
        if label is not None and not self.allow_empty_classes:
            count = covering_size(label) if self.stratified else len(torch.unique(label))
        return f"give at least {math.ceil(1e6 * count / base) / 1e6:g} ({_samples(count)})"

    def _check_classes(self, pool: Tensor, drawn_from: Tensor, drawn: Tensor, base: int) -> None:
        """Refuses a fraction without any sample of some class, unless that was asked for; all are labels."""
        classes, there, found = (len(torch.unique(label)) for label in (pool, drawn_from, drawn))
        if found == classes or self.allow_empty_classes:
            return
        remedy = self._least_fraction(drawn_from, base) if self.stratified else "draw more, set stratified to true"
        if there < classes:
            remedy = f"leave more than {len(drawn_from)} to draw from by a smaller teacher_size"
        raise ValueError(
            f"fraction={self.fraction}: its {_samples(len(drawn))} leave{'s' if len(drawn) == 1 else ''} "
            f"{classes - found} of {classes} classes without any; {remedy}, or set allow_empty_classes to true"
        )


def _samples(count: int) -> str:
    return f"{count} sample{'' if count == 1 else 's'}"
