"""The state-tracking benchmark: what it runs, what it chooses by, and what it leaves alone."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
DIVERGES = 0.1


class FakeCommand:
    """Stands for the command: writes the results that a learning rate would have."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> None:
        self.calls.append(command)
        words = dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--"))
        rate, seed = float(words.get("model.optimizer.lr", 0.005)), int(words["seed_everything"])
        # Validation prefers 0.003, the test split the largest rate.
        val = {f"val/sequence_accuracy/length={n}": 1 - abs(rate - 0.003) for n in (8, 16)} | {"val/loss/length=8": 1.0}
        test = {f"test/sequence_accuracy/length={n}": 0.5 + rate + seed / 100 for n in (8, 16)}
        config = {
            "model": {"init_args": {"optimizer": {"init_args": {"lr": rate}}}},
            "trainer": {"precision": None},
            "threads": 2,
        }
        results = {"status": "failed" if rate == DIVERGES else "finished", "seed": seed, "duration_s": 2.0}
        folder = Path(words["trainer.default_root_dir"]) / "name" / f"attempt-{len(self.calls)}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("epoch,step,train/loss\n0,9,0.5\n1,40,\n")
        (folder / "results.json").write_text(json.dumps(results | {"config": config, "metrics": val | test}))


@pytest.fixture
def command() -> FakeCommand:
    return FakeCommand()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: FakeCommand) -> ModuleType:
    """The script as a module, writing below ``tmp_path``."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "state_tracking", raising=False)
    import state_tracking

    monkeypatch.setattr(state_tracking, "results_file", lambda what, precision: tmp_path / f"{what}_{precision}.csv")
    monkeypatch.setattr(state_tracking.subprocess, "run", command)
    return state_tracking


def measured(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> list[dict[str, str]]:
    monkeypatch.setattr(sys, "argv", ["state_tracking.py", "a5", "--runs", str(tmp_path / "runs"), *words])
    script.main()
    with (tmp_path / "state_tracking_a5_32-true.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_controls_learning_rate_is_chosen_on_validation(
    script: ModuleType, command: FakeCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["--variants", "fprnn", "lstm", "--rates", "0.001", "0.003", "0.01", str(DIVERGES), "--seeds", "4", "5"]
    rows = measured(script, monkeypatch, tmp_path, *words)
    chosen = [
        (row["variant"], row["seed"], row["lr"]) for row in rows if row["chosen"] == "True" and row["length"] == "8"
    ]
    assert chosen == [("fprnn", "4", "0.005"), ("fprnn", "5", "0.005"), ("lstm", "4", "0.003"), ("lstm", "5", "0.003")]
    tried = {(row["seed"], row["lr"]) for row in rows if row["variant"] == "lstm"}
    assert tried == {("4", "0.001"), ("4", "0.003"), ("4", "0.01"), ("5", "0.003")}
    assert {(row["steps"], row["duration_s"], row["iterations"]) for row in rows} == {("40", "2.0", "")}
    assert len(command.calls) == 7


def test_what_has_finished_is_not_repeated(
    script: ModuleType,
    command: FakeCommand,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = measured(script, monkeypatch, tmp_path, "--seeds", "0", "1")
    (lost,) = (tmp_path / "runs" / "a5" / "fprnn" / "seed=1").glob("**/results.json")
    lost.unlink()
    assert measured(script, monkeypatch, tmp_path, "--seeds", "0", "1") == rows
    assert [call[-1].rsplit("=", 1)[1] for call in command.calls] == ["0", "1", "1"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["a5"])
    assert line.split()[:7] == ["a5", "fprnn", "0.005", "2", "8", "0.510", "0.505"]


def test_the_users_options_come_last(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["state_tracking.py", "a5", "--options=--threads=2", "--minutes", "90"])
    options = script.parse()
    words = script.Plan("a5", "paper", 0).words(options)
    assert words[-1] == "--threads=2"
    assert "--trainer.max_time=00:01:30:00" in words
    assert script.Plan("a5", "lstm", 3, 0.01).name == "a5/lstm/lr=0.01/seed=3"


@pytest.mark.parametrize(
    "variant", ["fprnn", "paper", "l_max=2", "input-only", "diagonal-2", "lstm", "delta-product-fixed"]
)
def test_the_command_takes_every_variants_options(script: ModuleType, variant: str, capsys: Any) -> None:
    from dinopl.cli.main import main

    arguments = ["--config=configs/fprnn/s3.yaml", *script.VARIANTS[variant], "--print_config"]
    assert main(["fit", *arguments]) == 0
    capsys.readouterr()


def test_the_clock_tells_steps_from_waiting(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 4.0, 8.0])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(now))
    logged: dict[str, float] = {}

    class Module:
        def log(self, name: str, value: float) -> None:
            logged[name] = value

    class Tokens:
        def numel(self) -> int:
            return 12

    clock, module = script.TokenClock(), Module()
    clock.on_train_epoch_start(None, module)
    for index in range(2):
        clock.on_train_batch_start(None, module, {"tokens": Tokens()}, index)
        clock.on_train_batch_end(None, module)
    clock.on_train_epoch_end(None, module)
    assert logged == {"speed/training_tokens_per_s": 24 / 6, "speed/generated_tokens_per_s": 24 / 2}
