"""What a token of FP-Mamba selects: how far it steps, what it writes, and where it reads.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 4 and appendix C.2: step sizes ``Delta``, write vectors
``b`` and read vectors ``c`` are functions of the input, as in Mamba (Gu and Dao, 2023), and b and c of the previous
token's output as well. Different from the released code: which of the three depend on it is an option (its step sizes
never do, though the paper's table 1 compares), and what depends on the input alone is computed once per forward pass.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.precision import at_least_float32
from fprnn.mixers.base import MixerProjection

SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1  # at the start


Selected = tuple[Tensor, ...]
"""Step sizes delta ``(..., d)`` or ``(..., heads)``, write vectors b and read vectors c ``(..., G, N)``."""


class Selector(nn.Module):
    """Step sizes, b and c from what the layer projects its input to, plus a projection of the previous output.

    Args:
        d_inner: width d.
        step_size: a map from the first of the raw parameters to step sizes.
        sizes: number of raw parameters for step sizes, b and c.
        depends: which of the three depend on the previous token's output.
        groups: G, channels of one group share b and c.
        unit_norm: divide b and c by their length.
        norm_eps: the least length that they are divided by.
    """

    def __init__(
        self,
        d_inner: int,
        step_size: nn.Module,
        sizes: tuple[int, int, int],
        depends: tuple[bool, bool, bool],
        groups: int,
        unit_norm: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.step_size, self.sizes, self.groups = step_size, sizes, groups
        self.unit_norm, self.norm_eps = unit_norm, norm_eps
        self.dependent = [index for index, wanted in enumerate(depends) if wanted]
        self.state_sizes = [sizes[index] for index in self.dependent]
        self.state_projection = (
            MixerProjection(d_inner, sum(self.state_sizes), 0, "input", None) if any(depends) else None
        )

    def prepare(self, raw: Tensor) -> tuple[Selected, Tensor | None]:
        """What does not change from one iteration to the next, for raw parameters ``(..., S)`` in at least float32.

        Returns:
            What the input selects by itself, or where the previous output adds to it, the raw part of the input; and
            the weight that the previous output meets, ``(S', d)``, None if nothing depends on it.
        """
        parts = list(torch.split(raw, list(self.sizes), -1))
        for index, finish in enumerate(self._finishes()):
            if index not in self.dependent:
                parts[index] = finish(parts[index])
        return tuple(parts), None if self.state_projection is None else self.state_projection.weight()

    def condition(self, parts: Selected, weight: Tensor | None, previous: Tensor) -> Selected:
        """What is selected after the previous token's output ``(..., d)``, from what :meth:`prepare` returned."""
        if weight is None:
            return parts
        added = torch.split(F.linear(previous, weight), self.state_sizes, -1)
        selected, finishes = list(parts), self._finishes()
        for index, part in zip(self.dependent, added, strict=True):
            selected[index] = finishes[index](selected[index] + part)
        return tuple(selected)

    def _finishes(self) -> list[Callable[[Tensor], Tensor]]:
        return [self.step_size, self._vectors, self._vectors]

    def _vectors(self, raw: Tensor) -> Tensor:
        vectors = torch.unflatten(raw, -1, (self.groups, -1))
        return F.normalize(vectors, dim=-1, eps=self.norm_eps) if self.unit_norm else vectors


class LowRankStepSize(nn.Module):
    """Mamba's step sizes: ``softplus(W rho + bias)``, one for each channel, in at least float32.

    The bias starts where step sizes are between 0.001 and 0.1; it must not be set to zero.

    Args:
        rank: entries of rho.
        channels: d.
    """

    def __init__(self, rank: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.bias = nn.Parameter(initial_step_bias(channels))

    def forward(self, rho: Tensor) -> Tensor:
        """``(..., rank)`` to ``(..., d)``."""
        return F.softplus(F.linear(rho, at_least_float32(self.weight), at_least_float32(self.bias)))


class HeadStepSize(nn.Module):
    """Mamba-2's step sizes: ``softplus(raw + bias)``, one for each head, in at least float32.

    The bias starts where step sizes are between 0.001 and 0.1; it must not be set to zero.

    Args:
        heads: their number.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(initial_step_bias(heads))

    def forward(self, raw: Tensor) -> Tensor:
        """``(..., heads)`` to the same."""
        return F.softplus(raw + at_least_float32(self.bias))


def initial_step_bias(count: int) -> Tensor:
    """Biases at which the softplus is log-uniform between 0.001 and 0.1: ``(count,)``."""
    steps = torch.empty(count).uniform_(math.log(SHORTEST_STEP), math.log(LONGEST_STEP)).exp_()
    return steps + torch.log(-torch.expm1(-steps))
