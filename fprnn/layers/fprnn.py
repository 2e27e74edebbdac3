"""FP-RNN: a dense recurrent layer as the fixed point of a diagonal one and a channel mixer; and its diagonal control.

"Fixed-Point RNNs: Interpolating from Diagonal to Dense" (Movahedi et al., NeurIPS 2025), sections 3.2 to 3.4. Different
from the released code: it works without the short convolution, the mixer's scale ``beta`` is the paper's by default, an
in-loop norm can be added, and decoding solves the same fixed point as training.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprnn.layers.convolution import ShortConvolution, last_tokens
from fprnn.layers.equation import FPRNNEquation, RecurrentState, shift
from fprnn.layers.oracle import DenseSolver
from fprnn.mixers import HouseholderMixer, IdentityMixer, Mixer
from fprnn.mixers.base import wide
from fprnn.solvers import FixedPointSolver, PicardSolver, ScanSolver, SequentialSolver, SolveStatistics


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
    """The fixed-point RNN layer, ``(B, T, D)`` to the same.

    .. code-block:: text

        x, z = W_in u ;  b = silu(W_b x) ;  lambda = sigmoid(W_l x + b_l)
        f(h) = scan(lambda, (1 - lambda) v),  v = Q (b x - h) + h,  Q_t = mixer(x_t, h_{t-1})
        h = the fixed point of f ;  c = silu(W_c [x ; shift h])
        out = W_out RMSNorm(silu(z) c h)

    With the short convolution the mixer, b, lambda and x each see their own convolution of x, and c sees one of
    ``[x ; h]`` instead of the shift. After a call, ``statistics`` tells how the equation was solved.

    Args:
        d_model: width D of input and output.
        mixer: makes the channel mixer for a width, such as :class:`~fprnn.mixers.HouseholderMixer`.
        solver: finds the fixed point, each layer with its own copy; null is :class:`~fprnn.solvers.PicardSolver`.
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
        self.solver = PicardSolver() if solver is None else copy.deepcopy(solver)
        self.input_convs, self.read_conv = nn.ModuleDict(), None
        if conv_width is not None:
            copies = ["mixer", "b", "decay", "x"] if self.mixer.selective else ["b", "decay", "x"]
            self.input_convs.update({name: ShortConvolution(d, conv_width) for name in copies})
            self.read_conv = ShortConvolution(2 * d, conv_width)
        self.statistics: SolveStatistics | None = None
        nn.init.zeros_(self.decay_gate.bias)  # lambda starts around 1/2: near 1, the mixer would change nothing

    def forward(self, u: Tensor) -> Tensor:
        """``(B, T, D)`` to the same."""
        return self._apply_to(u, self.solver, None).out

    def initial_state(self, batch: int) -> FPRNNCache:
        """The cache before the first token of ``batch`` sequences."""
        weight = self.in_proj.weight
        zeros = wide(weight).new_zeros(batch, self.d_inner)
        if self.conv_width is None:
            return FPRNNCache(RecurrentState(zeros, zeros))
        inputs = weight.new_zeros(batch, self.conv_width - 1, self.d_inner)
        return FPRNNCache(RecurrentState(zeros, zeros), inputs, torch.cat([inputs, inputs], -1))

    def advance(self, u: Tensor, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        """The outputs for the next tokens ``(B, T, D)``, by the layer's solver, and the cache after them."""
        return self._advance(u, self.solver, cache)

    def step(self, u: Tensor, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        """The output for the next token ``(B, D)``, exact whatever the layer's solver, and the cache after it."""
        out, cache = self._advance(u.unsqueeze(1), SequentialSolver(), cache)
        return out.squeeze(1), cache

    def equation(self, x: Tensor, cache: FPRNNCache | None = None) -> tuple[FPRNNEquation, Tensor]:
        """The fixed point's equation for x ``(B, T, d)``, in at least float32, and the x that the read-out sees."""
        before = None if cache is None else cache.inputs
        copies = {name: conv(x, before) for name, conv in self.input_convs.items()}
        drive = wide(F.silu(self.input_gate(copies.get("b", x)))) * wide(copies.get("x", x))
        decay = torch.sigmoid(wide(self.decay_gate(copies.get("decay", x))))
        with torch.autocast(x.device.type, enabled=False):
            context = self.mixer.prepare(copies.get("mixer", x))
            parameters = None if self.mixer.hidden_dependent else self.mixer.condition(context, drive)
        recurrent = None if cache is None else cache.recurrent
        equation = FPRNNEquation(self.mixer, context, decay, 1 - decay, drive, self.loop_norm, recurrent, parameters)
        return equation, copies.get("x", x)

    def _apply_to(self, u: Tensor, solver: FixedPointSolver, cache: FPRNNCache | None) -> "_Applied":
        source, z = self.in_proj(u).chunk(2, -1)
        equation, x = self.equation(source, cache)
        with torch.autocast(u.device.type, enabled=False):
            hidden, self.statistics = solver(equation)
        h = hidden.to(x.dtype)
        c = F.silu(self.output_gate(self._reads(x, h, cache)))
        gated = wide(F.silu(z) * c * h)
        normed = F.rms_norm(gated, gated.shape[-1:], wide(self.out_norm.weight), self.out_norm.eps)
        return _Applied(self.out_proj(normed.to(x.dtype)), source, x, hidden, equation)

    def _reads(self, x: Tensor, h: Tensor, cache: FPRNNCache | None) -> Tensor:
        """What the output gate sees, ``(B, T, 2 d)``."""
        if self.read_conv is None:
            return torch.cat([x, shift(h, None if cache is None else cache.recurrent.hidden)], -1)
        return self.read_conv(torch.cat([x, h], -1), None if cache is None else cache.reads)

    def _advance(self, u: Tensor, solver: FixedPointSolver, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        applied = self._apply_to(u, solver, cache)
        with torch.autocast(u.device.type, enabled=False):
            recurrent = applied.equation.after(applied.hidden)
        if cache.inputs is None or cache.reads is None:
            return applied.out, FPRNNCache(recurrent)
        reads = torch.cat([applied.x, applied.hidden.to(applied.x.dtype)], -1)
        return applied.out, FPRNNCache(
            recurrent, last_tokens(cache.inputs, applied.source), last_tokens(cache.reads, reads)
        )


class _Applied(NamedTuple):
    """One application of the layer, and what a cache is made from."""

    out: Tensor  # (B, T, D)
    source: Tensor  # x before its convolution, (B, T, d)
    x: Tensor  # after it
    hidden: Tensor  # h in full precision
    equation: FPRNNEquation


class DiagonalRNN(FPRNN):
    """The control for every claim: an FP-RNN with ``Q = I``, hence one diagonal scan, with the same read-out.

    Args:
        d_model: width D of input and output.
        expand: inner width d in units of D.
        d_inner: inner width d; null is ``expand * d_model``.
        conv_width: tokens that the short convolution sees; null is no convolution.
        norm_eps: of the read-out's norm.
    """

    def __init__(
        self,
        d_model: int,
        expand: int = 2,
        d_inner: int | None = None,
        conv_width: int | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(d_model, IdentityMixer, ScanSolver(), expand, d_inner, conv_width, False, norm_eps)


class DenseRNN(FPRNN):
    """The oracle: an FP-RNN whose dense transition matrices are written out, O(d^3) for each token.

    Args:
        d_model: width D of input and output.
        mixer: makes the channel mixer for a width.
        expand: inner width d in units of D.
        d_inner: inner width d; null is ``expand * d_model``.
        conv_width: tokens that the short convolution sees; null is no convolution.
        norm_eps: of the read-out's norm.
    """

    def __init__(
        self,
        d_model: int,
        mixer: Callable[[int], Mixer] = HouseholderMixer,
        expand: int = 2,
        d_inner: int | None = None,
        conv_width: int | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(d_model, mixer, DenseSolver(), expand, d_inner, conv_width, False, norm_eps)
