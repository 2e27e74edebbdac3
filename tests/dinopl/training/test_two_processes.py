import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    environment = {k: v for k, v in os.environ.items() if k not in ("PL_GLOBAL_SEED", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, str(script), str(root)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.fixture(scope="module")
def reports(root: Path) -> list[dict[str, Any]]:
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(2)]


def test_all_processes_know_one_folder_and_one_of_them_writes(root: Path, reports: list[dict[str, Any]]) -> None:
    assert reports[0]["path"] == reports[1]["path"]
    runs = sorted(root.glob("run/*"))
    assert len(runs) == 7  # whole, half, resumed and predicted, stopped, longer, resumed after the stop, diverged
    assert all(len(list(run.glob("events.*"))) >= 1 for run in runs)
    statuses = sorted(json.loads((run / "results.json").read_text())["status"] for run in runs)
    assert statuses == ["diverged", *["finished"] * 5, "interrupted"]


def test_a_loss_that_is_nan_on_one_process_stops_both(reports: list[dict[str, Any]]) -> None:
    assert reports[0]["divergence"].startswith("step 2 (epoch 1): another process's loss is not finite; learning rate")
    assert reports[1]["divergence"].startswith("step 2 (epoch 1): loss is nan; logged: train/loss=nan")


def test_predictions_of_both_are_in_order_without_the_samplers_padding(reports: list[dict[str, Any]]) -> None:
    assert reports[1]["predictions"] == []
    (path,) = reports[0]["predictions"]
    assert Path(path).parent == Path(reports[0]["path"])
    assert np.load(path)["index"].tolist() == list(range(13))


def test_each_process_takes_up_its_own_random_states(reports: list[dict[str, Any]]) -> None:
    assert reports[0]["whole"] == reports[0]["resumed"] == reports[1]["resumed"]


def test_a_signal_to_one_process_stops_both_after_one_batch_and_both_go_on_exactly(
    reports: list[dict[str, Any]],
) -> None:
    assert reports[0]["stopped"] == reports[1]["stopped"] == [143, "interrupted"]
    assert reports[0]["longer"] == reports[0]["after the stop"] == reports[1]["after the stop"]
