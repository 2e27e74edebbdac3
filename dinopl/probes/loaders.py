"""Which batches the probes see: the data module's own, or what the trainer was given."""

from collections.abc import Iterable, Sized
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, IterableDataset

from dinopl.data.loader import ImageLoader


def probe_loaders(trainer: Trainer, splits: Iterable[str], train: Any = None) -> dict[str, Iterable[Any]]:
    """Batches to probe, by split.

    They come from ``probe_dataloaders()`` of the data module; without that, from the loaders that the trainer holds.

    Args:
        trainer: within a run.
        splits: of "val" and "test".
        train: training loader of an earlier run, for a run that has none: the trainer forgets it after a fit.

    Returns:
        "train" and those of ``splits`` that exist and are not limited to 0 batches. Under ``fast_dev_run=n`` only the
        first n batches of each.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if hasattr(data, "probe_dataloaders"):
        loaders = data.probe_dataloaders()
    else:
        held = {
            "train": train if trainer.train_dataloader is None else trainer.train_dataloader,
            "val": trainer.val_dataloaders,
            "test": trainer.test_dataloaders,
        }
        loaders = {split: in_order(loader) for split, loader in held.items() if loader is not None}
    limits = {"train": 1, "val": trainer.limit_val_batches, "test": trainer.limit_test_batches}
    wanted = {split: loaders[split] for split in ("train", *splits) if split in loaders and limits[split] != 0}
    if batches := int(trainer.fast_dev_run):  # type: ignore[attr-defined]
        return {split: list(islice(loader, batches)) for split, loader in wanted.items()}
    return wanted


def in_order(loader: Any) -> Iterable[Any]:
    """A loader's whole data set in its order, whatever the sampler; the loader as it is where that is impossible.

    So a shuffled loader's generator is left alone, and one process sees what is otherwise spread over several.

    Raises:
        ValueError: if there are several loaders.
    """
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if isinstance(loader, list | tuple | dict):
        raise ValueError(
            f"probes need one loader per split, got {len(loader)}; give a data module with probe_dataloaders()"
        )
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return loader
    return DataLoader(loader.dataset, loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn)


def sample_count(loader: Any) -> int | None:
    """Number of samples of a loader; None where it is known only after running through it."""
    samples = loader.rows if isinstance(loader, ImageLoader) else getattr(loader, "dataset", None)
    return len(samples) if isinstance(samples, Sized) else None
