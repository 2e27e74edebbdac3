"""How far apart the parameters of two networks of one architecture are."""

import torch
from torch import Tensor, nn


def parameter_distance(first: nn.Module, second: nn.Module) -> Tensor:
    """Euclidean distance of all parameters, taken as one vector, in float64.

    Args:
        first: a network.
        second: another one, on the same device.

    Returns:
        A scalar; not a number where names or shapes of the parameters differ.
    """
    one, other = (dict(network.named_parameters()) for network in (first, second))
    if {name: p.shape for name, p in one.items()} != {name: p.shape for name, p in other.items()}:
        return torch.tensor(torch.nan, dtype=torch.float64)
    squares = [(one[name].detach().double() - other[name].detach().double()).square().sum() for name in one]
    return torch.stack(squares).sum().sqrt()
