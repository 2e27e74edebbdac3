"""Images for training, evaluation and probing, as one LightningDataModule.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 4 and appendix E: data sets, their
normalisation, distillation on one set with probing on another. What differs from the authors' code: a validation split
is held out of the training images, so that nothing is selected on the test split; small sets stay in memory on the
training device; order and augmentation are functions of (seed, epoch, sample).
"""

import math
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dinopl.core.random import stream_seed
from dinopl.core.types import ImageBatch, ImageShape
from dinopl.data.images import ImageFiles, ImageStore, open_store
from dinopl.data.indexed import IndexedDataModule, describe, digest, skip_validation, spread
from dinopl.data.loader import ImageLoader
from dinopl.data.order import BatchOrder, EvalSampler, OrderSampler
from dinopl.data.sources import DigitsImages, ImageSource
from dinopl.data.splits import Normalization, Split, SplitImages, nested_subset
from dinopl.data.targets import Targets
from dinopl.data.views import SIDES, ImageView, MultiCrop, WholeImage


class ImageDataModule(IndexedDataModule):
    """Image batches in one order, whatever the number of workers and processes.

    Splits: "train" and "val" are the set's training images without and with those held out, stratified; "test" is its
    test split. A sample's index is its position in its split. Distillation may use a part of "train", or another set
    than probing does; probing gets all of "train" unless ``probe_train_size`` says less.

    Args:
        dataset: the images to train on.
        probe_dataset: the images to probe on, in the same shape; None probes on those of ``dataset``.
        root: folder of all data sets; None takes the environment's ``DINOPL_DATA``, or else ``./data``.
        batch_size: training images per step and process.
        eval_batch_size: images per batch and process where nothing is trained.
        image_size: side in pixels that images are resized to when they are read; None keeps their size.
        rgb: repeat the channel of grey images three times.
        val_size: training images to hold out for validation: a count, or a fraction such as 0.1; 0 for none.
        test_size: test images to use: a count or a fraction, the same ones for every seed; None uses all.
        train_size: images to train on: a count or a fraction of "train", stratified, smaller ones being part of larger
            ones; None uses all. Probing is not affected.
        probe_train_size: images that probes are trained on, likewise; None uses all of "train".
        normalization: what is subtracted and divided by: ``source``, the set's published constants, or else as with
            ``train``; ``train``, mean and deviation of each channel over "train", before ``train_size`` cuts it; or
            ``[mean, std]``, numbers or lists of one number per channel.
        samples_per_epoch: training images of one epoch, drawn anew for each; None: all.
        targets: what is learned instead of the labels, for a supervised ``SelfDistillation``: noisy labels, random
            logits, the image; None leaves the labels. Probes always get the labels.
        views: how each image is seen in training, one object per view, or ``MultiCrop`` for several crops by name; None
            is the whole image. Evaluation always sees the whole image, at the first view's size.
        predict_split: the split of ``dataset`` that ``predict`` runs over.
        drop_last: leave out a last training batch that is not full.
        download: fetch missing data, where they have a source.
        seed: of hold-out, subsets, order and augmentation, each a stream of its own; None derives them from the run's
            seed, and a resumed run then keeps those of its checkpoint.
        num_workers: processes that decode image files; sets in memory need none.
    """

    samples = "images"

    def __init__(
        self,
        dataset: ImageSource = DigitsImages(),  # noqa: B008 - it has no state, and so the command shows it
        probe_dataset: ImageSource | None = None,
        root: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        image_size: int | None = None,
        rgb: bool = False,
        val_size: int | float = 0.1,
        test_size: int | float | None = None,
        train_size: int | float | None = None,
        probe_train_size: int | float | None = None,
        normalization: Normalization = "source",
        samples_per_epoch: int | None = None,
        targets: Targets | None = None,
        views: list[ImageView] | MultiCrop | None = None,
        predict_split: Literal["train", "val", "test"] = "test",
        drop_last: bool = False,
        download: bool = True,
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        numbers = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "image_size": image_size}
        numbers["samples_per_epoch"] = samples_per_epoch
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give a number of at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers}: give 0 or more processes")
        if views is not None and not views:
            raise ValueError("views=[]: give at least one view, or None for the whole image")
        views = views.views if isinstance(views, MultiCrop) else views
        for side in SIDES:
            if views and not any(side in view.seen_by for view in views):
                raise ValueError(f"views: leave the {side} without any; give one whose role is {side} or both")
        if predict_split == "val" and not val_size:
            raise ValueError("predict_split=val: val_size is 0; set it, or predict another split")
        self.dataset = dataset
        self.probe_dataset = probe_dataset
        self.root = Path(root or os.environ.get("DINOPL_DATA") or "data")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.image_size = image_size
        self.rgb = rgb
        self.val_size = val_size
        self.test_size = test_size
        self.train_size = train_size
        self.probe_train_size = probe_train_size
        self.normalization = normalization
        self.samples_per_epoch = samples_per_epoch
        self.targets = targets
        self.views: list[ImageView] = [WholeImage()] if views is None else views
        self.predict_split = predict_split
        self.drop_last = drop_last
        self.download = download
        self.seed = seed
        self.num_workers = num_workers
        if not val_size:
            skip_validation(self)
        shape, probed = self._stored_shape(dataset), self._stored_shape(probe_dataset or dataset)
        if probed != shape:  # before views are made
            raise ValueError(
                f"probe_dataset: its images are {_text(probed)}, those of {dataset.name} {_text(shape)}; "
                "set image_size, and rgb for grey ones"
            )
        size = self.views[0].out_size(shape.height, shape.width)
        self.image_shape = self.input_shape = ImageShape(shape.channels, *size)
        self.num_classes = (probe_dataset or dataset).info(self.root).num_classes
        if not isinstance(normalization, str):
            mean, std = ([part] if isinstance(part, int | float) else part for part in normalization)
            if not {len(mean), len(std)} <= {1, shape.channels} or not all(0 < number < math.inf for number in std):
                raise ValueError(
                    f"normalization={list(normalization)}: give [mean, std], each a number or one for each of the "
                    f"{shape.channels} channels, with deviations above 0"
                )
        self._stream = torch.initial_seed() if seed is None else seed
        self._splits: SplitImages | None = None
        self._probe_splits: SplitImages | None = None
        self._subset = self._probe_subset = torch.arange(0)
        self._stores: dict[tuple[int, torch.device], ImageStore] = {}

    @property
    def deterministic_views(self) -> bool:
        """Whether the training views depend on the image alone."""
        return all(view.deterministic for view in self.views)

    @property
    def num_train(self) -> int:
        """Number of images that are trained on, known after ``setup``; their indices run from 0."""
        self._of(probe=False)
        return len(self._subset)

    @property
    def train_label(self) -> Tensor:
        """Class of each image that is trained on, ``(num_train,)`` int64, known after ``setup``."""
        return self._of(probe=False).label("train")[self._subset]

    def fingerprint(self) -> str:
        """What identifies the images that are trained on and what training sees of them, whatever their source's name.

        Covers every label and row, the content of 64 images, their size and normalisation, and the views' options; not
        the seed of random views.
        """
        splits, rows = self._of(probe=False), self._rows("train")
        sample = rows[spread(len(rows))]
        store = open_store(splits.train, 0, torch.device("cpu"))
        tensors = {"rows": rows, "label": self.train_label, "images": next(store.batches([sample]))}
        facts = {
            "scale": splits.train.scale,
            "mean": splits.mean,
            "std": splits.std,
            "channels": self.image_shape.channels,
            "views": [describe(view) for view in self.views],
        }
        return digest(tensors, facts)

    def reseed(self, seed: int) -> None:
        """Takes ``seed`` instead of the run's, unless the option ``seed`` gave one; data that were read are redrawn."""
        if self.seed is None and seed != self._stream:
            self._stream = seed
            if self._splits is not None:
                self._read()

    def prepare_data(self) -> None:
        """Fetches what is not there. Lightning calls it on one process of a node."""
        for source in (self.dataset, self.probe_dataset):
            if self.download and source is not None:
                source.prepare(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Reads the data and splits them, once.

        "fit" also checks that the batch is not larger than the training data, "validate" that there is something to
        validate on; each, that every process gets images of the splits that are shared out.

        Raises:
            FileNotFoundError: if data are not there.
            ValueError: if data are malformed, or an option does not fit them.
        """
        stream = self.common_stream()
        if self._splits is None or stream != self._stream:
            self._stream = stream
            self._read()
        shared: tuple[Split, ...] = ("test", self.predict_split, *(("val",) if self.val_size else ()))
        self.check_stage(stage, {split: len(self._rows(split)) for split in shared})
        if self.samples_per_epoch is not None and not self.batch_size <= self.samples_per_epoch <= self.num_train:
            raise ValueError(
                f"samples_per_epoch={self.samples_per_epoch}: give from {self.batch_size}, the batch size, to "
                f"{self.num_train}, the training images"
            )

    def teardown(self, stage: str) -> None:
        """Frees the device's copies of the images."""
        self._stores.clear()

    def train_sampler(self) -> OrderSampler:
        """The order of the training batches of this process."""
        _, rank, processes = self.place()
        order = stream_seed("order", self._stream)
        options: Any = {"seed": order, "drop_last": self.drop_last, "count": self.samples_per_epoch}
        sampler = OrderSampler(self.num_train, self.batch_size, rank, processes, **options)
        sampler.repeats = self.overfits
        return sampler

    def train_dataloader(self) -> ImageLoader:
        """Shuffled training batches of this process."""
        label = None
        if self.targets is not None:
            label = self.targets.labels(self.train_label, self.num_classes, stream_seed("targets/train", self._stream))
        return self._loader(False, "train", self.train_sampler(), self.views, label=label, targets=self.targets)

    def indexed_loader(
        self,
        sampler: BatchOrder,
        *,
        augment: bool = True,
        label: Tensor | None = None,
        seed: int | None = None,
        cycle: int | None = None,
    ) -> ImageLoader:
        """A loader of training images in the order of ``sampler``; see ``IndexedDataModule``."""
        views = self.views if augment else [self._whole]
        return self._loader(False, "train", sampler, views, label=label, seed=seed, cycle=cycle)

    def val_dataloader(self) -> ImageLoader:
        """The validation split, un-augmented and in order; with ``val_size`` 0 a trainer finds no such method."""
        return self._eval_loader("val")

    def test_dataloader(self) -> ImageLoader:
        """The test split, un-augmented and in order."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> ImageLoader:
        """The split to predict, un-augmented and in order."""
        return self._eval_loader(self.predict_split)

    def prediction_names(self) -> dict[str, list[str]]:
        """What is written beside predictions: "path" of each sample by its index and "class_names", as far as known."""
        splits = self._of(probe=False)
        images, names = splits.images(self.predict_split), self.dataset.class_names(self.root)
        paths = images.paths if isinstance(images, ImageFiles) else []
        files = [paths[row] for row in self._rows(self.predict_split).tolist()] if paths else []
        return {name: found for name, found in (("path", files), ("class_names", names)) if found}

    def probe_dataloaders(self) -> dict[str, Iterable[ImageBatch]]:
        """The splits to probe, un-augmented and in order, whole on every process; no "val" if none is held out.

        Raises:
            ValueError: if images have no labels.
        """
        splits = self._of(probe=True)
        if min(splits.label(split).min() for split in ("train", "test")) < 0:
            source = self.probe_dataset or self.dataset
            raise ValueError(
                f"probe_dataset: the images of {source.name} have no labels; probe on another set, or leave the "
                "model's probes out"
            )
        names: tuple[Split, ...] = ("train", "val", "test") if self.val_size else ("train", "test")
        return {name: self._eval_loader(name, probe=True) for name in names}

    def _read(self) -> None:
        self._stores.clear()
        self._splits = self._probe_splits = self._read_source(self.dataset)
        if self.probe_dataset is not None:
            self._probe_splits = self._read_source(self.probe_dataset)
        label, probe_label = (splits.label("train") for splits in (self._splits, self._probe_splits))
        self._subset = nested_subset(label, self.train_size, self._stream, "train_size")
        self._probe_subset = nested_subset(probe_label, self.probe_train_size, self._stream, "probe_train_size")

    def _read_source(self, source: ImageSource) -> SplitImages:
        splits = SplitImages(
            source,
            self.root,
            val_size=self.val_size,
            test_size=self.test_size,
            normalization=self.normalization,
            image_size=self.image_size,
            num_workers=self.num_workers,
            seed=self._stream,
        )
        for images in (splits.train, splits.test):
            if len(images) and (most := int(images.label.max())) >= (classes := source.info(self.root).num_classes):
                raise ValueError(f"num_classes={classes}: too few for {source.name} with label {most}; use {most + 1}")
        return splits

    def _of(self, *, probe: bool) -> SplitImages:
        splits = self._probe_splits if probe else self._splits
        if splits is None:
            raise RuntimeError("an ImageDataModule has data after setup(); call that first")
        return splits

    @property
    def _whole(self) -> ImageView:
        return WholeImage(self.image_shape[1:])

    def _eval_loader(self, split: Split, *, probe: bool = False) -> ImageLoader:
        rank, processes = (0, 1) if probe else self.place()[1:]
        sampler = EvalSampler(len(self._rows(split, probe=probe)), self.eval_batch_size, rank, processes)
        targets = None if probe or (self.targets is not None and not self.targets.everywhere) else self.targets
        return self._loader(probe, split, sampler, [self._whole], targets=targets)

    def _rows(self, split: Split, *, probe: bool = False) -> Tensor:
        """Where the samples of a split are, after the cut to a subset."""
        rows = self._of(probe=probe).rows[split]
        if split != "train":
            return rows
        return rows[self._probe_subset if probe else self._subset]

    def _loader(
        self,
        probe: bool,
        split: Split,
        sampler: BatchOrder,
        views: list[ImageView],
        *,
        label: Tensor | None = None,
        seed: int | None = None,
        cycle: int | None = None,
        targets: Targets | None = None,
    ) -> ImageLoader:
        splits, rows, device = self._of(probe=probe), self._rows(split, probe=probe), self.place()[0]
        images = splits.images(split)
        if isinstance(images, ImageFiles):
            store = open_store(images, self.num_workers, device)  # workers of its own for each loader
        else:  # loaders share a tensor
            store = self._stores.get((id(images), device)) or open_store(images, 0, device)
            self._stores[id(images), device] = store
        noise = stream_seed(f"targets/{split}", self._stream)
        return ImageLoader(
            store,
            rows,
            images.label if label is None else images.label.index_copy(0, rows, label),
            sampler,
            device,
            views=views,
            scale=images.scale,
            mean=splits.mean,
            std=splits.std,
            channels=self.image_shape.channels,
            seed=stream_seed("augmentation", self._stream) if seed is None else seed,
            cycle=cycle,
            learn=None if targets is None else partial(targets, num_classes=self.num_classes, seed=noise),
        )

    def _stored_shape(self, source: ImageSource) -> ImageShape:
        """Shape of a set's images once they are read, with channels as the views have them."""
        native = source.info(self.root).shape
        channels = 3 if self.rgb else native.channels
        if self.image_size is None:
            return native._replace(channels=channels)
        if not source.resizable and native[1:] != (self.image_size, self.image_size):
            raise ValueError(
                f"image_size={self.image_size}: {source.name} is {_text(native)}, and resizing would change it; "
                f"give it the size {self.image_size}"
            )
        return ImageShape(channels, self.image_size, self.image_size)


def _text(shape: ImageShape) -> str:
    return "x".join(map(str, shape))
