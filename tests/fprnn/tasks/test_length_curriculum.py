"""Curricula against the rule written out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprnn.tasks import AdaptiveLengths, LinearLengths


def test_linear_lengths_go_from_start_to_goal() -> None:
    curriculum = LinearLengths(start=4, steps=100)
    assert [curriculum.longest(step, 16) for step in (0, 49, 50, 99, 100, 10**6)] == [4, 9, 10, 15, 16, 16]
    assert not curriculum.needs_accuracy
    assert curriculum.state_dict() == {}


@given(st.integers(1, 20), st.integers(1, 50), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_linear_lengths_never_fall_and_never_pass_the_goal(start: int, steps: int, goal: int) -> None:
    lengths = [LinearLengths(start, steps).longest(step, goal) for step in range(60)]
    assert lengths == sorted(lengths)
    assert lengths[0] == min(start, goal)
    assert lengths[-1] == goal


def test_adaptive_lengths_grow_by_a_quarter_and_one() -> None:
    curriculum, seen = AdaptiveLengths(start=2, smoothing=0.0), []
    for _ in range(9):
        seen.append(curriculum.longest(0, 16))
        curriculum.observe(1.0, 16)
    assert seen == [2, 3, 4, 6, 8, 11, 14, 16, 16]


def test_adaptive_lengths_wait_for_the_running_accuracy() -> None:
    curriculum, running, batches = AdaptiveLengths(start=2, threshold=0.9, smoothing=0.9), 0.0, 0
    while running <= 0.9:
        running, batches = 0.9 * running + 0.1, batches + 1
        assert curriculum.longest(0, 16) == 2
        curriculum.observe(1.0, 16)
    assert batches == 22
    assert curriculum.longest(0, 16) == 3
    assert curriculum.running == 0.0


def test_adaptive_lengths_stay_where_the_task_is_not_learnt() -> None:
    curriculum = AdaptiveLengths()
    for _ in range(500):
        curriculum.observe(0.89, 16)
    assert curriculum.longest(500, 16) == 2


def test_adaptive_lengths_survive_a_restart() -> None:
    first, second = AdaptiveLengths(), AdaptiveLengths()
    for _ in range(30):
        first.observe(0.99, 16)
    second.load_state_dict(first.state_dict())
    for accuracy in (1.0, 0.95) * 20:
        first.observe(accuracy, 16)
        second.observe(accuracy, 16)
        assert first.state_dict() == second.state_dict()
    assert first.longest(0, 16) > 3
    assert first.longest(0, 3) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [("start", 0), ("threshold", 0.0), ("threshold", 1.0), ("smoothing", 1.0), ("smoothing", -0.1)],
)
def test_a_bad_option_of_adaptive_lengths_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}: "):
        AdaptiveLengths(**{option: value})


@pytest.mark.parametrize(("start", "steps", "option"), [(0, 5, "start"), (2, 0, "steps")])
def test_a_bad_option_of_linear_lengths_is_refused(start: int, steps: int, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0: "):
        LinearLengths(start, steps)
