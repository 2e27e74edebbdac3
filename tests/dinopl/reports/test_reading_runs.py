"""Run folders: complete, cut short, damaged, and not run folders at all."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger

from dinopl.reports import History, Run

RESULTS = {
    "metrics": {"probe/student/linear": 0.8, "val/loss": None},
    "seed": 3,
    "versions": {"torch": "2.11"},
    "config": {"seed_everything": 3, "model": {"lr": 0.1}},
    "status": "finished",
    "resumed_from": "runs/a/checkpoints/last.ckpt",
}


def test_a_finished_run(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "metrics.csv").write_text("step,train/kl\n0,0.5\n1,0.25\n")
    run = Run.load(str(tmp_path))
    assert run.path == tmp_path
    found = {name: getattr(run, name) for name in RESULTS}
    assert found == RESULTS
    assert run.history.rows("step", "train/kl") == [(0, 0.5), (1, 0.25)]


def test_a_running_or_killed_run(tmp_path):
    (tmp_path / "config.yaml").write_text("seed_everything: 7\nmodel:\n  lr: 0.1\n")
    run = Run.load(tmp_path)
    assert (run.status, run.metrics, run.seed, len(run.history)) == ("unfinished", {}, 7, 0)
    assert run.config["model"] == {"lr": 0.1}
    assert run.resumed_from is None


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({"stages": ["fit"]}, "unfinished"),
        ({"stages": ["fit", "test"]}, "finished"),
        ({"metrics": {"val/loss": 1.0}}, "unfinished"),  # of a version that did not note its stages
        ({"metrics": {"test/loss": 1.0}}, "finished"),
        ({"stages": ["fit"], "command": "validate"}, "finished"),
        ({"stages": ["fit"], "config": {"test_after_fit": False}}, "finished"),
        ({"stages": ["fit"], "config": {"test_after_fit": True, "trainer": {"fast_dev_run": True}}}, "finished"),
        ({"stages": ["fit"], "config": None}, "finished"),  # of a Trainer of one's own
        ({"stages": [], "status": "failed"}, "failed"),
    ],
)
def test_a_fit_is_finished_once_its_test_is(tmp_path, facts, status):
    results = {"status": "finished", "command": "fit", "config": {"test_after_fit": True}, **facts}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert Run.load(tmp_path).status == status


def test_results_alone(tmp_path):
    (tmp_path / "results.json").write_text('{"metrics": null, "status": "failed", "seed": null}')
    run = Run.load(tmp_path)
    assert (run.status, run.metrics, run.seed, run.config) == ("failed", {}, None, {})


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_folders_that_are_none(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name) as caught:
        Run.load(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("results.json", '{"metrics": {'),
        ("results.json", "[1, 2]"),
        ("config.yaml", "a: [1,\nb: 2"),
        ("results.json", ""),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=file) as caught:
        Run.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_a_logger_writes(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    logger.log_metrics({"train/kl": 0.5, "epoch": 0}, step=0)
    logger.log_metrics({"probe/epoch": 1.0, "probe/student/knn": float("nan")}, step=4)
    logger.log_metrics({"train/kl": 0.25, "epoch": 1}, step=5)
    logger.save()
    history = Run.load(tmp_path).history
    assert len(history) == 3
    assert "train/kl" in history
    assert "val/loss" not in history
    assert history.rows("step", "train/kl") == [(0, 0.5), (5, 0.25)]
    assert history.columns["probe/student/knn"] == [None, None, None]
    assert history.rows("step", "probe/student/knn") == history.rows("step", "val/loss") == []


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("step,a\n", []),
        ("step,a\n1,2\n2,3", [(1, 2)]),
        ("step,a\n1,2\n2\n3,4\n", [(1, 2), (3, 4)]),
        ("step,a\n1,2,9\n2,x\n", [(1, 2)]),
    ],
)
def test_columns_that_are_cut_short(tmp_path, text, rows):
    (tmp_path / "metrics.csv").write_text(text)
    assert History.read(tmp_path / "metrics.csv").rows("step", "a") == rows


numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), max_size=8))
def test_numbers_survive_the_file(tmp_path_factory, rows):
    text = io.StringIO()
    csv.writer(text).writerows([("a", "b"), *(["" if v is None else repr(v) for v in row] for row in rows)])
    path = tmp_path_factory.mktemp("run") / "metrics.csv"
    path.write_text(text.getvalue(), newline="")
    history = History.read(path)
    assert list(zip(history.columns["a"], history.columns["b"], strict=True) if rows else []) == rows
    assert history.rows("b") == [(b,) for _, b in rows if b is not None]


def log(steps_per_epoch, epochs, every):
    """Steps and epochs as a trainer logs them: every few steps, from 0, in epochs from 0."""
    steps = [step for step in range(steps_per_epoch * epochs) if (step + 1) % every == 0]
    return {"step": [float(s) for s in steps], "epoch": [float(s // steps_per_epoch) for s in steps]}


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 50), epochs=st.integers(1, 12), every=st.integers(1, 10))
def test_steps_an_epoch(steps, epochs, every):
    """Never more than the truth, and exact if epochs end with a row or a probe point tells."""
    history = History(log(steps, epochs, every))
    assert history.steps_per_epoch() <= steps or not len(history)
    if steps % every == 0:
        assert history.steps_per_epoch() == steps
    told = {"step": [0.0, 1.5 * steps], "epoch": [None, None], "probe/epoch": [0.0, 1.5]}
    columns = {**log(steps, epochs, every), "probe/epoch": [None] * len(history)}
    assert History({name: columns[name] + told[name] for name in told}).steps_per_epoch() == steps
