"""The DataModule in a plain Lightning trainer: order, epochs, resuming, processes."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from dinopl.data import CropFlip, ImageDataModule


class Linear(LightningModule):
    """A linear classifier that writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.seen: list[tuple[int, list[int]]] = []
        self.losses: list[float] = []

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch["views"][0].flatten(1)), batch["label"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        loss = self.loss(batch)
        self.losses.append(float(loss.detach()))
        return loss * batch.get("share", 1.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), batch_size=len(batch["label"]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch), batch_size=len(batch["label"]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return batch["index"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def a_trainer(path: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "barebones": False}
    defaults = {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=path, num_sanity_val_steps=0, **{**quiet, **defaults, **options})


def data(**options: Any) -> ImageDataModule:
    return ImageDataModule(**{"seed": 0, "batch_size": 256, "train_size": 900, "views": [CropFlip(1)], **options})


def test_a_module_trains_validates_tests_and_predicts(tmp_path: Path) -> None:
    module, images = Linear(), data()
    trainer = a_trainer(tmp_path, max_epochs=4)
    trainer.fit(module, images)
    assert module.losses[-1] < module.losses[0]
    assert trainer.validate(module, images, verbose=False)[0]["val/loss"] < 2.3
    assert trainer.test(module, images, verbose=False)[0]["test/loss"] < 2.3
    predictions = trainer.predict(module, images)
    assert predictions is not None
    assert torch.cat(predictions).tolist() == list(range(500))


def test_the_trainer_sets_the_epoch(tmp_path: Path) -> None:
    module, images = Linear(), data()
    a_trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(module, images)
    epochs = [list(chain(*(index for epoch, index in module.seen if epoch == number))) for number in range(3)]
    assert all(sorted(epoch) == list(range(900)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    loader = images.train_dataloader()
    for number, epoch in enumerate(epochs):
        loader.sampler.set_epoch(number)
        assert loader.sampler.order().tolist() == epoch


@pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning:lightning")
def test_without_a_validation_split_nothing_is_validated(tmp_path: Path) -> None:
    module = Linear()
    trainer = a_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, data(val_size=0))
    assert "val/loss" not in trainer.callback_metrics
    assert len(module.seen) == 4


class Save(Callback):
    """Saves a checkpoint after every step."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir, f"step={trainer.global_step}.ckpt"))


def test_a_resumed_run_sees_what_the_whole_run_sees(tmp_path: Path) -> None:
    """Saved in mid-epoch (2, 6) and with an epoch's last batch (4); the run's own seed differs, the data's does not."""
    whole = Linear()
    torch.manual_seed(1)
    a_trainer(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[Save()]).fit(whole, data(seed=None))
    for step in (2, 4, 6):
        resumed = Linear()
        torch.manual_seed(2)
        trainer = a_trainer(tmp_path, max_epochs=3, limit_val_batches=0)
        trainer.fit(resumed, data(seed=None), ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
        assert resumed.seen == whole.seen[step:]
        assert resumed.losses == whole.losses[step:]
        assert torch.equal(resumed.layer.weight, whole.layer.weight)


class Weights(Callback):
    """Writes down the parameters and what each process saw, where a test can read them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        torch.save({"weights": weights, "seen": pl_module.seen}, self.path / f"rank{trainer.global_rank}.pt")


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path) -> None:
    """901 samples: the last global batch has 133, which the ranks share 66 to 67."""
    single = Linear()
    a_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(single, data(train_size=901))
    pair = a_trainer(
        tmp_path, max_epochs=2, limit_val_batches=0, devices=2, strategy="ddp_fork", callbacks=[Weights(tmp_path)]
    )
    torch.manual_seed(0)
    pair.fit(Linear(), data(train_size=901, batch_size=128))
    results = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for (epoch, whole), *parts in zip(single.seen, *(result["seen"] for result in results), strict=True):
        assert list(chain(*(index for _, index in parts))) == whole
        assert {number for number, _ in parts} == {epoch}
    assert torch.equal(results[0]["weights"]["layer.weight"], results[1]["weights"]["layer.weight"])
    torch.testing.assert_close(results[0]["weights"]["layer.weight"], single.layer.weight, rtol=1e-5, atol=1e-6)
