import csv
import errno
import json
import os
import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tiny import Tiny, loader, make_trainer
from torch import Tensor

from dinopl.training import FiniteGuard, RunFolder, folder_of

CONFIG = {"model": {"width": 3, "rates": [0.1, 0.2]}, "a": None, "b": True}


def last() -> ModelCheckpoint:
    return ModelCheckpoint(filename="last", enable_version_counter=False)


def fit(root: Path, *callbacks: Callback, model: Tiny | None = None, **options: Any) -> Trainer:
    trainer = make_trainer(root, *callbacks, enable_checkpointing=True, **options)
    trainer.fit(model or Tiny(), loader(), loader())
    return trainer


def read(run: RunFolder) -> dict[str, Any]:
    assert run.path is not None

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    results: dict[str, Any] = json.loads((run.path / "results.json").read_text(), parse_constant=refuse)
    return results


def rows(run: RunFolder) -> list[dict[str, str]]:
    assert run.path is not None
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_fit_leaves_exactly_the_documented_files(tmp_path: Path) -> None:
    run = RunFolder("digits", CONFIG, seed=7)
    trainer = fit(tmp_path, run, last())
    assert run.path is not None
    assert folder_of(trainer) == run.path
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", run.path.name)
    assert run.path.parent == tmp_path / "digits"
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    here = f"digits/{run.path.name}"
    events = next(name for name in names if "/events." in name)
    assert names == {
        events,
        *(f"{here}/{name}" for name in ("config.yaml", "metrics.csv", "results.json", "checkpoints/last.ckpt")),
    }
    assert Path(events).parent.as_posix() == here
    assert (run.path / "config.yaml").read_text().splitlines()[0] == "model:"
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG


def test_results_hold_the_last_value_of_every_metric(tmp_path: Path) -> None:
    run = RunFolder(config=CONFIG, seed=7)
    trainer = fit(tmp_path, run)
    results = read(run)
    order = "status metrics seed versions command family stages resumed_from started finished duration_s config"
    assert list(results) == order.split()
    assert results["status"] == "finished"
    assert results["seed"] == 7
    assert results["command"] == "fit"
    assert results["family"] is None  # of a module of no family
    assert results["resumed_from"] is None
    assert results["config"] == CONFIG
    assert set(results["versions"]) == {
        "dinopl",
        "torch",
        "torchvision",
        "lightning",
        "torchmetrics",
        "numpy",
        "python",
    }
    assert results["versions"]["torch"] == torch.__version__
    assert 0 < results["duration_s"] < 60
    for name in ("train/loss", "train/twice", "val/loss"):
        logged = [float(row[name]) for row in rows(run) if row[name]]
        assert results["metrics"][name] == pytest.approx(logged[-1])
        assert results["metrics"][name] == float(trainer.callback_metrics[name])
    assert len([row for row in rows(run) if row["train/loss"]]) == trainer.global_step == 6


def test_metrics_logged_past_the_module_or_past_the_loggers_count_too(tmp_path: Path) -> None:
    class Extra(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.log("hidden", float(trainer.current_epoch), logger=False)
            for logger in trainer.loggers:
                logger.log_metrics({"probe": 0.25 + trainer.current_epoch}, trainer.global_step)

    run = RunFolder()
    fit(tmp_path, run, Extra())
    assert read(run)["metrics"]["hidden"] == 1.0
    assert read(run)["metrics"]["probe"] == 1.25
    assert "hidden" not in rows(run)[0]


def test_tensorboard_events_hold_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder()
    fit(tmp_path, run)
    events = EventAccumulator(str(run.path))
    events.Reload()
    scalars = [event.value for event in events.Scalars("train/loss")]
    assert scalars == pytest.approx([float(row["train/loss"]) for row in rows(run) if row["train/loss"]])
    assert "hp_metric" not in events.Tags()["scalars"]


class Diary(Logger):
    """A user's own logger, such as W&B's."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, float]] = []

    name = "diary"
    version = "v1"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.entries.append(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_the_users_logger_stays_first_and_changes_nothing_in_the_folder(tmp_path: Path) -> None:
    diary, run = Diary(), RunFolder()
    trainer = fit(tmp_path, run, last(), logger=diary)
    assert trainer.loggers[0] is diary
    assert len(diary.entries) == len(rows(run))
    assert run.path is not None
    assert {p.name.split(".")[0] for p in run.path.iterdir()} == {"metrics", "events", "results", "checkpoints"}


def test_a_mistake_in_setup_leaves_nothing(tmp_path: Path) -> None:
    class Wrong(Tiny):
        def setup(self, stage: str) -> None:
            raise ValueError("alpha is 2: must be in [0, 1]")

    run = RunFolder()
    with pytest.raises(ValueError, match="alpha is 2"):
        fit(tmp_path, run, last(), model=Wrong())
    assert not run.created
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_load_leaves_nothing(tmp_path: Path) -> None:
    root, file = tmp_path / "runs", tmp_path / "empty.ckpt"
    file.write_bytes(b"")
    run = RunFolder()
    with pytest.raises(EOFError):
        make_trainer(root, run).fit(Tiny(), loader(), loader(), ckpt_path=str(file))
    assert not run.created
    assert not root.exists()


def interrupt(module: Tiny, loss: Tensor) -> Tensor:
    if module.batches == 5:
        raise KeyboardInterrupt
    return loss


def fail(module: Tiny, loss: Tensor) -> Tensor:
    if module.batches == 5:
        raise RuntimeError("out of luck")
    return loss


def poison(module: Tiny, loss: Tensor) -> Tensor:
    return loss * (float("nan") if module.batches == 5 else 1)


def terminate(module: Tiny, loss: Tensor) -> Tensor:
    if module.batches == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return loss


@pytest.mark.parametrize(
    ("disturb", "raised", "status"),
    [
        (interrupt, SystemExit, "interrupted"),
        (terminate, SIGTERMException, "interrupted"),
        (poison, RuntimeError, "diverged"),
        (fail, RuntimeError, "failed"),
    ],
)
def test_a_run_that_ends_early_says_how(tmp_path: Path, disturb: Any, raised: type[BaseException], status: str) -> None:
    run = RunFolder()
    with pytest.raises(raised):
        fit(tmp_path, run, FiniteGuard(), last(), model=Tiny(disturb))
    assert run.status == read(run)["status"] == status
    assert len([row for row in rows(run) if row["train/loss"]]) >= 4  # flushed
    assert read(run)["metrics"]["val/loss"] > 0
    assert run.path is not None
    assert (run.path / "checkpoints" / "last.ckpt").exists()


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    run = RunFolder(config={"limit": float("inf")})
    fit(tmp_path, run, model=Tiny(poison))
    assert read(run)["metrics"]["train/loss"] is None
    assert read(run)["config"] == {"limit": None}


def test_a_test_after_a_fit_stays_in_its_folder(tmp_path: Path) -> None:
    run = RunFolder()
    trainer = fit(tmp_path, run)
    path, after_fit = run.path, read(run)["metrics"]
    assert read(run)["stages"] == ["fit"]
    trainer.test(dataloaders=loader(), model=trainer.lightning_module, verbose=False)
    assert run.path == path
    results = read(run)
    assert set(results["metrics"]) - set(after_fit) == {"test/loss"}
    assert results["metrics"]["train/loss"] == after_fit["train/loss"]
    assert (results["command"], results["stages"]) == ("fit", ["fit", "test"])
    assert float(rows(run)[-1]["test/loss"]) == pytest.approx(results["metrics"]["test/loss"])


def test_each_fit_has_its_own_folder(tmp_path: Path) -> None:
    run, saver, diary = RunFolder(), last(), Diary()
    trainer = fit(tmp_path, run, saver, logger=diary)
    first, before = run.path, read(run)
    assert first is not None
    files = {p: p.read_bytes() for p in first.rglob("*") if p.is_file()}
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, loader(), loader())
    assert run.path is not None
    assert run.path != first
    assert {p: p.read_bytes() for p in first.rglob("*") if p.is_file()} == files
    assert read(run)["started"] >= before["started"]
    assert len([row for row in rows(run) if row["train/loss"]]) == 3
    assert saver.dirpath == str(run.path / "checkpoints")
    assert (run.path / "checkpoints" / "last.ckpt").exists()
    assert len(trainer.loggers) == 3
    trainer.test(trainer.lightning_module, loader(), verbose=False)
    assert "test/loss" in read(run)["metrics"]


def test_a_stage_after_a_failed_one_has_its_own_folder(tmp_path: Path) -> None:
    run, model = RunFolder(), Tiny(fail)
    trainer = make_trainer(tmp_path, run)
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.fit(model, loader(), loader())
    failed = run.path
    trainer.test(model, loader(), verbose=False)
    assert run.path != failed
    assert failed is not None
    assert json.loads((failed / "results.json").read_text())["status"] == "failed"
    assert read(run)["status"] == "finished"


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_other_stages_write_a_folder_too(tmp_path: Path, command: str) -> None:
    run = RunFolder(config=CONFIG)
    trainer = make_trainer(tmp_path, run)
    getattr(trainer, command)(Tiny(), loader(), **({} if command == "predict" else {"verbose": False}))
    results = read(run)
    assert (results["status"], results["command"]) == ("finished", command)
    assert run.path is not None
    assert (run.path / "config.yaml").exists()
    expected = {"validate": {"epoch", "val/loss"}, "test": {"epoch", "test/loss"}, "predict": set()}[command]
    assert set(results["metrics"]) == expected


def test_a_resumed_run_has_a_new_folder_and_remembers_its_source_and_the_best_score(tmp_path: Path) -> None:
    def best() -> ModelCheckpoint:
        return ModelCheckpoint(monitor="val/loss", save_last=True)

    first, second, saver = RunFolder(), RunFolder(), best()
    trainer = fit(tmp_path, first, saver)
    assert first.path is not None
    files = {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()}
    source = first.path / "checkpoints" / "last.ckpt"
    resumed = best()
    # Without RunFolder.on_load_checkpoint Lightning warns that the folder has changed and forgets the scores.
    trainer = make_trainer(tmp_path, second, resumed, enable_checkpointing=True, max_epochs=3)
    trainer.fit(Tiny(), loader(), loader(), ckpt_path=str(source))
    assert second.path is not None
    assert second.path != first.path
    assert read(second)["resumed_from"] == str(source)
    assert trainer.global_step == 9
    assert {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()} == files
    assert (second.path / "checkpoints" / "last.ckpt").exists()
    assert saver.best_model_score is not None
    assert resumed.best_model_score is not None
    assert resumed.best_model_score <= saver.best_model_score


def test_checkpoints_carry_plain_metadata_beside_the_modules(tmp_path: Path) -> None:
    class Family(Tiny):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint.setdefault("dinopl", {})["family"] = "Tiny"

    run = RunFolder(config=CONFIG)
    fit(tmp_path, run, last(), model=Family())
    assert run.path is not None
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    about = checkpoint["dinopl"]
    assert about["config"] == CONFIG
    assert about["run"] == run.path.name
    assert about["family"] == "Tiny"
    assert about["versions"] == read(run)["versions"]


def test_a_given_checkpoint_folder_is_kept(tmp_path: Path) -> None:
    saver, run = ModelCheckpoint(dirpath=tmp_path / "mine"), RunFolder()
    fit(tmp_path, run, saver)
    assert saver.dirpath == str((tmp_path / "mine").resolve())
    assert run.path is not None
    assert not (run.path / "checkpoints").exists()


def test_seeded_runs_at_the_same_time_never_share_a_folder(tmp_path: Path) -> None:
    def one(_: int) -> Path | None:
        random.seed(0)
        run = RunFolder()
        fit(tmp_path, run, last())
        assert len([row for row in rows(run) if row["train/loss"]]) == 6
        return run.path

    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(one, range(3)))
    assert len(paths) == 3
    assert all(len(list(path.iterdir())) == 4 for path in paths if path is not None)


def test_the_seed_is_what_seed_everything_set(tmp_path: Path) -> None:
    for seed in (None, 11):
        if seed is not None:
            seed_everything(seed, verbose=False)
        run = RunFolder()
        make_trainer(tmp_path, run).test(Tiny(), loader(), verbose=False)
        assert read(run)["seed"] == seed


def test_a_root_that_is_a_file_is_one_line_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    run = RunFolder()
    with pytest.raises(ValueError, match=r"cannot write to .*is a file; .*default_root_dir") as caught:
        fit(tmp_path / "runs", run)
    assert "\n" not in str(caught.value)
    assert not run.created


def test_a_root_on_another_machine_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, run := RunFolder())
    trainer._default_root_dir = "memory://runs"  # what Trainer(default_root_dir="memory://runs") sets
    with pytest.raises(ValueError, match=r"not a folder of this machine.*default_root_dir"):
        trainer.test(Tiny(), loader(), verbose=False)
    assert not run.created


def test_a_root_that_the_file_system_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write to .*File name too long"):
        fit(tmp_path / ("x" * 1000), RunFolder())


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="no permission to write in"):
        fit(tmp_path / "runs", RunFolder())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ValueError, match=r"No space left on device; .*default_root_dir") as caught:
        fit(tmp_path, RunFolder())
    assert "\n" not in str(caught.value)


def test_a_full_disk_never_hides_the_error_that_ended_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    run = RunFolder()
    with pytest.warns(UserWarning, match="No space left"), pytest.raises(RuntimeError, match="out of luck"):
        make_trainer(tmp_path, run).fit(Tiny(fail), loader(), loader())
    assert run.path is not None
    assert not any("json" in p.name for p in run.path.iterdir())  # no temporary file either


@pytest.mark.parametrize("name", ["", " ", "/tmp/run", "../run"])
def test_names_that_leave_the_root_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^name=.*: must be a relative name"):
        RunFolder(name)


def test_a_config_with_objects_is_refused() -> None:
    with pytest.raises(ValueError, match=r"config.model\[1\]: is a Tensor"):
        RunFolder(config={"model": [1, torch.zeros(2)]})


def test_results_say_what_the_data_module_knows_of_the_data(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader()

        val_dataloader = train_dataloader

        def facts(self) -> dict[str, Any]:
            return {"size": 12, "seeds": {"order": 1}}

    run = RunFolder()
    trainer = make_trainer(tmp_path, run)
    trainer.fit(Tiny(), datamodule=Data())
    assert read(run)["data"] == {"size": 12, "seeds": {"order": 1}}
    plain = RunFolder()
    fit(tmp_path, plain)
    assert "data" not in read(plain)


def test_a_logger_of_the_users_gets_the_configuration(tmp_path: Path) -> None:
    config = {"model": {"init_args": {"lr": 0.1}}, "seed_everything": 3}
    fit(tmp_path, RunFolder(config=config), logger=CSVLogger(tmp_path / "log", "", ""))
    assert yaml.safe_load((tmp_path / "log" / "hparams.yaml").read_text()) == config


def test_callbacks_that_ask_for_a_logger_in_their_setup_find_the_folders(tmp_path: Path) -> None:
    run = RunFolder()
    fit(tmp_path, run, DeviceStatsMonitor(cpu_stats=True))
    assert any(name.startswith("DeviceStatsMonitor") for name in rows(run)[0])
