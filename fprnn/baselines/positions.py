"""How an attention layer knows where a token stands: not at all, by rotation, or by a bias that falls with distance.

RoPE is "RoFormer" (Su et al., 2021), section 3.2.2, with halves paired as in GPT-NeoX; ALiBi is "Train Short, Test
Long" (Press et al., ICLR 2022), section 3; hard ALiBi is "Repeat After Me" (Jelassi et al., ICML 2024), section 3.2.
NoPE leaves order to the causal mask. All depend on distance alone, so none has a longest context of its own.
"""

import torch
from torch import Tensor


class Positions:
    """What an attention layer asks of positions; by itself it knows none."""

    def check(self, heads: int, width: int) -> None:
        """Raises a ValueError, naming the option, if these positions do not fit heads of this number and width."""

    def rotate(self, x: Tensor, start: int) -> Tensor:
        """Queries or keys ``(..., T, K)`` of the tokens from place ``start`` on, as they enter the product."""
        return x

    def bias(self, distance: Tensor, heads: int) -> Tensor | None:
        """What is added to the logits.

        Args:
            distance: how far back each key stands, ``(queries, keys)`` int64; what is below 0 is masked anyway.
            heads: number of heads.

        Returns:
            ``(heads, queries, keys)`` float32; None adds nothing.
        """
        return None


class NoPE(Positions):
    """No positions: order shows through the causal mask alone."""


class RoPE(Positions):
    """Rotary positions: pairs of channels of queries and keys turn with the place, so their product sees the distance.

    Pair i of W rotated channels turns by ``base^(-2 i / W)`` a token; its channels stand W / 2 apart.

    Args:
        base: the slowest pair turns about once in ``2 pi base`` tokens.
        fraction: share of a head's channels that turns; GPT-NeoX has 0.25.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, base: float = 10000.0, fraction: float = 1.0) -> None:
        if not base > 1:
            raise ValueError(f"base: {base} must be above 1; use 10000, say.")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: {fraction} must be above 0 and at most 1; use 1, say.")
        self.base, self.fraction = base, fraction

    def check(self, heads: int, width: int) -> None:
        """Refuses heads of which no pair of channels turns, or half a pair."""
        turning = int(width * self.fraction)
        if turning < 2 or turning % 2:
            raise ValueError(
                f"fraction: {self.fraction} turns {turning} of the {width} channels of a head, which must be even and "
                "2 or more; use other heads, or another fraction."
            )

    def rotate(self, x: Tensor, start: int) -> Tensor:
        """Queries or keys ``(..., T, K)`` with their first channels turned."""
        places = torch.arange(start, start + x.shape[-2], device=x.device)
        return rotate_channels(x, places, int(x.shape[-1] * self.fraction), self.base)


class ALiBi(Positions):
    """A bias that falls linearly with the distance, with a slope for each head.

    The slopes of n heads are ``2^(-8 h / n)``; where n is no power of two, those of the next smaller power of two, then
    every other one of twice that many.
    """

    def bias(self, distance: Tensor, heads: int) -> Tensor:
        """``-slope * distance``, ``(heads, queries, keys)``."""
        return -alibi_slopes(heads).to(distance.device)[:, None, None] * distance


class HardALiBi(Positions):
    """The first heads see the last few tokens alone; the others see all, and know no positions.

    Args:
        windows: tokens that each of the first heads sees, its own included.

    Raises:
        ValueError: if a window is empty.
    """

    def __init__(self, windows: list[int] | tuple[int, ...] = (1, 2)) -> None:
        if any(window < 1 for window in windows):
            raise ValueError(f"windows: {list(windows)} must all see a token; use 1 or more.")
        self.windows = tuple(windows)

    def check(self, heads: int, width: int) -> None:
        """Refuses more windows than heads."""
        if len(self.windows) > heads:
            raise ValueError(f"windows: {list(self.windows)} are more than {heads} heads; use at most {heads}.")

    def bias(self, distance: Tensor, heads: int) -> Tensor:
        """``-inf`` outside a head's window, ``(heads, queries, keys)``."""
        bias = torch.zeros(heads, *distance.shape, device=distance.device)
        for head, window in enumerate(self.windows):
            bias[head].masked_fill_(distance >= window, -torch.inf)
        return bias


def rotate_channels(x: Tensor, places: Tensor, width: int, base: float = 10000.0) -> Tensor:
    """Turns pairs of the first channels, each in proportion to the token's place.

    Args:
        x: ``(..., T, K)``.
        places: of the tokens, ``(T,)``.
        width: channels W that turn, an even number; channel i pairs with ``i + W / 2``.
        base: pair i turns by ``base^(-2 i / W)`` a token.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    rates = base ** (-torch.arange(0, width, 2, device=x.device, dtype=wide) / width)
    angles = places.to(wide)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    first, second, rest = torch.split(x, [width // 2, width // 2, x.shape[-1] - width], dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat([*(part.to(x.dtype) for part in turned), rest], dim=-1)


def alibi_slopes(heads: int) -> Tensor:
    """ALiBi's slopes, ``(heads,)`` float32."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2 ** (-8 * head / (2 * power)) for head in range(1, 2 * power + 1, 2)]
    return torch.tensor(slopes + between[: heads - power])
