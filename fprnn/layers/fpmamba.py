"""FP-Mamba: Mamba's recurrence with a matrix state, dense over channels as a fixed point; and its diagonal control.

"Fixed-Point RNNs: Interpolating from Diagonal to Dense" (Movahedi et al., NeurIPS 2025), sections 4.1 and 4.2
(equations 13 and 14) and appendix C.2. Different from the released code: the mixer's scale ``beta`` is the paper's by
default, which of the parts depend on the previous output is an option, and decoding solves the same fixed point as
training (theirs decodes as a plain Mamba, without mixer or fixed point).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.errors import check_norm_eps, check_sizes
from dinopl.core.precision import at_least_float32
from fprnn.layers.convolution import ShortConvolution, last_tokens
from fprnn.layers.equation import RecurrentState, check_parts, shift
from fprnn.layers.matrix_state import MambaEquation
from fprnn.layers.selection import LowRankStepSize, Selector
from fprnn.mixers import HouseholderMixer, IdentityMixer, Mixer
from fprnn.mixers.base import MixerProjection
from fprnn.solvers import FixedPointSolver, PicardSolver, ScanSolver, SequentialSolver, SolveStatistics
from fprnn.solvers.newton import LoopNorm


class MambaCache(NamedTuple):
    """What decoding keeps of the tokens so far; its size is constant.

    Attributes:
        recurrent: of the fixed point.
        trail: of the first iterations on the way to it, stacked, ``(L, B, ...)``.
        inputs: the last inputs of the short convolution, ``(B, W - 1, channels)``; None without it.
    """

    recurrent: RecurrentState
    trail: RecurrentState
    inputs: Tensor | None = None


class MatrixStateLayer(nn.Module, ABC):
    """What FP-Mamba and FP-Mamba-2 share: the fixed point, the read-out and decoding.

    A subclass names in ``no_weight_decay`` what weight decay leaves alone, and makes ``in_proj`` and ``out_proj``. The
    arguments are those of both layers, and last the three parts that a subclass makes of them.

    Args:
        d_model: width D of input and output.
        mixer: makes the channel mixer for a width, such as :class:`~fprnn.mixers.HouseholderMixer`. Whether, and how,
            it depends on the previous output is its own option ``dependence``.
        solver: finds the fixed point, each layer with its own copy; None is :class:`~fprnn.solvers.PicardSolver`.
        d_state: N, state numbers for each channel.
        expand: inner width d in units of D.
        d_inner: inner width d; None is ``expand * d_model``.
        conv_width: tokens that the short convolution sees, 4 in the paper; None is no convolution, and then what it
            would read has no activation.
        b_h_dep: b depends on the previous token's output.
        c_h_dep: c depends on the previous token's output.
        lambda_h_dep: the step sizes, and with them the decays, depend on the previous token's output; in the paper's
            table 1, not in its code.
        bc_norm: divide b and c by their length.
        glu_in_loop: gate with ``silu(z)`` before the norm within the loop; then ``out = W_out y``.
        norm_eps: of the norms of y, b and c.
        kept_iterations: L, iterations whose results decoding passes from token to token, so that it finds the fixed
            points that the whole sequence at once finds. It costs so many times the memory of one state.
        selector: of step sizes, b and c.
        norm: in the loop.
        conv: short convolution; None is none.

    Raises:
        ValueError: if an option is out of range or of the wrong kind.
    """

    no_weight_decay: ClassVar[tuple[str, ...]] = ("A_log", "D_skip")
    in_proj: nn.Linear
    out_proj: nn.Linear

    def __init__(
        self,
        d_inner: int,
        d_state: int,
        mixer: Callable[[int], Mixer],
        solver: FixedPointSolver | None,
        selector: Selector,
        norm: LoopNorm,
        glu_in_loop: bool,
        conv: ShortConvolution | None,
        kept_iterations: int,
    ) -> None:
        super().__init__()
        check_parts(mixer, solver)
        check_norm_eps(norm.eps or 0.0)
        if kept_iterations < 0:
            raise ValueError(f"kept_iterations={kept_iterations}: must be at least 0; 0 keeps the solution only")
        self.kept_iterations = kept_iterations
        self.d_inner, self.states, self.glu_in_loop = d_inner, d_state, glu_in_loop
        self.mixer, self.selector, self.loop_norm, self.conv = mixer(d_inner), selector, norm, conv
        self.read_gate = None if glu_in_loop else MixerProjection(d_inner, d_inner, 0, "input", None)
        self.solver = PicardSolver() if solver is None else copy.deepcopy(solver)
        self.solver.check(linear=False)
        self.statistics: SolveStatistics | None = None

    @abstractmethod
    def project(self, u: Tensor, cache: MambaCache | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """All that the layer makes of its input ``(B, T, D)`` by itself.

        Returns:
            x, which is mixed in, ``(B, T, d)``; z of the output gate, before its silu, ``(B, T, d)``; the input's part
            of what is selected, ``(B, T, S)``; and what the convolution reads.
        """

    @abstractmethod
    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Rates, ``(d, N)`` or ``(heads,)``, and skip connection ``(d,)``, in at least float32."""

    def forward(self, u: Tensor) -> Tensor:
        """``(B, T, D)`` to the same."""
        x, z, raw, _ = self.project(u)
        equation = self.equation(x, z, raw)
        return self._read(self._solve(equation), z, equation.before.hidden)

    def initial_state(self, batch: int) -> MambaCache:
        """The cache before the first token of ``batch`` sequences."""
        weight = self.in_proj.weight
        length = 0 if isinstance(self.solver, SequentialSolver | ScanSolver) else self.kept_iterations
        zeros = at_least_float32(weight)
        recurrent, trail = (
            RecurrentState(
                zeros.new_zeros(*leading, batch, self.d_inner, self.states),
                zeros.new_zeros(*leading, batch, self.d_inner),
            )
            for leading in ((), (length,))
        )
        return MambaCache(recurrent, trail, None if self.conv is None else self.conv.no_tokens(batch))

    def advance(self, u: Tensor, cache: MambaCache) -> tuple[Tensor, MambaCache]:
        """The outputs for the next tokens ``(B, T, D)``, in parallel, and the cache after them."""
        x, z, raw, source = self.project(u, cache)
        equation = self.equation(x, z, raw, cache)
        hidden = self._solve(equation)
        with torch.autocast(u.device.type, enabled=False):
            recurrent = equation.after(hidden)
        out = self._read(hidden, z, equation.before.hidden)
        sources = None if cache.inputs is None or source is None else last_tokens(cache.inputs, source)
        return out, MambaCache(recurrent, equation.trail_after(recurrent), sources)

    def step(self, u: Tensor, cache: MambaCache) -> tuple[Tensor, MambaCache]:
        """The output for the next token ``(B, D)``, by its own fixed point, and the cache after it.

        The layer's solver finds it, so that it equals the parallel form as closely as both reach the fixed point: at
        the default tolerance of 0.1 far from it on trained weights; give the solver a smaller ``tol`` for both to
        agree.
        """
        out, cache = self.advance(u.unsqueeze(1), cache)
        return out.squeeze(1), cache

    def equation(self, x: Tensor, z: Tensor, raw: Tensor, cache: MambaCache | None = None) -> MambaEquation:
        """The fixed point's equation, in at least float32, from what :meth:`project` returned."""
        x = at_least_float32(x)
        with torch.autocast(x.device.type, enabled=False):
            context = self.mixer.prepare(x)
            selected, selecting = self.selector.prepare(at_least_float32(raw))
            parameters = None if self.mixer.hidden_dependent else self.mixer.condition(context, x)
            gate = F.silu(at_least_float32(z)) if self.glu_in_loop else None
        rates, skip = self.dynamics()
        if cache is None:
            before = RecurrentState(x.new_zeros(len(x), self.d_inner, self.states), x.new_zeros(len(x), self.d_inner))
            trail, left = None, None
        else:
            before, trail, left = cache.recurrent, cache.trail, list[RecurrentState]()
        parts = self.mixer, context, self.selector, selected, selecting
        return MambaEquation(*parts, x, rates, skip, self.loop_norm, before, gate, parameters, trail, left)

    def _solve(self, equation: MambaEquation) -> Tensor:
        with torch.autocast(equation.x.device.type, enabled=False):
            hidden, self.statistics = self.solver(equation)
        return hidden

    def _read(self, hidden: Tensor, z: Tensor, before: Tensor) -> Tensor:
        """``W_out y``, gated where the loop is not."""
        y = hidden.to(z.dtype)
        if self.read_gate is not None:
            weight = self.read_gate.weight().to(self.out_proj.weight.dtype)
            y = F.silu(z + F.linear(shift(y, before).to(weight.dtype), weight)) * y
        return self.out_proj(y.to(self.out_proj.weight.dtype))

    def _convolved(self, source: Tensor, cache: MambaCache | None) -> Tensor:
        return source if self.conv is None else self.conv(source, None if cache is None else cache.inputs)


class FPMamba(MatrixStateLayer):
    """The fixed-point Mamba layer, ``(B, T, D)`` to the same.

    .. code-block:: text

        x, z = W_in u ;  [rho ; B ; C] = W_x x ;  delta = softplus(W_d rho + b_d)
        f(y):  v = Q (x - y) + y,  Q_t = mixer(x_t, y_{t-1})
               [b ; c] = [B ; C] + W_y shift(y), each divided by its length
               H_t = exp(delta_t A) H_{t-1} + (delta_t v_t) b_t^T
               y' = LayerNorm(H_t c_t + skip v_t)
        y = the fixed point of f ;  out = W_out (silu(z + W_z shift(y)) y)

    The state H has N numbers for each channel; the loop passes on y alone. After a call, ``statistics`` says how the
    equation was solved. At the start ``beta=1`` converges within a few iterations; with ``beta=2`` and several
    reflections it may not. Arguments are explained in :class:`MatrixStateLayer`.
    """

    def __init__(
        self,
        d_model: int,
        mixer: Callable[[int], Mixer] = HouseholderMixer,
        solver: FixedPointSolver | None = None,
        d_state: int = 16,
        expand: int = 2,
        d_inner: int | None = None,
        conv_width: int | None = None,
        b_h_dep: bool = True,
        c_h_dep: bool = True,
        lambda_h_dep: bool = False,
        bc_norm: bool = True,
        glu_in_loop: bool = False,
        norm_eps: float = 1e-6,
        kept_iterations: int = 32,
    ) -> None:
        check_sizes(d_model=d_model, d_state=d_state, expand=expand, d_inner=d_inner)
        d, rank = expand * d_model if d_inner is None else d_inner, -(-d_model // 16)
        sizes, depends = (rank, d_state, d_state), (lambda_h_dep, b_h_dep, c_h_dep)
        super().__init__(
            d_inner=d,
            d_state=d_state,
            mixer=mixer,
            solver=solver,
            selector=Selector(d, LowRankStepSize(rank, d), sizes, depends, 1, bc_norm, norm_eps),
            norm=nn.LayerNorm(d, eps=norm_eps),
            glu_in_loop=glu_in_loop,
            conv=None if conv_width is None else ShortConvolution(d, conv_width),
            kept_iterations=kept_iterations,
        )
        self.in_proj = nn.Linear(d_model, 2 * d, bias=False)
        self.x_proj = nn.Linear(d, sum(sizes), bias=False)
        self.out_proj = nn.Linear(d, d_model, bias=False)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d, 1))
        self.D_skip = nn.Parameter(torch.ones(d))

    def project(self, u: Tensor, cache: MambaCache | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See :meth:`MatrixStateLayer.project`."""
        source, z = self.in_proj(u).chunk(2, -1)
        x = self._convolved(source, cache)
        return x, z, self.x_proj(x), source

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Rates ``(d, N)`` and skip connection ``(d,)``, in at least float32."""
        return -at_least_float32(self.A_log).exp(), at_least_float32(self.D_skip)


class DiagonalMamba(FPMamba):
    """The control: an FP-Mamba with ``Q = I`` whose b and c depend on the input alone, hence one selective scan.

    It has FP-Mamba's norm and read-out, and so is not Mamba to the letter. Arguments are those of :class:`FPMamba` but
    for mixer, solver, what depends on the previous output, and ``kept_iterations``.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: int = 2,
        d_inner: int | None = None,
        conv_width: int | None = None,
        bc_norm: bool = True,
        glu_in_loop: bool = False,
        norm_eps: float = 1e-6,
    ) -> None:
        sizes, dependent = (d_state, expand, d_inner, conv_width), (False, False, False)
        super().__init__(d_model, IdentityMixer, ScanSolver(), *sizes, *dependent, bc_norm, glu_in_loop, norm_eps)
