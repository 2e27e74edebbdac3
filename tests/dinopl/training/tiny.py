"""A module small enough to train in milliseconds, whose steps can be made to go wrong."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Tiny(LightningModule):
    """Linear regression with dropout.

    Args:
        disturb: called with the module and the loss of each training step; its value replaces the loss.
    """

    def __init__(self, disturb: Callable[["Tiny", Tensor], Tensor] | None = None, lr: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.disturb = disturb
        self.lr = lr
        self.batches = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.batches += 1
        x, y = batch[0], batch[1]
        loss = (self.net(x).squeeze(1) - y).square().mean()
        loss = loss if self.disturb is None else self.disturb(self, loss)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/twice", 2 * loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", (self.net(batch[0]).squeeze(1) - batch[1]).square().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", (self.net(batch[0]).squeeze(1) - batch[1]).square().mean())

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return {"index": batch[2], "label": batch[1], "embedding": batch[0], "output": self.net(batch[0])}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]


def tensors(n: int = 12) -> TensorDataset:
    """The same samples at every call: input, target, index."""
    x = torch.sin(torch.arange(3 * n, dtype=torch.float32)).reshape(n, 3)
    return TensorDataset(x, x.sum(1), torch.arange(n))


def loader(n: int = 12, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of four."""
    return DataLoader(tensors(n), batch_size=4, shuffle=shuffle)


def make_trainer(root: Any, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet Trainer on one CPU; ``options`` win."""
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    fixed = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    return Trainer(default_root_dir=str(root), callbacks=list(callbacks), **(quiet | fixed | options))
