"""The projection head: an MLP, an L2 bottleneck and a weight-normalised last layer.

"Random Teachers are Good Teachers", appendices A and E.1, after DINO (Caron et al., ICCV 2021). What differs from the
published code: there the weight normalisation was silently inactive; here it acts, and ``weight_norm=False`` gives the
code's behaviour. Everything is computed in at least float32 whatever the precision of the run: the logits of teacher
and student differ by less than bfloat16 resolves.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-12  # the least norm that rows and bottleneck vectors are divided by


class RowNormalization(torch.autograd.Function):
    """``rows / max(|rows|, eps)`` along the last dimension, with a short backward pass.

    The last layer has 65536 x 256 weights, as many numbers as a batch of 256 has logits, so each pass over them counts.
    Autograd's own derivative of ``F.normalize`` makes about ten; this one makes half as many. Scaling the logits by the
    reciprocal norms instead is as exact and costs more: its backward pass reads the logits twice and the weights twice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Unit rows ``(..., k)`` and the norms ``(..., 1)`` that ``rows`` were divided by."""
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(eps)
        return rows / norms, norms

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keeps the outputs: being differentiable, they carry second derivatives too."""
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_units: Tensor | None, grad_norms: Tensor | None) -> tuple[Tensor | None, None]:
        """``(g - u (u . g)) / n`` for units u and norms n, plus ``u`` times the gradient of the norms."""
        units, norms = ctx.saved_tensors
        total = None
        if grad_units is not None:
            along = (grad_units * units).sum(dim=-1, keepdim=True)  # not a matmul: autocast would round that
            total = torch.addcmul(grad_units, units, along, value=-1) / norms
        if grad_norms is not None:
            total = units * grad_norms if total is None else total + units * grad_norms
        return total, None


def unit_rows(rows: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Each row ``(..., k)`` divided by its L2 norm, or by ``eps`` where the norm is less."""
    return RowNormalization.apply(rows, eps)[0]


def plain_unit_rows(rows: Tensor, eps: float = NORM_EPS) -> Tensor:
    """``unit_rows`` with autograd's own derivative: the reference that it is tested against."""
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(eps)


class Float32Linear(nn.Linear):
    """A linear map computed in at least float32: lower inputs and weights are promoted, float64 stays.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether to add a bias.
    """

    def working_dtype(self, x: Tensor) -> torch.dtype:
        """The precision of the result: the highest of input, weight and float32."""
        return torch.promote_types(torch.promote_types(x.dtype, self.weight.dtype), torch.float32)

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        """The matrix ``(out_features, in_features)`` that multiplies the input."""
        return self.weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``; call it with autocast off."""
        dtype = self.working_dtype(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(x.to(dtype), self.effective_weight(dtype), bias)


class UnitRowLinear(Float32Linear):
    """A linear map without bias whose rows have L2 norm 1: weight normalisation with the gain fixed at 1.

    What is trained, stored and interpolated is the unnormalised weight.

    Args:
        in_features: width of the input.
        out_features: width of the output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        """The unit rows ``(out_features, in_features)``."""
        return unit_rows(self.weight.to(dtype))


class ProjectionHead(nn.Module):
    """MLP, L2 bottleneck and last layer: ``in_dim -> hidden ... -> [bottleneck_dim] -> out_dim`` logits.

    Each hidden layer is a linear map with bias and GELU. The bottleneck is a linear map with bias, divided by its L2
    norm. The last layer has no bias. Weights start from N(0, init_std^2), biases at 0. (The paper truncates the normal
    at 100 standard deviations, which changes nothing.)

    Args:
        in_dim: width of the embeddings.
        hidden: widths of the hidden layers; empty for a bottleneck directly on the embedding.
        bottleneck_dim: k, width of the normalised vectors.
        out_dim: m, number of logits.
        weight_norm: whether each of the m rows of the last layer has norm 1, as the paper says. Its published code does
            not normalise them; False gives that.
        init_std: standard deviation of the initial weights.

    Raises:
        ValueError: if a width is below 1 or ``init_std`` is not positive.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: tuple[int, ...] = (2048, 2048),
        bottleneck_dim: int = 256,
        out_dim: int = 65536,
        weight_norm: bool = True,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden={list(hidden)}: must be at least 1 each; give positive widths")
        for name, width in (("bottleneck_dim", bottleneck_dim), ("out_dim", out_dim)):
            if width < 1:
                raise ValueError(f"{name}={width}: must be at least 1; give a positive width")
        if not init_std > 0:
            raise ValueError(f"init_std={init_std}: must be positive; the paper's value is 0.02")
        widths = [in_dim, *hidden]
        layers = [(Float32Linear(a, b), nn.GELU()) for a, b in pairwise(widths)]
        self.mlp = nn.Sequential(*(part for layer in layers for part in layer))
        self.neck = Float32Linear(widths[-1], bottleneck_dim)
        self.last_layer = (
            UnitRowLinear(bottleneck_dim, out_dim)
            if weight_norm
            else Float32Linear(bottleneck_dim, out_dim, bias=False)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=init_std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Unit vectors of embeddings: ``(B, in_dim)`` to ``(B, bottleneck_dim)``, at least float32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.neck(self.mlp(x)), dim=-1, eps=NORM_EPS)

    def classify(self, z: Tensor) -> Tensor:
        """Logits of bottleneck vectors: ``(B, bottleneck_dim)`` to ``(B, out_dim)``, at least float32."""
        with torch.autocast(z.device.type, enabled=False):
            return self.last_layer(z)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of embeddings: ``(B, in_dim)`` to ``(B, out_dim)``, at least float32."""
        return self.classify(self.bottleneck(x))
