"""FP-Mamba-2: one decay for each head of channels instead of one for each channel and state; and its diagonal control.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix E.2, with the sequence mixer of "Transformers are SSMs"
(Dao and Gu, ICML 2024). The released code cannot run (its gates do not fit the shapes of what they multiply), so its
meaning is fixed here: with the gate in the loop ``y = RMSNorm(silu(z) o)`` and ``out = W_out y``, otherwise
``y = RMSNorm(o)`` and ``out = W_out (silu(z + W_z shift(y)) y)``, as FP-Mamba has it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dinopl.core.errors import check_sizes
from dinopl.core.precision import at_least_float32
from fprnn.layers.convolution import ShortConvolution
from fprnn.layers.fpmamba import MambaCache, MatrixStateLayer
from fprnn.layers.selection import HeadStepSize, Selector
from fprnn.mixers import HouseholderMixer, IdentityMixer, Mixer
from fprnn.solvers import FixedPointSolver, ScanSolver


class FPMamba2(MatrixStateLayer):
    """The fixed-point Mamba-2 layer, ``(B, T, D)`` to the same.

    .. code-block:: text

        z, [x ; B ; C], dt = W_in u ;  delta = softplus(dt + b_d), one for each head
        f(y):  v = Q (x - y) + y,  Q_t = mixer(x_t, y_{t-1})
               [b ; c] = [B ; C] + W_y shift(y), each divided by its length
               H_t = exp(delta_t A) H_{t-1} + (delta_t v_t) b_t^T
               y' = RMSNorm(H_t c_t + skip v_t)
        y = the fixed point of f ;  out = W_out (silu(z + W_z shift(y)) y)

    The short convolution, where there is one, reads ``[x ; B ; C]``. Other arguments are those of :class:`FPMamba`.

    Args:
        head_dim: channels of a head, which share a decay; None is 64, or less where 64 does not divide the width.
        groups: of heads, which share b and c.
        d_inner: inner width d, a multiple of ``head_dim * groups``; None is ``expand * d_model``.

    Raises:
        ValueError: if the heads of all groups do not divide the inner width.
    """

    def __init__(
        self,
        d_model: int,
        mixer: Callable[[int], Mixer] = HouseholderMixer,
        solver: FixedPointSolver | None = None,
        d_state: int = 128,
        head_dim: int | None = None,
        groups: int = 1,
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
        check_sizes(d_model=d_model, d_state=d_state, head_dim=head_dim, groups=groups, expand=expand, d_inner=d_inner)
        d = expand * d_model if d_inner is None else d_inner
        head_dim = math.gcd(64, d // groups) if head_dim is None else head_dim
        if not head_dim or d % (head_dim * groups):
            raise ValueError(
                f"head_dim={head_dim}: times groups={groups} must divide the inner width {d}; use smaller ones"
            )
        heads, vectors = d // head_dim, groups * d_state
        sizes, depends = (heads, vectors, vectors), (lambda_h_dep, b_h_dep, c_h_dep)
        super().__init__(
            d_inner=d,
            d_state=d_state,
            mixer=mixer,
            solver=solver,
            selector=Selector(d, HeadStepSize(heads), sizes, depends, groups, bc_norm, norm_eps),
            norm=nn.RMSNorm(d, eps=norm_eps),
            glu_in_loop=glu_in_loop,
            conv=None if conv_width is None else ShortConvolution(d + 2 * vectors, conv_width),
            kept_iterations=kept_iterations,
        )
        self.head_dim, self.vectors = head_dim, vectors
        self.in_proj = nn.Linear(d_model, 2 * d + 2 * vectors + heads, bias=False)
        self.out_proj = nn.Linear(d, d_model, bias=False)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D_skip = nn.Parameter(torch.ones(heads))

    def project(self, u: Tensor, cache: MambaCache | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See :meth:`MatrixStateLayer.project`."""
        d, both = self.d_inner, 2 * self.vectors
        z, source, steps = torch.split(self.in_proj(u), [d, d + both, d // self.head_dim], -1)
        x, vectors = torch.split(self._convolved(source, cache), [d, both], -1)
        return x, z, torch.cat([steps, vectors], -1), source

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Rates ``(heads,)`` and skip connection ``(d,)``, in at least float32."""
        return -at_least_float32(self.A_log).exp(), at_least_float32(self.D_skip).repeat_interleave(self.head_dim)


class DiagonalMamba2(FPMamba2):
    """The control: an FP-Mamba-2 with ``Q = I`` whose b and c depend on the input alone, hence one selective scan.

    Arguments are those of :class:`FPMamba2` without those that :class:`~fprnn.layers.DiagonalMamba` lacks.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        head_dim: int | None = None,
        groups: int = 1,
        expand: int = 2,
        d_inner: int | None = None,
        conv_width: int | None = None,
        bc_norm: bool = True,
        glu_in_loop: bool = False,
        norm_eps: float = 1e-6,
    ) -> None:
        sizes, dependent = (d_state, head_dim, groups, expand, d_inner, conv_width), (False, False, False)
        super().__init__(d_model, IdentityMixer, ScanSolver(), *sizes, *dependent, bc_norm, glu_in_loop, norm_eps)
