"""Searches: what is drawn, that it goes on where it stopped, and what its progress says."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dinopl.sweep.file import Axis, Sweep
from dinopl.sweep.progress import Progress, best_of, line, measure
from dinopl.sweep.queue import NEXT, State, state_of
from dinopl.sweep.search import conflict, draw, has_more
from dinopl.sweep.values import Range
from tests.dinopl.sweep.conftest import Study

pytestmark = pytest.mark.timeout(900)  # seconds on a quiet machine, minutes on a busy one

AXES = (
    Axis("rate", Range(1e-4, 1e-1, log=True)),
    Axis("width", Range(2, 8, step=2, integer=True)),
    Axis("layers", ([4, 4], [8])),
    Axis("decay", Range(0.0, 1.0), {"variant": ("b",), "layers": ([8],)}),
)
SWEEP = Sweep(name="s", search=AXES, trials=25, variants={"a": {"x": 1}, "b": {"x": 2}}, seeds=(7,))


def make_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name="s", direction="minimize")


def test_points_are_drawn_from_the_distributions_under_their_conditions() -> None:
    study, points = make_study(), []
    while has_more(SWEEP, study):
        trial, point = draw(SWEEP, study)
        trial.set_user_attr("id", str(trial.number))
        study.tell(trial, abs(point.options["rate"] - 0.01))
        points.append(point)
    assert len(points) == 25
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


def test_a_point_to_be_tried_again_comes_first_and_unchanged() -> None:
    study = make_study()
    trial, point = draw(SWEEP, study)
    trial.set_user_attr("id", "a")
    study.tell(trial, state=TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={"id": "a", "attempt": 1})
    again, same = draw(SWEEP, study)
    assert same == point
    assert again.params == trial.params
    assert has_more(SWEEP, study)


def test_the_choices_of_a_search_cannot_change() -> None:
    before = {"axes": {"layers": [[4, 4], [8]], "rate": [1, 2]}, "variants": ["a", "b"], "direction": "minimize"}
    search = Sweep(name="s", search=AXES, variants=SWEEP.variants, direction="minimize")
    assert conflict(search, before) is None
    assert conflict(search, {}) is None
    assert conflict(search, before | {"axes": {"layers": [[4, 4]]}}) == "layers"
    assert conflict(search, before | {"variants": ["a"]}) == "variants"
    assert conflict(search, before | {"direction": "maximize"}) == "direction"


def trial(state: str, value: float | None = None, seconds: float = 0.0, **facts: Any) -> Any:
    begun = datetime(2026, 1, 1)
    made = create_trial(state=TrialState[state], value=value, user_attrs=facts)
    made.datetime_start = begun
    made.datetime_complete = begun + timedelta(seconds=seconds) if state == "COMPLETE" else None
    return made


def test_progress_counts_runs_and_tells_the_time_that_is_left() -> None:
    attempts = {
        "a": [trial("FAIL", **{NEXT: 1}), trial("COMPLETE", 0.5, 100.0, options={"lr": 1}, variant="v")],
        "b": [trial("COMPLETE", float("inf"), 300.0, options={"lr": 2})],
        "c": [trial("RUNNING")],
        "d": [trial("PRUNED")],
        "e": [trial("FAIL", **{NEXT: None})],
        "f": [trial("FAIL", **{NEXT: 1})],
    }
    assert [state_of(each).value for each in attempts.values()] == [
        *("finished", "finished", "running", "diverged", "failed", "waiting")
    ]
    found = measure(attempts, 9, 2, datetime(2026, 1, 1) + timedelta(seconds=50))
    assert (found.finished, found.running, found.diverged, found.failed, found.left) == (2, 1, 1, 1, 4)
    assert found.seconds_left == (150 + 4 * 200) / 2
    low, high = (Sweep(name="s", metric="val/loss", direction=way) for way in ("minimize", "maximize"))
    assert best_of(attempts, low) == best_of(attempts, high) == (0.5, "v, lr=1")  # infinite: without the metric
    assert best_of(attempts, Sweep(name="s", metric="test/loss", direction="minimize")) is None
    assert state_of([]) is State.FAILED


def test_progress_is_one_line() -> None:
    found = Progress(9, 2, 1, 1, 1, 475.0, (0.51234, "v, lr=1"))
    told = "s: 2/9 done, 1 running, 1 diverged, 1 failed, 4 left, 0:07:55 to go; best val/loss 0.5123 (v, lr=1)"
    assert line("s", found, "val/loss") == told
    assert line("s", Progress(2, 2), None) == "s: 2/2 done, 0 running, 0 failed, 0 left"


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
    told = study.attempts()
    assert [each.state.name for each in told] == ["COMPLETE"] * 4
    for each in told:
        (results,) = study.results(each.user_attrs["id"])
        assert each.value == results["metrics"]["val/kl"]
        model = results["config"]["model"]["init_args"]
        assert model["student"]["init_args"]["alpha"] == each.params["model.student.alpha"]
        assert model["teacher"]["init_args"]["which"] == each.params["model.teacher.which"]
        assert Path(model["teacher"]["init_args"]["checkpoint"]).is_relative_to(study.path / "shared")
    assert list(study.finished("shared").values()) == [1]  # made once, by the first who needed it
    best = min(each.value for each in told)
    assert re.search(rf"best val/kl {best:.4g} ".replace("+", r"\+"), capsys.readouterr().err)

    code, study = sweep(SEARCH.replace("trials: 4", "trials: 5").replace("val/kl", "val/kll"))
    assert code == 1
    assert [each.state.name for each in study.attempts()] == [*["COMPLETE"] * 4, "FAIL"]
    assert "the run has no finite metric 'val/kll'; did you mean 'val/kl'?" in capsys.readouterr().err
