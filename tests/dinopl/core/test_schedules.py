"""Schedules against closed forms, and the schedulers against the functions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from dinopl.core.schedules import (
    ConcatenatedSchedule,
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    MultiStepSchedule,
    Schedule,
    Scheduled,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
)


def rates(make: Any, steps: int) -> list[float]:
    """The learning rate that each step is taken with, for a full rate of 2."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_warm_up_is_linear_and_the_rest_half_a_cosine() -> None:
    values = [warmup_cosine(step, 4, 12, 0.2) for step in range(16)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[4] == 1.0
    assert values[8] == pytest.approx(0.6)  # half-way between 1 and 0.2
    assert values[6] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert values[12:] == [0.2] * 4
    assert [warmup_constant(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_constant(0, 0) == warmup_cosine(0, 0, 5) == 1.0
    assert warmup_cosine(9, 9, 9, 0.1) == 1.0  # no step is left, and none divides by zero
    assert warmup_cosine(10, 9, 9, 0.1) == pytest.approx(0.1)


def test_warm_up_and_descent_are_straight_lines() -> None:
    values = [warmup_linear(step, 4, 12, 0.2) for step in range(16)]
    assert values[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert values[4:13] == pytest.approx([1 - 0.1 * step for step in range(9)])
    assert values[12:] == pytest.approx([0.2] * 4)
    assert warmup_linear(0, 0, 5) == warmup_linear(9, 9, 9, 0.1) == 1.0


def test_schedulers_follow_the_functions() -> None:
    line = rates(lambda o: WarmupLinear(o, 3, 10, 0.1), 12)
    assert line == pytest.approx([2 * warmup_linear(step, 3, 10, 0.1) for step in range(12)])
    cosine = rates(lambda o: WarmupCosine(o, 3, 10, 0.1), 12)
    assert cosine == pytest.approx([2 * warmup_cosine(step, 3, 10, 0.1) for step in range(12)])
    assert rates(lambda o: WarmupConstant(o, 3), 5) == pytest.approx([2 / 3, 4 / 3, 2, 2, 2])
    plain = rates(lambda o: WarmupCosine(o, 0, 10), 10)
    assert plain == pytest.approx(rates(lambda o: CosineAnnealingLR(o, 10), 10))


def test_a_resumed_schedule_stands_where_it_stood_and_follows_its_own_options() -> None:
    def resumed(total: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        first = WarmupCosine(optimizer, 2, 10)
        for _ in range(4):
            optimizer.step()
            first.step()
        state, weights = first.state_dict(), optimizer.state_dict()
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        second = WarmupCosine(optimizer, 2, total)
        optimizer.load_state_dict(weights)
        second.load_state_dict(state)
        seen = []
        for _ in range(4):
            optimizer.step()
            second.step()
            seen.append(optimizer.param_groups[0]["lr"])
        return seen

    assert resumed(10) == pytest.approx([2 * warmup_cosine(step, 2, 10) for step in range(5, 9)])
    assert resumed(20) == pytest.approx([2 * warmup_cosine(step, 2, 20) for step in range(5, 9)])


def test_a_length_left_open_is_needed_only_after_the_warm_up() -> None:
    assert rates(lambda o: WarmupCosine(o, 3), 3) == pytest.approx([2 / 3, 4 / 3, 2])
    with pytest.raises(ValueError, match="total_steps=None: needs a module"):
        rates(lambda o: WarmupCosine(o, 3), 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps=-1: must be at least 0"),
        ({"warmup_steps": 5, "total_steps": 5}, "total_steps=5: leaves nothing after warmup_steps=5"),
        ({"floor": 1.5}, r"floor=1.5: must be in \[0, 1\]"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rates(lambda o: WarmupCosine(o, **options), 1)


def materialised(schedule: Schedule, steps: int, steps_per_epoch: int = 1) -> list[float]:
    """The number of every step."""
    return [schedule(step, steps, steps_per_epoch) for step in range(steps)]


@pytest.mark.parametrize("steps", [2, 5, 100])
@pytest.mark.parametrize(("start", "end"), [(0.5, 2.0), (0.996, 1.0), (3.0, 1e-3)])
def test_curves_are_those_of_numpy(start: float, end: float, steps: int) -> None:
    angle = np.linspace(-np.pi, 0, steps)
    closed = {
        LinearSchedule: np.linspace(start, end, steps),
        CosineSchedule: start + (end - start) * (0.5 + 0.5 * np.cos(angle)),
        ExponentialSchedule: np.geomspace(start, end, steps),
    }
    for kind, expected in closed.items():
        schedule = kind(start, end)
        np.testing.assert_allclose(materialised(schedule, steps), expected, rtol=1e-12)
        assert schedule(steps + 7, steps, 1) == schedule(steps - 1, steps, 1)  # what is past the end stays there
        assert schedule(0, 1, 1) == start  # a training of one step


def test_a_warm_up_reaches_its_peak_in_its_last_step_and_the_rest_ends_with_training() -> None:
    """The paper's learning rate: 10 epochs of 196 steps up, half a cosine down."""
    schedule, per_epoch = ConcatenatedSchedule(LinearSchedule(0, 5e-4), CosineSchedule(5e-4, 1e-6), 10), 196
    values = materialised(schedule, 100 * per_epoch, per_epoch)
    warm = 10 * per_epoch
    assert values[0] == 0
    assert values[warm - 1] == values[warm] == pytest.approx(5e-4)
    assert values[-1] == pytest.approx(1e-6)
    np.testing.assert_allclose(values[:warm], np.linspace(0, 5e-4, warm), atol=1e-16)
    angle = np.linspace(-np.pi, 0, len(values) - warm)
    np.testing.assert_allclose(values[warm:], 5e-4 + (1e-6 - 5e-4) * (0.5 + 0.5 * np.cos(angle)), rtol=1e-9)
    assert materialised(ConcatenatedSchedule(LinearSchedule(0, 1), 7.0, 0.2), 10) == [0, 1, *[7] * 8]
    assert materialised(ConcatenatedSchedule(0.5, LinearSchedule(0, 1), 0), 3) == [0, 0.5, 1]


def test_a_training_that_ends_in_the_first_part_is_known() -> None:
    inner = ConcatenatedSchedule(0.0, 1.0, 4)
    warm_up = ConcatenatedSchedule(inner, LinearSchedule(0, 1), 10)
    assert list(warm_up.cut_off(50, 5)) == []
    assert list(warm_up.cut_off(49, 5)) == ["where=10 is step 50"]
    assert list(warm_up.cut_off(19, 5)) == ["where=10 is step 50", "where=4 is step 20"]
    assert list(ConcatenatedSchedule(0.0, inner, 0.5).cut_off(30, 5)) == ["where=4 is step 20"]  # of 15 that are left
    assert list(LinearSchedule(0, 1).cut_off(1, 5)) == []


def test_steps_fall_where_the_paper_has_them() -> None:
    schedule = MultiStepSchedule(0.1, 0.1, [80, 120])
    found = [schedule(step, 160 * 196, 196) for step in (15679, 15680, 23519, 23520)]
    assert found == pytest.approx([0.1, 0.01, 0.01, 0.001])
    fractions = materialised(MultiStepSchedule(1.0, 0.5, [0.25, 0.5]), 8)
    assert fractions == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert materialised(ConstantSchedule(3.0), 4) == [3.0] * 4


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantSchedule(0.9),
        CosineSchedule(0.996, 1),
        ConcatenatedSchedule(ExponentialSchedule(1e-6, 1e-3), MultiStepSchedule(1e-3, 0.1, [5, 0.75]), 0.1),
    ],
)
def test_a_schedule_is_written_as_the_call_that_makes_it(schedule: Schedule) -> None:
    assert eval(repr(schedule)) == schedule
    assert schedule != LinearSchedule(0, 1)


def test_an_objects_numbers_follow_schedules() -> None:
    part: Any = Scheduled()
    part.follow(moving=LinearSchedule(1, 2), still=0.5, absent=None)
    assert (part.moving, part.still, part.absent) == (1, 0.5, None)
    part.advance(3, 5, 1)
    assert (part.moving, part.still, part.absent) == (1.75, 0.5, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConcatenatedSchedule(0.0, 1.0, 10.0), "where=10.0: must be a whole number of epochs, or a fraction"),
        (lambda: ConcatenatedSchedule(0.0, 1.0, -1), "where=-1: must be"),
        (lambda: MultiStepSchedule(1.0, 0.1, [0.5, math.nan]), "milestones=nan: must be"),
        (lambda: ExponentialSchedule(0.0, 1.0), "start=0.0: must be positive"),
    ],
)
def test_places_beyond_training_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
