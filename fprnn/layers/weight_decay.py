"""Which parameters weight decay leaves alone."""

from collections.abc import Iterable
from typing import TypedDict

from torch import nn


class ParameterGroup(TypedDict):
    """What an optimiser takes."""

    params: list[nn.Parameter]
    weight_decay: float


def weight_decay_groups(module: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Two groups for an optimiser: the parameters that decay, and those that do not.

    As in "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025): no decay for names that contain "bias" or "norm", nor for
    those that a submodule lists in its attribute ``no_weight_decay``. Everything else decays, the embedding and both
    factors of a weight-normalised projection included. Frozen parameters are left out.

    Args:
        module: whose parameters are grouped.
        weight_decay: of the first group.
    """
    exempt = set(_exempt(module))
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decays = [p for name, p in trained if name not in exempt]
    stays = [p for name, p in trained if name in exempt]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": stays, "weight_decay": 0.0}]


def _exempt(module: nn.Module) -> Iterable[str]:
    yield from (name for name, _ in module.named_parameters() if "bias" in name or "norm" in name)
    for prefix, child in module.named_modules():
        yield from (f"{prefix}.{name}".lstrip(".") for name in getattr(child, "no_weight_decay", ()))
