"""Which parameters the optimiser gets, and which of them decay.

"Random Teachers are Good Teachers", appendix E.4. What differs from the published code: there the group of the biases
keeps AdamW's default weight decay of 0.01 by oversight; here it has none, and ``bias_weight_decay=0.01`` gives the
code's behaviour.
"""

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module, bias_weight_decay: float | None = 0.0) -> list[dict[str, Any]]:
    """Groups of the trainable parameters for any torch optimiser: weights, then biases.

    A parameter counts as a bias if its name ends in ``bias`` or it has at most one dimension; so do the weights of norm
    layers. Groups keep the module's order; a shared parameter comes once; an empty group is left out.

    Args:
        module: whose parameters to take, as far as they require a gradient.
        bias_weight_decay: weight decay of the biases. None leaves the optimiser's own to them too. Optimisers without
            weight decay ignore it.

    Returns:
        At most two dicts with ``params`` and ``name`` ("weights", "biases"); the weights' decay is the optimiser's own.

    Raises:
        ValueError: if ``bias_weight_decay`` is negative.
    """
    check_bias_weight_decay(bias_weight_decay)
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    biases = [p for name, p in trainable if name.endswith("bias") or p.ndim <= 1]
    of_biases = {id(p) for p in biases}
    weights = [p for _, p in trainable if id(p) not in of_biases]
    decay = {} if bias_weight_decay is None else {"weight_decay": bias_weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": weights, "name": "weights"},
        {"params": biases, "name": "biases"} | decay,
    ]
    return [group for group in groups if group["params"]]


def check_bias_weight_decay(bias_weight_decay: float | None) -> None:
    """Raises a ValueError if ``bias_weight_decay`` is negative."""
    if bias_weight_decay is not None and not bias_weight_decay >= 0:
        raise ValueError(f"--model.bias_weight_decay must be at least 0, not {bias_weight_decay}; 0 switches it off")
