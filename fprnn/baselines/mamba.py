"""Mamba: a diagonal recurrence with a matrix state whose step sizes, write and read vectors the tokens choose.

"Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (Gu and Dao, 2023), sections 3.4 to 3.6, with the
initial values of the released code. FP-Mamba's own diagonal control, which has its norm and read-out, is
:class:`~fprnn.layers.DiagonalMamba`. What differs here: the recurrence is :func:`~fprnn.ops.selective_scan`, which runs
on any device, and between projections everything is in float32 or better.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinopl.core.errors import check_sizes
from dinopl.core.precision import at_least_float32
from fprnn.baselines.streamed import StreamedLayer
from fprnn.layers.convolution import ShortConvolution, last_tokens
from fprnn.layers.selection import LowRankStepSize
from fprnn.ops import selective_scan

MambaState = tuple[Tensor, Tensor]
"""N numbers for each channel, ``(B, d, N)``, and the last inputs of the convolution, ``(B, W - 1, d)``."""


class MambaLayer(StreamedLayer[MambaState]):
    """Mamba's block from ``(B, T, D)`` to ``(B, T, D)``, without the norm before it and the residual around it.

    .. code-block:: text

        x, z = W_in u ;  x = silu(conv(x))
        [rho ; b ; c] = W_x x ;  delta = softplus(W_d rho + b_d)
        H_t = exp(delta_t A) H_{t-1} + (delta_t x_t) b_t^T ;  A = -exp(A_log)
        out = W_out ((H_t c_t + skip x_t) silu(z))

    At the start each channel decays at the rates 1 to N, and its step size is between 0.001 and 0.1. Rates and skip
    connection have no weight decay.

    Args:
        d_model: number of channels D.
        d_state: N, state numbers for each channel.
        expand: inner width d in units of D.
        d_inner: inner width d; None is ``expand * d_model``.
        conv_width: tokens that the short convolution sees.
        step_rank: entries of rho, which step sizes are made from; None is D / 16, rounded up.

    Raises:
        ValueError: if a size is below 1.
    """

    no_weight_decay: ClassVar[tuple[str, ...]] = ("A_log", "D_skip")

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: int = 2,
        d_inner: int | None = None,
        conv_width: int = 4,
        step_rank: int | None = None,
    ) -> None:
        super().__init__()
        d = expand * d_model if d_inner is None else d_inner
        rank = -(-d_model // 16) if step_rank is None else step_rank
        check_sizes(d_model=d_model, d_state=d_state, expand=expand, d_inner=d, step_rank=rank)
        self.sizes = (rank, d_state, d_state)
        self.in_proj = nn.Linear(d_model, 2 * d, bias=False)
        self.conv = ShortConvolution(d, conv_width)
        self.x_proj = nn.Linear(d, sum(self.sizes), bias=False)
        self.step_size = LowRankStepSize(rank, d)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d, 1))
        self.D_skip = nn.Parameter(torch.ones(d))
        self.out_proj = nn.Linear(d, d_model, bias=False)

    def initial_state(self, batch: int) -> MambaState:
        """The zero state of ``batch`` sequences."""
        return at_least_float32(self.A_log).new_zeros(batch, *self.A_log.shape), self.conv.no_tokens(batch)

    def advance(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next state."""
        source, z = self.in_proj(x).chunk(2, -1)
        before = state[1].to(source.dtype)
        v, inputs = self.conv(source, before), last_tokens(before, source)
        rho, b, c = self.x_proj(v).split(list(self.sizes), -1)
        with torch.autocast(v.device.type, enabled=False):
            rates = -at_least_float32(self.A_log).exp()
            delta = self.step_size(at_least_float32(rho))
            read, recurrent = selective_scan(
                at_least_float32(v), delta, rates, at_least_float32(b), at_least_float32(c), state[0]
            )
            y = ((read + at_least_float32(self.D_skip) * at_least_float32(v)) * F.silu(at_least_float32(z))).to(z.dtype)
        return self.out_proj(y), (recurrent, inputs)
