"""FP-RNN: a dense recurrent layer as the fixed point of a diagonal one and a channel mixer; and its diagonal control.

"Fixed-Point RNNs: Interpolating from Diagonal to Dense" (Movahedi et al., NeurIPS 2025), sections 3.2 to 3.4. Different
from the released code: it works without the short convolution, the mixer's scale ``beta`` is the paper's by default, an
in-loop norm can be added, and decoding solves the same fixed point as training.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprnn.layers.convolution import ShortConvolution
from fprnn.layers.equation import FPRNNEquation, RecurrentState, shift
from fprnn.layers.oracle import DenseSolver
from fprnn.mixers import HouseholderMixer, IdentityMixer, Mixer
from fprnn.mixers.base import wide
from fprnn.solvers import FixedCountSolver, FixedPointSolver, PicardSolver, SequentialSolver, SolveStatistics

GATED_INPUTS = 4  # copies of x: to the mixer, to b, to lambda, and x itself


class FPRNNCache(NamedTuple):
    """All that decoding keeps from the tokens so far: its size does not grow.

    Attributes:
        recurrent: of the fixed point, two times ``(B, d)``.
        inputs: the last inputs of the short convolution, ``(B, W - 1, d)``; None without it.
        reads: the last inputs of the read-out's convolution, ``(B, W - 1, 2 d)``; None without it.
    """

    recurrent: RecurrentState
    inputs: Tensor | None = None
    reads: Tensor | None = None


class FPRNN(nn.Module):
    """The fixed-point RNN layer, ``(B, T, D)`` to the same::

        x, z = W_in u ;  b = silu(W_b x) ;  lambda = sigmoid(W_l x + b_l)
        f(h) = scan(lambda, (1 - lambda) v),  v = Q (b x - h) + h,  Q_t = mixer(x_t, h_{t-1})
        h = the fixed point of f ;  c = silu(W_c [x ; shift h])
        out = W_out RMSNorm(silu(z) c h)

    With the short convolution the mixer, b, lambda and x each see their own convolution of x, and c sees one of
    ``[x ; h]`` instead of the shift. After a call, ``statistics`` tells how the equation was solved.

    Args:
        d_model: width D of input and output.
        mixer: makes the channel mixer for a width, such as :class:`~fprnn.mixers.HouseholderMixer`.
        solver: finds the fixed point; null is :class:`~fprnn.solvers.PicardSolver`.
        expand: inner width d in units of D.
        d_inner: inner width d; null is ``expand * d_model``.
        conv_width: tokens that the short convolution sees, 4 in the paper; null is no convolution.
        in_loop_norm: normalise h within the loop, with which ``beta=2`` converges too.
        norm_eps: of both norms.
    """

    def __init__(
        self,
        d_model: int,
        mixer: Callable[[int], Mixer] = HouseholderMixer,
        solver: FixedPointSolver | None = None,
        expand: int = 2,
        d_inner: int | None = None,
        conv_width: int | None = None,
        in_loop_norm: bool = False,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if d_model < 1 or expand < 1:
            raise ValueError(f"d_model={d_model} and expand={expand} must be at least 1")
        d = expand * d_model if d_inner is None else d_inner
        self.d_inner, self.conv_width = d, conv_width
        self.in_proj = nn.Linear(d_model, 2 * d, bias=False)
        self.input_gate = nn.Linear(d, d, bias=False)
        self.decay_gate = nn.Linear(d, d)
        self.output_gate = nn.Linear(2 * d, d, bias=False)
        self.out_proj = nn.Linear(d, d_model, bias=False)
        self.out_norm = nn.RMSNorm(d, eps=norm_eps)
        self.loop_norm = nn.LayerNorm(d, eps=norm_eps) if in_loop_norm else None
        self.mixer = mixer(d)
        self.solver = PicardSolver() if solver is None else solver
        self.input_conv = None if conv_width is None else ShortConvolution(GATED_INPUTS * d, conv_width)
        self.read_conv = None if conv_width is None else ShortConvolution(2 * d, conv_width)
        self.statistics: SolveStatistics | None = None
        nn.init.zeros_(self.decay_gate.bias)  # lambda starts around 1/2: near 1, the mixer would change nothing

    def forward(self, u: Tensor) -> Tensor:
        """``(B, T, D)`` to the same."""
        return self._run(u, self.solver, None)[0]

    def start(self, batch: int) -> FPRNNCache:
        """The cache before the first token."""
        weight = self.in_proj.weight
        zeros = wide(weight).new_zeros(batch, self.d_inner)
        if self.conv_width is None:
            return FPRNNCache(RecurrentState(zeros, zeros))
        before = weight.new_zeros(batch, self.conv_width - 1, self.d_inner)
        return FPRNNCache(RecurrentState(zeros, zeros), before, torch.cat([before, before], -1))

    def advance(self, u: Tensor, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        """The outputs for the next tokens ``(B, T, D)``, by the layer's solver, and the cache after them."""
        return self._run(u, self.solver, cache)

    def step(self, u: Tensor, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        """The output for the next token ``(B, D)``, exact whatever the layer's solver, and the cache after it."""
        out, cache = self._run(u.unsqueeze(1), SequentialSolver(), cache)
        return out.squeeze(1), cache

    def equation(self, x: Tensor, cache: FPRNNCache | None = None) -> tuple[FPRNNEquation, Tensor]:
        """The fixed point's equation for x ``(B, T, d)``, in at least float32, and the x that the read-out sees."""
        to_mixer = to_b = to_decay = x
        if self.input_conv is not None:
            before = None if cache is None or cache.inputs is None else cache.inputs.repeat(1, 1, GATED_INPUTS)
            copies = self.input_conv(x.repeat(1, 1, GATED_INPUTS), before)
            to_mixer, to_b, to_decay, x = copies.chunk(GATED_INPUTS, -1)
        b = F.silu(self.input_gate(to_b))
        decay = torch.sigmoid(wide(self.decay_gate(to_decay)))
        with torch.autocast(x.device.type, enabled=False):
            context = self.mixer.prepare(wide(to_mixer))
            before = None if cache is None else cache.recurrent
            return FPRNNEquation(self.mixer, context, decay, 1 - decay, wide(b * x), self.loop_norm, before), x
    ...
