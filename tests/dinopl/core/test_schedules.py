"""Schedules against closed forms, and the schedulers against the functions."""

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from dinopl.core.schedules import (
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
    with pytest.raises(ValueError, match="total_steps: null needs a module"):
        rates(lambda o: WarmupCosine(o, 3), 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps: -1 is negative"),
        ({"warmup_steps": 5, "total_steps": 5}, "total_steps: 5 leaves nothing after warmup_steps=5"),
        ({"floor": 1.5}, r"floor: 1.5 is not in \[0, 1\]"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rates(lambda o: WarmupCosine(o, **options), 1)
