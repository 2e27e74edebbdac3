import copy
from functools import partial

import pytest
import torch
from torch import nn

from dinopl.core.optimizer import follow_given, given_options, parameter_groups, rehearse
from dinopl.core.schedules import WarmupCosine
from dinopl.core.types import ImageShape
from dinopl.encoders import ResNet18


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.table_bias = nn.Parameter(torch.ones(3, 3))  # a bias by name, though two-dimensional
        self.scale = nn.Parameter(torch.ones(()))

    def names(self, group):
        known = {id(p): name for name, p in self.named_parameters()}
        return [known[id(p)] for p in group["params"]]


def test_weights_and_biases():
    module = Tied()
    weights, biases = parameter_groups(module)
    assert (weights["name"], biases["name"]) == ("weights", "biases")
    assert module.names(weights) == ["first.weight"]
    assert module.names(biases) == ["table_bias", "scale", "first.bias", "norm.weight", "norm.bias", "second.bias"]
    assert biases["weight_decay"] == 0
    assert "weight_decay" not in weights


def test_every_trainable_parameter_once():
    module = ResNet18(ImageShape(3, 32, 32))
    groups = parameter_groups(module)
    taken = [id(p) for group in groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in module.parameters())
    assert sum(p.numel() for p in groups[1]["params"]) == 2 * 4800
    assert all(p.ndim == 4 for p in groups[0]["params"])


def test_empty_groups_are_left_out():
    assert [group["name"] for group in parameter_groups(nn.Linear(2, 2, bias=False))] == ["weights"]
    assert [group["name"] for group in parameter_groups(nn.LayerNorm(2))] == ["biases"]
    assert parameter_groups(nn.Linear(2, 2).requires_grad_(False)) == []


def step_without_gradient(bias_weight_decay, optimizer=torch.optim.AdamW, **kwargs):
    module = nn.Linear(4, 4)
    before = module.weight.clone(), module.bias.clone()
    optimizer = optimizer(parameter_groups(module, bias_weight_decay), lr=0.1, **kwargs)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    return [(after / b).detach() for after, b in zip((module.weight, module.bias), before, strict=True)]


def test_paper_setting_moves_nothing_without_gradient():
    weight, bias = step_without_gradient(0.0, weight_decay=0)
    assert (weight == 1).all()
    assert (bias == 1).all()


def test_reference_quirk_shrinks_biases():
    weight, bias = step_without_gradient(0.01, weight_decay=0)
    assert (weight == 1).all()
    torch.testing.assert_close(bias, torch.full_like(bias, 1 - 0.1 * 0.01))


@pytest.mark.parametrize(("bias_weight_decay", "factor"), [(0.0, 1.0), (None, 1 - 0.1 * 0.3)])
def test_own_decay_of_the_optimiser(bias_weight_decay, factor):
    weight, bias = step_without_gradient(bias_weight_decay, weight_decay=0.3)
    torch.testing.assert_close(weight, torch.full_like(weight, 1 - 0.1 * 0.3))
    torch.testing.assert_close(bias, torch.full_like(bias, factor))


@pytest.mark.parametrize("bias_weight_decay", [0.0, 0.01, None])
@pytest.mark.parametrize("optimizer", [torch.optim.Rprop, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam])
def test_other_optimisers(optimizer, bias_weight_decay):
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    made = optimizer(parameter_groups(module, bias_weight_decay), lr=0.1)
    before = [p.clone() for p in module.parameters()]
    module(torch.randn(2, 4)).square().mul(torch.randn(2, 4)).sum().backward()
    made.step()
    assert all(not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    assert [group["name"] for group in made.param_groups] == ["weights", "biases"]


def test_negative_decay():
    with pytest.raises(ValueError, match=r"bias_weight_decay=-1: must be at least 0"):
        parameter_groups(nn.Linear(1, 1), -1)


def one_step_more(rate, decay, milestones, source=None, steps=4):
    """Weights after some steps of AdamW with a schedule; from ``source`` on, with the options given now."""
    torch.manual_seed(0)
    module = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    given = given_options(optimizer, scheduler)
    if source is not None:
        follow_given(source, source["given"], optimizer, scheduler)
        module.load_state_dict(source["weights"])
        optimizer.load_state_dict(source["optimizer_states"][0])
        scheduler.load_state_dict(source["lr_schedulers"][0])
    rates = []
    for _ in range(steps):
        for p in module.parameters():
            p.grad = torch.ones_like(p)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    states = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]}
    states |= {"weights": module.state_dict(), "given": given}
    return copy.deepcopy(states), rates


def test_a_resumed_optimiser_follows_the_options_given_now():
    whole, rates = one_step_more(0.1, 0.5, [2, 6], steps=8)
    half, _ = one_step_more(0.1, 0.5, [2, 6])
    same, after = one_step_more(0.1, 0.5, [2, 6], source=copy.deepcopy(half))
    assert after == rates[4:]
    assert torch.equal(same["weights"]["weight"], whole["weights"]["weight"])  # what was not changed is as it was

    changed, after = one_step_more(0.4, 0.0, [2, 5], source=copy.deepcopy(half))
    assert after == pytest.approx(
        [0.04, 0.004, 0.004, 0.004], rel=1e-12
    )  # four times, and the second cut a step earlier
    (group,) = changed["optimizer_states"][0]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.4, 0.0)
    assert changed["lr_schedulers"][0]["base_lrs"] == [0.4]
    assert changed["optimizer_states"][0]["state"][0]["step"] == 8  # the moments went on

    other = copy.deepcopy(half)
    follow_given(other, None, torch.optim.AdamW(nn.Linear(3, 3).parameters(), lr=9.0), None)  # of an earlier version
    assert other["optimizer_states"][0]["param_groups"] == half["optimizer_states"][0]["param_groups"]
    with pytest.raises(ValueError, match=r"ckpt_path: its optimiser has groups of \[2\] parameters, and this one of "):
        follow_given(other, None, torch.optim.AdamW([nn.Parameter(torch.zeros(2))]), None)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "message"),
    [
        (partial(torch.optim.Adam, capturable=True), None, "optimizer=Adam: cannot take a step (.*capturable"),
        (torch.optim.SparseAdam, None, "optimizer=SparseAdam: cannot take a step (.*dense gradients"),
        (
            torch.optim.SGD,
            partial(torch.optim.lr_scheduler.StepLR, step_size=0),
            "lr_scheduler=StepLR: cannot take a step",
        ),
    ],
)
def test_what_every_step_would_fail_with_is_found_before(optimizer, schedule, message):
    like = torch.optim.SGD([nn.Parameter(torch.zeros(2))])
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        rehearse(optimizer, schedule, like)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.LBFGS, torch.optim.Rprop])
@pytest.mark.parametrize("schedule", [None, torch.optim.lr_scheduler.ReduceLROnPlateau, WarmupCosine])
def test_a_rehearsal_leaves_no_trace(optimizer, schedule):
    like = torch.optim.SGD([nn.Parameter(torch.ones(2))])
    before = torch.get_rng_state()
    rehearse(optimizer, schedule, like, length=5 if schedule is WarmupCosine else None)
    assert torch.equal(torch.get_rng_state(), before)
    assert like.param_groups[0]["params"][0].tolist() == [1, 1]
