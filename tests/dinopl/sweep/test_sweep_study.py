"""The folder of a study is all that is known of its runs: what ended is not made again, and what failed is counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dinopl.sweep.engine import make
from dinopl.sweep.file import Sweep
from dinopl.sweep.plan import Job
from dinopl.sweep.study import KILLED, Outcome, Study

SWEEP = Sweep("study", metric="val/loss", direction="minimize")


def job(run: str, needs: tuple[str, ...] = ()) -> Job:
    config = {"seed_everything": 0, "trainer": {"max_epochs": 3, "max_steps": -1}}
    return Job(run, "trials", run, {"model.lr": 0.1}, config, needs, ())


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(SWEEP, tmp_path / "study", Path.cwd(), session="now", retries=1, threads=1)
    for run in "abcd":
        made.begin_run(job(run))
    (made.path / "study.json").write_text("{}")
    return made


def write_results(study: Study, run: str, attempt: str = "20260101-000000-aa", **facts: Any) -> Path:
    path = study.path / "trials" / run / attempt
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("{}")
    whole = {"status": "finished", "command": "fit", "metrics": {"val/loss": 0.5, "test/loss": 0.6}}
    if facts.get("status", "") is not None:
        (path / "results.json").write_text(json.dumps(whole | facts))
    return path


class Runs:
    """Stands in for ``dinopl fit``: what each call is to do, in their order."""

    def __init__(self, study: Study, *calls: Any) -> None:
        self.study = study
        self.calls = list(calls)
        self.made = 0

    def __call__(self, words: list[str]) -> None:
        assert words[0] == "--config"
        self.made += 1
        call = self.calls.pop(0)
        if isinstance(call, BaseException):
            raise call
        write_results(self.study, Path(words[1]).parent.name, f"2026010{self.made}-000000-aa")


def test_a_run_killed_between_its_end_and_its_test_is_not_done(study: Study) -> None:
    write_results(study, "a", stages=["fit"], config={"test_after_fit": True})
    assert study.ended("trials", "a") is None
    write_results(study, "b", stages=["fit"], config={"test_after_fit": False})
    assert study.ended("trials", "b") is not None


def test_a_run_is_done_by_its_fit_and_by_no_later_test_of_it(study: Study) -> None:
    write_results(study, "a", status="interrupted")
    write_results(study, "a", "20260102-000000-aa", command="test", stages=["test"])
    assert study.ended("trials", "a") is None
    write_results(study, "a", "20260101-000001-aa")
    ended = study.ended("trials", "a")
    assert ended is not None
    assert ended[0].name == "20260101-000001-aa"


def test_what_the_folders_say_of_runs_is_what_is_known(study: Study) -> None:
    write_results(study, "a")
    write_results(study, "b", status="diverged")
    write_results(study, "c", status="interrupted")
    outcomes = [study.outcome(job(run)) for run in "abcd"]
    assert [each and each.status for each in outcomes] == ["finished", "diverged", None, None]
    assert outcomes[0] is not None
    assert outcomes[0].value == 0.5
    shutil.rmtree(study.path / "trials" / "a")
    assert study.outcome(job("a")) is None  # whose folder was removed is made again


def test_a_failed_run_is_tried_again_a_few_times_and_keeps_its_error(study: Study) -> None:
    runs = Runs(study, *[KeyError("no luck")] * 9)
    first = make(study, job("a"), runs)
    assert (first.status, first.error, runs.made) == ("failed", "KeyError: 'no luck'", 2)
    assert make(study, job("a"), runs) == first
    assert runs.made == 2  # no attempt is left
    study.retry_failed()
    assert make(study, job("a"), runs) == first
    assert runs.made == 4
    study.retry_failed()
    assert make(study, job("a"), Runs(study, KeyError("no luck"), None)).status == "finished"


def test_what_is_finished_or_needs_what_failed_is_not_run(study: Study) -> None:
    write_results(study, "a")
    assert make(study, job("a"), Runs(study)).status == "finished"
    failed = Outcome("x", "teacher", "failed", error="no luck")
    outcome = make(study, job("b", needs=("x",)), Runs(study), failed)
    assert outcome.error == "the run teacher (x) that it needs did not finish: no luck"


def test_a_lost_process_costs_its_run_an_attempt_and_an_interruption_costs_none(study: Study) -> None:
    before = Study(**(vars(study) | {"session": "before"}))
    for _ in range(5):  # drivers that were stopped
        before.note(job("a"), session="before", pid=1)
    study.begin_attempt(job("a"))
    assert not study.errors(job("a"))
    study.begin_attempt(job("a"))  # another worker has got it from the same driver
    assert [line["error"] for line in study.errors(job("a"))] == [KILLED]
    outcome = make(study, job("a"), Runs(study))
    assert (outcome.status, outcome.error) == ("failed", KILLED)
    assert make(study, job("b"), Runs(study, None)).status == "finished"


def test_half_a_line_is_passed_over(study: Study) -> None:
    study.note(job("a"), error="no luck", again=True)
    with (study.path / "trials" / "a" / "attempts.jsonl").open("a") as file:
        file.write('\n{"time": "2026')
    study.note(job("a"), error="no luck", again=True)
    assert len(study.errors(job("a"))) == 2


@pytest.mark.parametrize(
    ("status", "epoch", "goes_on"),
    [(None, 0, True), ("interrupted", 1, True), ("failed", 1, False), (None, 2, False)],
)
def test_only_what_was_interrupted_in_mid_training_goes_on_from_its_checkpoint(
    study: Study, status: str | None, epoch: int, goes_on: bool
) -> None:
    write_results(study, "a", "20260101-000000-aa", status="failed")
    path = write_results(study, "a", "20260101-000001-aa", status=status) / "checkpoints" / "last.ckpt"
    assert study.checkpoint(job("a")) is None
    path.parent.mkdir()
    torch.save({"state_dict": {}, "epoch": epoch, "global_step": 7}, path)
    assert study.checkpoint(job("a")) == (path if goes_on else None)
    write_results(study, "a", "20260101-000002-aa", status=None)  # killed before it had a checkpoint of its own
    assert study.checkpoint(job("a")) == (path if goes_on else None)
    path.write_bytes(path.read_bytes()[:100])  # killed while it was written
    assert study.checkpoint(job("a")) is None
