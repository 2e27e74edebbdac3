"""The short causal convolution in front of a recurrence: depthwise, with a silu.

As in Mamba (Gu and Dao, 2023), which "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) builds on; width 4 in both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor, before: Tensor | None = None) -> Tensor:
    """``silu(bias + sum_k weight_k x_{t - W + 1 + k})``, each channel by itself.

    Args:
        x: ``(B, T, C)``.
        weight: ``(C, W)``, the present token's last.
        bias: ``(C,)``.
        before: the W - 1 tokens before x, ``(B, W - 1, C)``; None is zeros.
    """
    width, length = weight.shape[1], x.shape[1]
    padded = F.pad(x, (0, 0, width - 1, 0)) if before is None else torch.cat([before.to(x.dtype), x], 1)
    taps = (padded[:, k : k + length] * weight[:, k] for k in range(width))
    return F.silu(bias + sum(taps))


class ShortConvolution(nn.Module):
    """:func:`short_convolution` with its weights, initialised as PyTorch's ``Conv1d``.

    Args:
        channels: C.
        width: W, tokens that one output sees.
    """

    def __init__(self, channels: int, width: int = 4) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"conv_width={width}: must be at least 1; None is no convolution")
        source = nn.Conv1d(channels, channels, width, groups=channels)
        self.weight = nn.Parameter(source.weight.detach().squeeze(1))
        assert source.bias is not None
        self.bias = nn.Parameter(source.bias.detach())

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """``(B, T, C)`` to the same; ``before`` ``(B, W - 1, C)`` precedes it."""
        return short_convolution(x, self.weight, self.bias, before)

    def no_tokens(self, batch: int) -> Tensor:
        """What it sees before the first token: zeros ``(B, W - 1, C)``."""
        channels, width = self.weight.shape
        return self.weight.new_zeros(batch, width - 1, channels)


def last_tokens(before: Tensor, x: Tensor) -> Tensor:
    """What a convolution needs of the tokens so far: the last of ``before`` and x, ``(B, W - 1, C)`` as before."""
    return torch.cat([before, x], 1)[:, x.shape[1] :]


def convolved(conv: ShortConvolution | None, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A short convolution that goes on from earlier tokens, where there is one.

    Args:
        conv: None passes x on.
        x: ``(B, T, D)``.
        before: the W - 1 tokens before x, ``(B, W - 1, D)``; None without convolution.

    Returns:
        The convolved x, and the tokens that the next call needs.
    """
    if conv is None or before is None:
        return x, None
    return conv(x, before), last_tokens(before, x)
