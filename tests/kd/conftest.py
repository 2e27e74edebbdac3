"""Short trainings on embedded digits, in memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from dinopl.data import DigitsImages, ImageDataModule
from dinopl.encoders import MiniMLP
from kd.data import DataFraction
from kd.module import KnowledgeDistillation
from kd.networks import EncoderClassifier


def mlp(*hidden: int) -> Callable[[Any, int], nn.Module]:
    """A factory of perceptrons."""
    return partial(EncoderClassifier, encoder=partial(MiniMLP, hidden=hidden or (16,)))


def digits(steps: int | None = 12, pool: dict[str, Any] | None = None, **options: Any) -> DataFraction:
    """A fraction of the digits; nothing is held out."""
    given = {"dataset": DigitsImages(test_size=596), "val_size": 0, "batch_size": 32, "normalization": [0.3, 0.38]}
    return DataFraction(ImageDataModule(**given | (pool or {})), steps_per_epoch=steps, **{"fraction": 0.1} | options)


def student(**options: Any) -> KnowledgeDistillation:
    """A small student of digits."""
    given = {"student": mlp(), "optimizer": partial(torch.optim.AdamW, lr=0.01)}
    return KnowledgeDistillation((1, 8, 8), 10, **given | options)


def quick_trainer(**options: Any) -> Trainer:
    """A trainer that writes nothing and says nothing."""
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    given = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return Trainer(**silent | given | options)


def fitted(model: KnowledgeDistillation, data: Any, **options: Any) -> Trainer:
    """The trainer after a training."""
    trainer = quick_trainer(**options)
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a label-trained teacher, with hidden layers of 48, on all digits; made without the command."""
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    trainer = fitted(student(student=mlp(48)), digits(150, fraction=1.0))
    trainer.save_checkpoint(path)
    return str(path)
