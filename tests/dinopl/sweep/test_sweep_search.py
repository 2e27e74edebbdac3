"""Searches: what is drawn, that it goes on where it stopped, and what its progress says."""

import re
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from dinopl.sweep.engine import best_of, progress
from dinopl.sweep.file import Axis, Range, Sweep
from dinopl.sweep.grid import Point
from dinopl.sweep.plan import Job
from dinopl.sweep.search import conflict, draw, open_search, result
from dinopl.sweep.study import Outcome
from tests.dinopl.sweep.conftest import Study

pytestmark = pytest.mark.timeout(900)  # seconds on a quiet machine, minutes on a busy one

AXES = (
    Axis("rate", Range(1e-4, 1e-1, log=True)),
    Axis("width", Range(2, 8, step=2, integer=True)),
    Axis("layers", ([4, 4], [8])),
    Axis("decay", Range(0.0, 1.0), {"variant": ("b",), "layers": ([8],)}),
)
SWEEP = Sweep(
    name="s", search=AXES, trials=25, variants={"a": {"x": 1}, "b": {"x": 2}}, seeds=(7,), direction="minimize"
)


def test_points_are_drawn_from_the_distributions_under_their_conditions() -> None:
    study, points, outcomes = open_search(SWEEP, ()), [], []
    for _ in range(25):
        trial, point = draw(SWEEP, study)
        points.append(point)
        outcomes.append(Outcome("", "", "finished", abs(point.options["rate"] - 0.01)))
        value, state = result(SWEEP, outcomes[-1])
        study.tell(trial, value, state)
    for point in points:
        options = point.options
        assert options["x"] == {"a": 1, "b": 2}[str(point.variant)]
        assert 1e-4 <= options["rate"] <= 1e-1
        assert options["width"] in (2, 4, 6, 8)
        assert options["layers"] in ([4, 4], [8])
        assert ("decay" in options) == (point.variant == "b" and options["layers"] == [8])
        assert options["seed_everything"] == 7
    # each draw has a sampler of its own, as after a restart: no two are alike all the same
    assert len({point.options["rate"] for point in points}) == 25
    late = [abs(point.options["rate"] - 0.01) for point in points[12:]]
    assert sorted(late)[len(late) // 2] < 0.02  # and TPE learns from what it was told

    # the study is made anew from what is on the disk, and goes on as the first one would have
    again = open_search(SWEEP, zip(points, outcomes, strict=True))
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]
    assert [trial.value for trial in again.trials] == [trial.value for trial in study.trials]
    assert draw(SWEEP, again)[1] == draw(SWEEP, study)[1]


def test_what_ended_otherwise_and_what_the_file_no_longer_holds_is_no_value_for_a_search() -> None:
    fits, outside = (Point("a", {"x": 1, "rate": rate, "width": 2, "layers": [8]}) for rate in (0.01, 5.0))
    known = [
        (fits, Outcome("a", "", "failed")),
        (fits, Outcome("b", "", "diverged")),
        (outside, Outcome("c", "", "finished")),
    ]
    states = [trial.state.name for trial in open_search(SWEEP, known).trials]
    assert states == ["FAIL", "PRUNED"]
    assert result(SWEEP, Outcome("d", "", "finished")) == (float("inf"), optuna.trial.TrialState.COMPLETE)


def test_the_choices_of_a_search_cannot_change() -> None:
    before = {"axes": {"layers": [[4, 4], [8]], "rate": [1, 2]}, "variants": ["a", "b"], "direction": "minimize"}
    search = Sweep(name="s", search=AXES, variants=SWEEP.variants, direction="minimize")
    assert conflict(search, before) is None
    assert conflict(search, {}) is None
    assert conflict(search, before | {"axes": {"layers": [[4, 4]]}}) == "layers"
    assert conflict(search, before | {"variants": ["a"]}) == "variants"
    assert conflict(search, before | {"direction": "maximize"}) == "direction"


def test_progress_is_one_line_that_counts_runs_and_says_what_is_left() -> None:
    def job(run: str, variant: str | None, **options: float) -> Job:
        return Job(run, "trials", variant, options, {}, (), ())

    low, high = (Sweep(name="s", metric="val/loss", direction=way) for way in ("minimize", "maximize"))
    ended = [
        (job("a", "v", lr=1), Outcome("a", "v", "finished", 0.51234, 100.0)),
        (job("b", None, lr=2), Outcome("b", "", "finished", None, 300.0)),
        (job("d", None), Outcome("d", "", "diverged")),
        (job("e", None), Outcome("e", "", "failed")),
    ]
    outcomes = [outcome for _, outcome in ended]
    assert best_of(low, ended) == best_of(high, ended) == (0.51234, ended[0][0])
    assert best_of(Sweep(name="s", metric="test/loss", direction="minimize"), ended) is None
    told = "s: 2/9 done, 1 running, 1 diverged, 1 failed, 4 left, 0:07:30 to go; best val/loss 0.5123 (v, lr=1)"
    assert progress(low, 9, outcomes, 1, 2, best_of(low, ended)) == told
    assert progress(Sweep(name="s"), 2, outcomes[:2], 0, 0, None) == "s: 2/2 done, 0 running, 0 failed, 0 left"


SEARCH = """
metric: val/kl
direction: minimize
trials: 4
seeds: [1]
set: {model.probes: null, model.teacher.checkpoint: "${shared.made.checkpoint}"}
search:
  model.student.alpha: {from: 0, to: 1}
  model.teacher.which: [teacher, student]
shared: {made: {options: {seed_everything: 5}}}
"""


def test_a_search_ends_with_its_trials_and_goes_on_with_more(
    sweep: Callable[..., tuple[int, Study]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, study = sweep(SEARCH, "--workers", "2")
    assert code == 0
    trials = study.trials()
    assert list(study.finished().values()) == [1] * 4
    values = []
    for run, trial in trials.items():
        (results,) = study.results(run)
        values.append(results["metrics"]["val/kl"])
        model = results["config"]["model"]["init_args"]
        assert model["student"]["init_args"]["alpha"] == trial["options"]["model.student.alpha"]
        assert model["teacher"]["init_args"]["which"] == trial["options"]["model.teacher.which"]
        assert Path(model["teacher"]["init_args"]["checkpoint"]).is_relative_to(study.path / "shared")
    assert list(study.finished("shared").values()) == [1]  # made once, for all who need it
    assert re.search(rf"best val/kl {min(values):.4g} ".replace("+", r"\+"), capsys.readouterr().err)
    assert not list(study.path.glob("*.log"))  # what is known of the points is in their folders

    code, study = sweep(SEARCH.replace("trials: 4", "trials: 5").replace("val/kl", "val/kll"))
    assert code == 1
    assert list(study.finished().values()) == [1] * 5  # one more, and none again
    assert "the run has no finite metric 'val/kll'; did you mean 'val/kl'?" in capsys.readouterr().err
