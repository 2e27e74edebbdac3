import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from tiny import Tiny, loader, make_trainer
from torch import Tensor, nn

from dinopl.training import DivergenceError, FiniteGuard
from dinopl.training.finite_guard import gradient_norm, not_finite, poisoned


class Parameters(Callback):
    """Notes the parameters as each batch begins."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.before = [parameter.detach().clone() for parameter in pl_module.parameters()]


def at(batch: int, value: float) -> Any:
    """Replaces the loss of one batch (counted from 1) by itself times ``value``."""
    return lambda module, loss: loss * (value if module.batches == batch else 1.0)


def nan_gradient(batch: int) -> Any:
    """Leaves the loss of one batch finite and its gradient NaN: the root's slope at 0 is infinite, times 0."""
    return lambda module, loss: loss + (0 * module.net[0].weight).sum().sqrt() if module.batches == batch else loss


def last() -> ModelCheckpoint:
    return ModelCheckpoint(filename="last", enable_version_counter=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_run_stops_before_the_optimiser_moves(tmp_path: Path, value: float) -> None:
    model, seen = Tiny(at(5, value)), Parameters()
    trainer = make_trainer(tmp_path, FiniteGuard(), seen)
    with pytest.raises(DivergenceError) as caught:
        trainer.fit(model, loader(), loader())
    assert trainer.global_step == 4
    assert all(torch.equal(now, before) for now, before in zip(model.parameters(), seen.before, strict=True))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"step 4 (epoch 1): loss is {value}; logged: train/loss={value}; learning rate 0.07. ")
    assert "gradient_clip_val" in message


def test_without_the_guard_the_parameters_are_lost(tmp_path: Path) -> None:
    model = Tiny(at(5, math.nan))
    make_trainer(tmp_path).fit(model, loader(), loader())
    assert all(parameter.isnan().all() for parameter in model.parameters())


def test_a_poisoned_micro_batch_is_caught_before_the_step_of_its_group(tmp_path: Path) -> None:
    model, seen = Tiny(at(4, math.nan)), Parameters()  # 1 + 2 form the first group, 3 ends the epoch, 4 + 5 the third
    trainer = make_trainer(tmp_path, FiniteGuard(), seen, accumulate_grad_batches=2)
    with pytest.raises(DivergenceError, match=r"^step 2 \(epoch 1\): loss is nan; learning rate"):
        trainer.fit(model, loader(), loader())
    assert model.batches == 5
    assert all(torch.equal(now, before) for now, before in zip(model.parameters(), seen.before, strict=True))


def test_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last", enable_version_counter=False, save_on_exception=True)
    trainer = make_trainer(tmp_path, FiniteGuard(), saver, enable_checkpointing=True)
    with pytest.raises(DivergenceError):
        trainer.fit(Tiny(at(5, math.nan)), loader(), loader())
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert not poisoned(checkpoint["state_dict"], checkpoint["state_dict"])


@pytest.mark.parametrize(("every", "batch"), [(100, 5), (1, 6)])
def test_no_checkpoint_holds_what_slipped_through(tmp_path: Path, every: int, batch: int) -> None:
    """A loss between two looks, or a NaN gradient in the last step of an epoch."""
    disturb = at(batch, math.nan) if every > 1 else nan_gradient(batch)
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last", enable_version_counter=False)
    trainer = make_trainer(tmp_path, FiniteGuard(every), saver, enable_checkpointing=True)
    with pytest.raises(
        DivergenceError, match=r"step 6 \(epoch 1\): not finite: net.0.weight.* No checkpoint was written"
    ):
        trainer.fit(Tiny(disturb), loader(), loader())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_looking_now_and_then_stops_at_the_next_look(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, FiniteGuard(every_n_steps=3), max_epochs=4)
    with pytest.raises(DivergenceError, match="step 6"):
        trainer.fit(Tiny(at(5, math.nan)), loader(), loader())


@pytest.mark.parametrize(("check", "step"), [(True, 1), (False, 2)])
def test_a_finite_loss_with_a_nan_gradient(tmp_path: Path, check: bool, step: int) -> None:
    model, seen = Tiny(nan_gradient(2)), Parameters()
    trainer = make_trainer(tmp_path, FiniteGuard(check_gradients=check), seen)
    found = "gradient norm is nan" if check else "loss is nan"
    with pytest.raises(DivergenceError, match=rf"^step {step} \(epoch 0\): {found}"):
        trainer.fit(model, loader(), loader())
    assert not any(parameter.isnan().any() for parameter in model.parameters()) or not check


@pytest.mark.filterwarnings(
    "ignore:Detected call of `lr_scheduler.step:UserWarning:lightning.pytorch"
)  # no step is taken
def test_overflowing_gradients_under_a_scaler_are_no_divergence(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    model = Tiny()
    trainer = make_trainer(tmp_path, FiniteGuard(check_gradients=True), plugins=[plugin])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.fit(model, loader(), loader())
    assert scaler.get_scale() < 2.0**120  # it overflowed
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))


def test_a_nan_loss_under_a_scaler_is_one(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0))
    with pytest.raises(DivergenceError, match="loss is nan"):
        make_trainer(tmp_path, FiniteGuard(), plugins=[plugin]).fit(Tiny(at(2, math.nan)), loader(), loader())


def test_manual_optimisation_is_guarded_too(tmp_path: Path) -> None:
    class Manual(Tiny):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    trainer = make_trainer(tmp_path, FiniteGuard())
    with pytest.raises(DivergenceError, match="step 3"):
        trainer.fit(Manual(at(4, math.nan)), loader(), loader())


def test_a_guard_can_be_used_again_after_a_divergence(tmp_path: Path) -> None:
    guard = FiniteGuard()
    for batch, steps in ((2, 1), (100, 6)):
        trainer = make_trainer(tmp_path, guard, accumulate_grad_batches=1)
        model = Tiny(at(batch, math.nan))
        if batch == 2:
            with pytest.raises(DivergenceError):
                trainer.fit(model, loader(), loader())
        else:
            trainer.fit(model, loader(), loader())
        assert trainer.global_step == steps


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=4), st.booleans())
def test_poison_is_nan_anywhere_and_infinity_in_parameters(values: list[float], parameter: bool) -> None:
    state = {"x": torch.tensor(values), "count": torch.tensor(3), "extra": {"not": "a tensor"}}
    bad = any(math.isnan(v) or (parameter and math.isinf(v)) for v in values)
    assert poisoned(state, ["x"] if parameter else []) == (["x"] if bad else [])


def test_a_mask_of_infinities_is_no_poison(tmp_path: Path) -> None:
    model = Tiny()
    model.register_buffer("mask", torch.full((2, 2), -math.inf))
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last")
    make_trainer(tmp_path, FiniteGuard(), saver, enable_checkpointing=True).fit(model, loader(), loader())
    assert (tmp_path / "last.ckpt").exists()


def test_not_finite_names_values() -> None:
    found = not_finite({"a": torch.tensor(math.inf), "b": 1.0, "c": math.nan})
    assert list(found) == ["a", "c"]
    assert found["a"] == math.inf


def test_gradient_norm_is_the_norm_of_all_gradients_together() -> None:
    a, b, unused = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(1))
    optimizer = torch.optim.SGD([{"params": [a, unused]}, {"params": [b]}], lr=0.1)
    (a.square().sum() + b.sum()).backward()
    together: Tensor = torch.cat([2 * a.detach(), torch.ones(4)])
    assert float(gradient_norm(optimizer)) == pytest.approx(float(together.norm()))


def test_every_n_steps_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("every_n_steps=0: must be at least 1")):
        FiniteGuard(every_n_steps=0)


def test_steps_are_left_out_up_to_a_number_and_counted_over_a_resumption(tmp_path: Path) -> None:
    """As if these batches had not been: nothing of parameters and momentum moves."""

    class Plain(Tiny):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    bad = {2, 5}
    spoil: Any = lambda module, loss: loss * (math.nan if module.batches in bad else 1.0)  # noqa: E731
    model, seen = Plain(spoil), Parameters()
    moments: list[Any] = []

    class Moments(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            moments.append((pl_module.batches, str(trainer.optimizers[0].state_dict()["state"])))
            moved = any(not torch.equal(a, b) for a, b in zip(pl_module.parameters(), seen.before, strict=True))
            assert moved == (pl_module.batches not in bad)

    trainer = make_trainer(tmp_path, FiniteGuard(max_skipped=2), seen, Moments())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, loader(), loader())
    said = [str(each.message) for each in caught if "left out" in str(each.message)]
    assert said == [
        f"step {step} (epoch {step // 3}): loss is nan; the step is left out ({number} of 2)"
        for number, step in ((1, 1), (2, 4))
    ]
    assert moments[0][1] == moments[1][1]
    assert moments[3][1] == moments[4][1]
    assert not any(parameter.isnan().any() for parameter in model.parameters())
    trainer.save_checkpoint(tmp_path / "two.ckpt")

    bad = {3}
    later = make_trainer(tmp_path, FiniteGuard(max_skipped=2), max_epochs=4)
    with pytest.raises(DivergenceError, match=r"step 8 .*2 steps were left out before"):
        later.fit(Plain(spoil), loader(), loader(), ckpt_path=str(tmp_path / "two.ckpt"))


def test_a_step_that_has_reached_a_buffer_cannot_be_left_out(tmp_path: Path) -> None:
    class Normed(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step([batch[0] * (math.nan if batch_idx == 1 else 1), batch[1]], batch_idx)

    with pytest.raises(DivergenceError, match=r"cannot be left out: net\.1\.running_mean"):
        make_trainer(tmp_path, FiniteGuard(max_skipped=9)).fit(Normed(), loader(), loader())


class Reads(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what waits for a device: a number that is read from a tensor, or a copy to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("batch", "step", "seen_at"), [(None, 0, 0), (3, 2, 6), (11, 10, 12)])
def test_a_gpu_is_not_waited_for(
    batch: int | None, step: int, seen_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the copy of a GPU: it is waited for four steps later, and at the end of an epoch at once."""
    now, waits, reads = [0], [], []

    def copied(values: Tensor) -> Any:
        made = now[0]
        return lambda: (waits.append(now[0] - made), values)[1]

    class Counted(FiniteGuard):
        def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
            now[0] = trainer.global_step
            waited = len(waits)
            with Reads() as counter:
                super().on_before_optimizer_step(trainer, *args)
            # The look at a value that has arrived reads the host's copy once.
            reads.append(counter.count - (len(waits) - waited))

    monkeypatch.setattr("dinopl.training.finite_guard.delay_on", lambda device: 4)
    monkeypatch.setattr("dinopl.training.finite_guard.to_host", copied)
    model = Tiny(at(batch or 0, math.nan))
    trainer = make_trainer(tmp_path, Counted(), max_epochs=2)
    data = loader(24)  # six batches an epoch
    if batch is None:
        trainer.fit(model, data, loader())
    else:
        with pytest.raises(DivergenceError, match=rf"^step {step} .*Stopped at step {seen_at}, and nothing was saved"):
            trainer.fit(model, data, loader())
    assert set(reads) == {0}
    assert waits[:2] == [4, 4]
    assert max(waits) == 4


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_weights_that_are_not_finite_are_not_scored(stage: str, tmp_path: Path) -> None:
    model = Tiny()
    with torch.no_grad():
        model.net[2].bias.fill_(math.nan)
    with pytest.raises(DivergenceError, match=r"^not finite: net\.2\.bias\. Such weights answer nothing"):
        getattr(make_trainer(tmp_path, FiniteGuard()), stage)(model, loader())


@pytest.mark.parametrize("options", [{"max_skipped": -1}, {"max_skipped": 1, "every_n_steps": 2}])
def test_skips_that_cannot_be_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="max_skipped="):
        FiniteGuard(**options)
