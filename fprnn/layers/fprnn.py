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

from dinopl.core.errors import check_norm_eps, check_sizes
from dinopl.core.precision import at_least_float32
from fprnn.layers.convolution import ShortConvolution, last_tokens
from fprnn.layers.dense import DenseSolver
from fprnn.layers.equation import FPRNNEquation, RecurrentState, check_parts, shift
from fprnn.mixers import HouseholderMixer, IdentityMixer, Mixer, MixerContext
from fprnn.solvers import FixedPointSolver, PicardSolver, ScanSolver, SequentialSolver, SolveStatistics


class FPRNNCache(NamedTuple):
    """What decoding keeps of the tokens so far; its size is constant.

    Attributes:
        recurrent: of the fixed point, two times ``(B, d)``.
        inputs: the last inputs of the short convolution, ``(B, W - 1, d)``; None without it.
        reads: the last x of the read-out's convolution, ``(B, W - 1, d)``; None without it.
        states: the last h of the read-out's convolution, ``(B, W - 1, d)``; None without it.
    """

    recurrent: RecurrentState
    inputs: Tensor | None = None
    reads: Tensor | None = None
    states: Tensor | None = None


class FPRNNInputs(NamedTuple):
    """What the layer makes of its input before it solves, ``(B, T, d)`` each.

    Attributes:
        z: ``silu(z)``, of the read-out.
        read: ``W_c x``, the input's part of the output gate.
        decay: of the equation, in at least float32.
        drive: of the equation, in at least float32.
        context: of the mixer.
        source: x before its convolution; for a cache only, hence None where tokens were looked up.
        x: x after its convolution; the same.
    """

    z: Tensor
    read: Tensor
    decay: Tensor
    drive: Tensor
    context: MixerContext
    source: Tensor | None
    x: Tensor | None

    def take(self, tokens: Tensor) -> "FPRNNInputs":
        """The inputs of sequences ``(B, T)``, where these are the inputs of every token in turn, ``(1, V, d)``.

        In at least float32, since the gradient of a row is a sum over all places where its token stands.
        """
        z, read, decay, drive, projected = (
            F.embedding(tokens, at_least_float32(rows.squeeze(0))) for rows in (*self[:4], self.context.projected)
        )
        return FPRNNInputs(z, read, decay, drive, self.context._replace(projected=projected), None, None)


class FPRNN(nn.Module):
    """The fixed-point RNN layer, ``(B, T, D)`` to the same.

    .. code-block:: text

        x, z = W_in u ;  b = silu(W_b x) ;  lambda = sigmoid(W_l x + b_l)
        f(h) = scan(lambda, (1 - lambda) v),  v = Q (b x - h) + h,  Q_t = mixer(x_t, h_{t-1})
        h = the fixed point of f ;  c = silu(W_c [x ; shift h])
        out = W_out RMSNorm(silu(z) c h)

    With the short convolution the mixer, b, lambda and x each see their own convolution of x, and c sees one of
    ``[x ; h]`` instead of the shift. After a call, ``statistics`` says how the equation was solved.

    Args:
        d_model: width D of input and output.
        mixer: makes the channel mixer for a width, such as :class:`~fprnn.mixers.HouseholderMixer`.
        solver: finds the fixed point, each layer with its own copy; None is :class:`~fprnn.solvers.PicardSolver`.
        expand: inner width d in units of D.
        d_inner: inner width d; None is ``expand * d_model``.
        conv_width: tokens that the short convolution sees, 4 in the paper; None is no convolution.
        in_loop_norm: normalise h within the loop, with which ``beta=2`` converges too.
        norm_eps: of both norms.

    Raises:
        ValueError: if an option is out of range or of the wrong kind, or the solver is for another kind of layer.
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
        check_parts(mixer, solver)
        check_sizes(d_model=d_model, expand=expand, d_inner=d_inner)
        check_norm_eps(norm_eps)
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
        # Solvers that do not solve this layer's equation are refused here, not at the first batch.
        if isinstance(self.solver, ScanSolver) and not isinstance(self.mixer, IdentityMixer):
            raise ValueError(
                f"solver=ScanSolver: applies the map once, which solves nothing with {type(self.mixer).__name__}; use "
                "SequentialSolver, or DiagonalRNN for a layer without a mixer"
            )
        if isinstance(self.solver, DenseSolver) and in_loop_norm:
            raise ValueError("in_loop_norm=True: has no dense limit; set it to False, or use SequentialSolver")
        self.solver.check(linear=not in_loop_norm)
        self.input_convs, self.read_convs = nn.ModuleDict(), nn.ModuleDict()
        if conv_width is not None:
            copies = ["mixer", "b", "decay", "x"] if self.mixer.selective else ["b", "decay", "x"]
            self.input_convs.update({name: ShortConvolution(d, conv_width) for name in copies})
            self.read_convs.update({name: ShortConvolution(d, conv_width) for name in ("x", "h")})
        self.statistics: SolveStatistics | None = None
        nn.init.zeros_(self.decay_gate.bias)  # lambda starts around 1/2: near 1, the mixer would change nothing

    def forward(self, u: Tensor, tokens: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` to the same.

        Args:
            u: the input, ``(B, T, D)``; with ``tokens`` a table of vectors, ``(V, D)``.
            tokens: rows of the table, ``(B, T)``. The input is then ``u[tokens]``, and what depends on one token alone
                is computed once for each row: faster, for the same result, where the table has fewer rows than the
                input has tokens. Only if the layer is :attr:`tokenwise`.
        """
        inputs = self.project(u) if tokens is None else self.look_up(u, tokens)
        return self._solve(inputs, self.solver)[0]

    def initial_state(self, batch: int) -> FPRNNCache:
        """The cache before the first token of ``batch`` sequences."""
        weight = self.in_proj.weight
        zeros = at_least_float32(weight).new_zeros(batch, self.d_inner)
        if self.conv_width is None:
            return FPRNNCache(RecurrentState(zeros, zeros))
        inputs = weight.new_zeros(batch, self.conv_width - 1, self.d_inner)
        return FPRNNCache(RecurrentState(zeros, zeros), inputs, inputs, inputs)

    def advance(self, u: Tensor, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        """The outputs for the next tokens ``(B, T, D)``, by the layer's solver, and the cache after them."""
        return self._advance(u, self.solver, cache)

    def step(self, u: Tensor, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        """The output for the next token ``(B, D)``, exact whatever the layer's solver, and the cache after it."""
        out, cache = self._advance(u.unsqueeze(1), SequentialSolver(), cache)
        return out.squeeze(1), cache

    @property
    def tokenwise(self) -> bool:
        """Whether what :meth:`project` makes of a token depends on that token alone."""
        return self.conv_width is None

    def project(self, u: Tensor, cache: FPRNNCache | None = None) -> FPRNNInputs:
        """All that the layer makes of its input ``(B, T, D)`` before it solves."""
        x_weight, z_weight = self.in_proj.weight.chunk(2)
        source, z = F.linear(u, x_weight), F.linear(u, z_weight)
        before = None if cache is None else cache.inputs
        copies = {name: conv(source, before) for name, conv in self.input_convs.items()}
        x = copies.get("x", source)
        drive = at_least_float32(F.silu(self.input_gate(copies.get("b", x)))) * at_least_float32(x)
        decay = torch.sigmoid(at_least_float32(self.decay_gate(copies.get("decay", x))))
        with torch.autocast(u.device.type, enabled=False):
            context = self.mixer.prepare(copies.get("mixer", x))
        seen = self.read_convs["x"](x, None if cache is None else cache.reads) if self.read_convs else x
        read = F.linear(seen, self.output_gate.weight[:, : self.d_inner])
        return FPRNNInputs(F.silu(z), read, decay, drive, context, source, x)

    def look_up(self, table: Tensor, tokens: Tensor) -> FPRNNInputs:
        """:meth:`project` of ``table[tokens]``, with each row of the table ``(V, D)`` projected once.

        Raises:
            ValueError: if what is made of a token depends on its neighbours.
        """
        if not self.tokenwise:
            raise ValueError(f"conv_width={self.conv_width}: mixes tokens; give the layer their vectors, not a table")
        return self.project(table.unsqueeze(0)).take(tokens)

    def equation(self, inputs: FPRNNInputs, cache: FPRNNCache | None = None) -> FPRNNEquation:
        """The fixed point's equation, in at least float32."""
        context, decay, drive = inputs.context, inputs.decay, inputs.drive
        with torch.autocast(drive.device.type, enabled=False):
            parameters = None if self.mixer.hidden_dependent else self.mixer.condition(context, drive)
        recurrent = None if cache is None else cache.recurrent
        return FPRNNEquation(self.mixer, context, decay, 1 - decay, drive, self.loop_norm, recurrent, parameters)

    def _solve(
        self, inputs: FPRNNInputs, solver: FixedPointSolver, cache: FPRNNCache | None = None
    ) -> tuple[Tensor, Tensor, FPRNNEquation]:
        """The layer's output ``(B, T, D)``, the states h in at least float32, and the equation that they solve."""
        equation = self.equation(inputs, cache)
        with torch.autocast(inputs.drive.device.type, enabled=False):
            hidden, self.statistics = solver(equation)
        h = hidden.to(inputs.z.dtype)
        # What the output gate sees of the state: its own convolution where there is one, else the token before.
        if self.read_convs:
            seen = self.read_convs["h"](h, None if cache is None else cache.states)
        else:
            seen = shift(h, None if cache is None else cache.recurrent.hidden)
        weight = self.output_gate.weight[:, self.d_inner :]
        c = F.silu(inputs.read + F.linear(seen.to(weight.dtype), weight))
        out = project_normed(at_least_float32(inputs.z * c * h), self.out_norm, self.out_proj.weight)
        return out, hidden, equation

    def _advance(self, u: Tensor, solver: FixedPointSolver, cache: FPRNNCache) -> tuple[Tensor, FPRNNCache]:
        inputs = self.project(u, cache)
        out, hidden, equation = self._solve(inputs, solver, cache)
        with torch.autocast(u.device.type, enabled=False):
            recurrent = equation.after(hidden)
        last = (cache.inputs, inputs.source), (cache.reads, inputs.x), (cache.states, hidden.to(out.dtype))
        return out, FPRNNCache(
            recurrent, *(None if old is None or new is None else last_tokens(old, new) for old, new in last)
        )


def project_normed(x: Tensor, norm: nn.RMSNorm, weight: Tensor) -> Tensor:
    """``W norm(x)`` for x ``(..., d)`` in at least float32; the division comes last, where there are fewer channels."""
    assert norm.eps is not None
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    out = F.linear(x.to(weight.dtype), weight * norm.weight)
    return (out * (length.square() / x.shape[-1] + norm.eps).rsqrt()).to(out.dtype)


class DiagonalRNN(FPRNN):
    """The control for every claim: an FP-RNN with ``Q = I``, hence one diagonal scan, with the same read-out.

    Arguments are those of :class:`FPRNN` but for mixer, solver and in-loop norm.
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

    Arguments are those of :class:`FPRNN` but for solver and in-loop norm.
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
