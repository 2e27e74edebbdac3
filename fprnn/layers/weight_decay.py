"""Which parameters weight decay leaves alone.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) and its released code: no decay on word problems and text for biases,
norms and what a layer exempts, on arithmetic for the last alone, and for nothing on copying and catbAbI.
"""

from collections.abc import Iterator
from typing import Literal, TypedDict

from torch import nn

DecayKind = Literal["weight", "bias", "exempt"]
"""What weight decay tells apart; a norm's parameters count as biases."""


class ParameterGroup(TypedDict):
    """What an optimiser takes."""

    params: list[nn.Parameter]
    weight_decay: float


def weight_decay_groups(module: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Two groups for an optimiser: the parameters that decay, and those that do not.

    No decay for names that contain "bias" or "norm", nor for those that a submodule lists in its attribute
    ``no_weight_decay``. Everything else decays, the embedding and both factors of a weight-normalised projection
    included. Frozen parameters are left out.

    Args:
        module: whose parameters are grouped.
        weight_decay: of the first group.
    """
    kinds = list(decay_kinds(module))
    decays = [parameter for parameter, kind in kinds if kind == "weight"]
    stays = [parameter for parameter, kind in kinds if kind != "weight"]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": stays, "weight_decay": 0.0}]


def decay_kinds(module: nn.Module) -> Iterator[tuple[nn.Parameter, DecayKind]]:
    """Yields each trainable parameter with its kind.

    A bias or norm that a layer exempts as well is ``exempt``.

    Args:
        module: whose parameters are told apart.
    """
    exempt = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, child in module.named_modules()
        for name in getattr(child, "no_weight_decay", ())
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kind: DecayKind = "bias" if "bias" in name or "norm" in name else "weight"
            yield parameter, "exempt" if name in exempt else kind
