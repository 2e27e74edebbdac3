"""Which parameters weight decay leaves alone."""

import torch
from torch import nn

from fprnn.layers import FPRNN, decay_kinds, weight_decay_groups


class Flagged(nn.Module):
    """A module that exempts one of its own parameters."""

    no_weight_decay = ("rates",)

    def __init__(self) -> None:
        super().__init__()
        self.rates, self.weight = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))


def test_biases_norms_and_flagged_parameters_do_not_decay() -> None:
    model = nn.ModuleDict(
        {"layer": FPRNN(4, in_loop_norm=True, conv_width=4), "flagged": Flagged(), "head": nn.Linear(4, 2)}
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays, stays = weight_decay_groups(model, 0.1)
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.1, 0.0)
    exempt = {names[p] for p in stays["params"]}
    assert {"flagged.rates", "head.bias", "layer.mixer.projection.bias", "layer.out_norm.weight"} <= exempt
    assert {"layer.loop_norm.weight", "layer.decay_gate.bias", "layer.read_convs.x.bias"} <= exempt
    decaying = {names[p] for p in decays["params"]}
    assert {"layer.mixer.projection.magnitude.0", "layer.mixer.projection.direction.0", "flagged.weight"} <= decaying
    assert exempt | decaying == set(names.values())
    assert not exempt & decaying


def test_a_modules_own_flags_count_and_frozen_parameters_are_left_out() -> None:
    model = Flagged()
    decays, stays = weight_decay_groups(model, 0.1)
    assert decays["params"] == [model.weight]
    assert stays["params"] == [model.rates]
    assert [kind for _, kind in decay_kinds(nn.ModuleList([model, nn.Linear(2, 2)]))] == [
        "exempt",
        "weight",
        "weight",
        "bias",
    ]
    model.weight.requires_grad_(False)
    assert weight_decay_groups(model, 0.1)[0]["params"] == []
