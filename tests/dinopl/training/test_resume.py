import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from tiny import Tiny, loader, make_trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dinopl.training import ExactResume, RunFolder
from dinopl.training.exact_resume import random_states, restore_random_states

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning:.*lightning.pytorch"  # `.*` for pytest.warns
)


class Noisy(Tiny):
    """Draws from Python's and NumPy's generators in each step, as augmentations do; dropout draws from torch's."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        noisy = batch[0] * (1 + 0.1 * random.random()) + 0.1 * float(np.random.standard_normal())
        return super().training_step([noisy, batch[1]], batch_idx)


def train(root: Path, epochs: int, *callbacks: Callback, source: Path | None = None, **options: Any) -> Noisy:
    """Trains with a loader that shuffles from the global generator."""
    seed_everything(3 if source is None else 99, verbose=False)
    model = Noisy()
    saver = ModelCheckpoint(dirpath=root, filename=f"after-{epochs}", enable_version_counter=False)
    trainer = make_trainer(root, *callbacks, saver, max_epochs=epochs, enable_checkpointing=True, **options)
    trainer.fit(model, loader(shuffle=True), loader(), ckpt_path=None if source is None else str(source))
    return model


def state(model: Noisy) -> list[Tensor]:
    optimizer = model.trainer.optimizers[0]
    return [*model.state_dict().values(), *(s["momentum_buffer"] for s in optimizer.state.values())]


@pytest.mark.parametrize(
    "options", [{}, {"check_val_every_n_epoch": 2}, {"num_sanity_val_steps": 2}, {"limit_val_batches": 0}]
)
def test_two_epochs_and_two_more_are_four(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = train(tmp_path / "whole", 4, ExactResume(), **options)
    train(tmp_path, 2, ExactResume(), **options)
    source = tmp_path / "after-2.ckpt"
    resumed = train(tmp_path, 4, ExactResume(), source=source, **options)
    assert resumed.trainer.global_step == 12
    assert all(torch.equal(a, b) for a, b in zip(state(resumed), state(whole), strict=True))


def test_without_the_callback_they_are_not(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 4)
    train(tmp_path, 2)
    resumed = train(tmp_path, 4, source=tmp_path / "after-2.ckpt")
    assert not any(torch.equal(a, b) for a, b in zip(state(resumed), state(whole), strict=True))


def test_it_works_beside_a_run_folder(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 4, RunFolder(), ExactResume())
    train(tmp_path, 2, RunFolder(), ExactResume())
    source = tmp_path / "after-2.ckpt"
    resumed = train(tmp_path, 4, RunFolder(), ExactResume(), source=source)
    assert all(torch.equal(a, b) for a, b in zip(state(resumed), state(whole), strict=True))


def test_the_middle_of_an_epoch_is_exact_where_order_does_not_matter(tmp_path: Path) -> None:
    def run(batches: int, source: Path | None = None) -> Tiny:
        seed_everything(3 if source is None else 99, verbose=False)
        model = Tiny()
        saver = ModelCheckpoint(dirpath=tmp_path, filename=f"after-{batches}", every_n_train_steps=2, save_top_k=-1)
        trainer = make_trainer(
            tmp_path, ExactResume(), saver, max_steps=batches, max_epochs=-1, enable_checkpointing=True
        )
        same = DataLoader(TensorDataset(torch.ones(20, 3), torch.ones(20)), batch_size=4)
        trainer.fit(model, same, loader(), ckpt_path=None if source is None else str(source))
        return model

    whole = run(4)
    run(2)
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        resumed = run(4, tmp_path / "after-2.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def draws() -> list[float]:
    return [random.random(), random.gauss(), np.random.random(), np.random.standard_normal(), float(torch.rand(()))]


def test_states_survive_a_file_that_holds_no_code(tmp_path: Path) -> None:
    draws()  # leaves half of a normal pair in both normal generators
    torch.save(random_states(CPU), tmp_path / "states.pt")
    expected = draws(), draws()
    draws()
    restore_random_states(torch.load(tmp_path / "states.pt", weights_only=True), CPU)
    assert (draws(), draws()) == expected


def test_checkpoints_load_without_code(tmp_path: Path) -> None:
    train(tmp_path, 1, ExactResume())
    checkpoint = torch.load(tmp_path / "after-1.ckpt", weights_only=True)
    assert checkpoint["random_states"]["epoch_over"] is True
    assert set(checkpoint["random_states"]["processes"][0]) == {"python", "numpy", "torch", "cuda"}


def test_a_checkpoint_without_states_is_told(tmp_path: Path) -> None:
    train(tmp_path, 1)
    with pytest.warns(UserWarning, match="holds random states of 0 processes and this run has 1"):
        train(tmp_path, 2, ExactResume(), source=tmp_path / "after-1.ckpt")


def test_evaluating_a_checkpoint_leaves_the_generators_alone(tmp_path: Path) -> None:
    model = train(tmp_path, 1, ExactResume())
    saved = torch.load(tmp_path / "after-1.ckpt", weights_only=True)["random_states"]["processes"][0]["torch"]
    seed_everything(5, verbose=False)
    trainer = make_trainer(tmp_path, ExactResume(), ModelCheckpoint(dirpath=tmp_path), enable_checkpointing=True)
    trainer.test(model, loader(), ckpt_path=str(tmp_path / "after-1.ckpt"), verbose=False)
    assert not torch.equal(torch.get_rng_state(), saved)


def test_patience_is_the_one_given_now(tmp_path: Path) -> None:
    train(tmp_path, 2, ExactResume(), EarlyStopping("val/loss", patience=9))
    stopper = EarlyStopping("val/loss", patience=4)
    train(tmp_path, 3, ExactResume(), stopper, source=tmp_path / "after-2.ckpt")
    assert stopper.patience == 4
    assert torch.isfinite(stopper.best_score)
