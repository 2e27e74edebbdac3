"""Predictions of all processes in one file, in the order of the data set."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from dinopl.core.files import replacing
from dinopl.training.files import one_line_errors
from dinopl.training.run_folder import folder_of

Arrays = dict[str, np.ndarray[Any, Any]]


def to_arrays(batch: Any) -> Arrays:
    """The tensors of one batch of predictions as arrays; bfloat16, which NumPy lacks, as float32.

    Args:
        batch: dict of tensors, each ``(B, ...)``, one of them ``"index"`` ``(B,)``.

    Raises:
        ValueError: if it is anything else.
    """
    if not isinstance(batch, Mapping) or not isinstance(batch.get("index"), Tensor):
        raise ValueError("predict_step must return a dict of tensors with 'index', which orders the predictions")
    wrong = [k for k, x in batch.items() if not isinstance(x, Tensor) or x.shape[:1] != batch["index"].shape]
    if wrong:
        raise ValueError(
            f"predict_step's {wrong[0]!r} is not a tensor with one entry for each index ({len(batch['index'])})"
        )
    tensors = {name: x.detach().cpu() for name, x in batch.items()}
    return {name: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for name, x in tensors.items()}


def in_order(batches: Sequence[Arrays]) -> Arrays:
    """Batches put together, sorted by ``"index"``, one entry an index.

    A sampler that pads its last round predicts some samples twice; the first prediction is kept.

    Args:
        batches: arrays ``(B, ...)``, the same names in each.
    """
    if not batches:
        return {}
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    _, first = np.unique(joined["index"], return_index=True)
    return {name: values[first] for name, values in joined.items()}


def gather_to_rank_zero(value: Any, trainer: Trainer) -> list[Any]:
    """The value of every process on rank zero, an empty list elsewhere; through memory, never through a GPU."""
    if trainer.world_size == 1:
        return [value]
    group: Any = torch.distributed.new_group(backend="gloo")
    received: list[Any] = [None] * trainer.world_size
    torch.distributed.gather_object(value, received if trainer.is_global_zero else None, group=group)
    torch.distributed.destroy_process_group(group)
    return received if trainer.is_global_zero else []


class PredictionWriter(BasePredictionWriter):
    """Writes what ``predict_step`` returns to one ``.npz`` file: an array for each name, ordered by ``"index"``.

    What the data module's method ``prediction_names`` returns is added, where there is one: the "path" of each sample,
    whose index is its position there, and "class_names".

    Batches leave the device as they come. With several predict loaders each has its own file: ``predictions-0.npz`` and
    so on. Call ``trainer.predict(return_predictions=False)``, so that Lightning does not keep them as well.

    Args:
        filename: of the file.
        folder: where it goes; None is the run's folder, and without a ``RunFolder`` the Trainer's ``default_root_dir``.

    Attributes:
        paths: the files of the last ``predict``, on rank zero.

    Raises:
        ValueError: if ``filename`` does not end in ``.npz``; if a prediction is no dict of tensors with ``"index"``.
    """

    def __init__(self, filename: str = "predictions.npz", folder: str | None = None) -> None:
        super().__init__(write_interval="batch")
        if Path(filename).suffix != ".npz" or Path(filename).name != filename:
            raise ValueError(f"filename={filename}: must be a file name without folder that ends in .npz")
        self.filename = filename
        self.folder = folder
        self.paths: list[Path] = []
        self._batches: dict[int, list[Arrays]] = defaultdict(list)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets what an aborted run left."""
        self.paths = []
        self._batches.clear()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Moves one batch to memory; the last of Lightning's arguments is the loader's number."""
        self._batches[args[-1]].append(to_arrays(prediction))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers and writes."""
        ranks = gather_to_rank_zero(dict(self._batches), trainer)
        self._batches.clear()
        loaders = sorted({loader for rank in ranks for loader in rank})
        folder = Path(self.folder) if self.folder is not None else folder_of(trainer) or Path(trainer.default_root_dir)
        for loader in loaders:
            name = self.filename if len(loaders) == 1 else f"{Path(self.filename).stem}-{loader}.npz"
            arrays = in_order([batch for rank in ranks for batch in rank.get(loader, [])])
            named = getattr(getattr(trainer, "datamodule", None), "prediction_names", None)
            for key, values in (named() if callable(named) else {}).items():
                one_each = key == "path"
                arrays[key] = np.array([values[i] for i in arrays["index"]] if one_each else values, dtype=np.str_)
            with one_line_errors(folder / name):
                folder.mkdir(parents=True, exist_ok=True)
                with replacing(folder / name) as temporary, temporary.open("wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
            self.paths.append(folder / name)
