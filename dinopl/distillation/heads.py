"""The projection head: an MLP, an L2 bottleneck and a weight-normalised last layer.

"Random Teachers are Good Teachers", appendices A, B.2 and E.1, after DINO (Caron et al., ICCV 2021). What differs from
the published code: there the weight normalisation was silently inactive; here it acts, and ``weight_norm=False`` gives
the code's behaviour. There the bottleneck is a string of six fields; here it is two ``BottleneckLayer``, and
``BottleneckLayer.pair`` reads the string. Everything is computed in at least float32 whatever the precision of the run:
the logits of teacher and student differ by less than bfloat16 resolves.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.divergences import is_large, row_blocks
from dinopl.core.precision import at_least_float32
from dinopl.encoders.common import normalization

NORM_EPS = 1e-12  # the least norm that rows and bottleneck vectors are divided by


class RowNormalization(torch.autograd.Function):
    """``rows / max(|rows|, eps)`` along the last dimension, with a short backward pass.

    The last layer has 65536 x 256 weights, as many numbers as a batch of 256 has logits, so each pass over them counts.
    Autograd's own derivative of ``F.normalize`` makes about ten; this one reads and writes each number once each way,
    since a block of rows stays in the cache between its steps. Scaling the logits by the reciprocal norms instead is as
    exact and costs more: its backward pass reads the logits twice and the weights twice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Unit rows ``(..., k)`` and the norms ``(..., 1)`` that ``rows`` were divided by."""
        if not is_large(rows):
            norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(eps)
            return rows / norms, norms
        units, norms = torch.empty_like(rows), rows.new_empty(len(rows), 1)
        for block in row_blocks(rows):
            norms[block] = torch.linalg.vector_norm(rows[block], dim=-1, keepdim=True).clamp_min(eps)
            units[block] = rows[block] / norms[block]  # not into it with `out=`, which vmap does not know
        return units, norms

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keeps the outputs: being differentiable, they carry second derivatives too."""
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_units: Tensor | None, grad_norms: Tensor | None) -> tuple[Tensor | None, None]:
        """``(g - u (u . g)) / n`` for units u and norms n, plus ``u`` times the gradient of the norms."""
        units, norms = ctx.saved_tensors
        if is_large(units) and grad_units is not None and grad_norms is None and not torch.is_grad_enabled():
            grad_rows = torch.empty_like(units)
            for block in row_blocks(units):
                along = (grad_units[block] * units[block]).sum(dim=-1, keepdim=True)
                torch.addcmul(grad_units[block], units[block], along, value=-1, out=grad_rows[block]).div_(norms[block])
            return grad_rows, None
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
    """A linear map whose rows have L2 norm 1: weight normalisation with the gain fixed at 1.

    What is trained, stored and interpolated is the unnormalised weight.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether to add a bias.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias)

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        """The unit rows ``(out_features, in_features)``."""
        return unit_rows(self.weight.to(dtype))


class BottleneckLayer:
    """Half of the L2 bottleneck: a linear map, then a division of its output by its L2 norm; either may be missing.

    Args:
        linear: whether there is a linear map. Without one ``bias`` and ``weight_norm`` are ignored.
        bias: whether the map adds a bias.
        weight_norm: whether each row of the map has norm 1.
        feature_norm: whether the output is divided by its norm.
        detach_norm: whether the gradient takes that norm as a constant.

    Raises:
        ValueError: if there is no norm to detach.
    """

    def __init__(
        self,
        linear: bool = True,
        bias: bool = True,
        weight_norm: bool = False,
        feature_norm: bool = False,
        detach_norm: bool = False,
    ) -> None:
        if detach_norm and not feature_norm:
            raise ValueError("detach_norm=True: there is no norm to detach; set feature_norm too")
        self.linear, self.bias, self.weight_norm = linear, bias, weight_norm
        self.feature_norm, self.detach_norm = feature_norm, detach_norm

    @classmethod
    def pair(cls, config: str) -> tuple["BottleneckLayer", "BottleneckLayer"]:
        """Both layers, from the published code's option ``l2bot_cfg``.

        Args:
            config: six fields, ``wn1/lin1/fn1/wn2/lin2/fn2``. Weight normalisation is ``wn`` or ``-``; a linear map
                ``lb`` (with bias), ``l`` (without) or ``-`` (no map); feature normalisation ``fn``, ``fnd`` (detached)
                or ``-``.

        Raises:
            ValueError: if it is anything else.

        Example:
            >>> first, second = BottleneckLayer.pair("-/lb/fn/wn/l/-")  # the paper's
            >>> first.feature_norm, second.weight_norm, second.bias
            (True, True, False)
        """
        fields = config.split("/")
        legal = (("wn", "-"), ("l", "lb", "-"), ("fn", "fnd", "-")) * 2
        if len(fields) != 6 or any(field not in words for field, words in zip(fields, legal, strict=True)):
            raise ValueError(
                f"config={config}: must be six fields wn1/lin1/fn1/wn2/lin2/fn2 of wn or -, l, lb or -, fn, fnd or -; "
                "the paper's is -/lb/fn/wn/l/-"
            )
        layers = [
            cls(lin != "-", lin == "lb", wn == "wn", fn != "-", fn == "fnd") for wn, lin, fn in (fields[:3], fields[3:])
        ]
        return layers[0], layers[1]

    def linear_map(self, in_features: int, out_features: int) -> nn.Module:
        """The linear map; the identity where there is none."""
        if not self.linear:
            return nn.Identity()
        return (UnitRowLinear if self.weight_norm else Float32Linear)(in_features, out_features, self.bias)

    def normalized(self, z: Tensor) -> Tensor:
        """``z / max(|z|, eps)`` of each row of ``(B, k)``; ``z`` itself where the features are not normalised."""
        if self.detach_norm:
            return z / torch.linalg.vector_norm(z.detach(), dim=-1, keepdim=True).clamp_min(NORM_EPS)
        return F.normalize(z, dim=-1, eps=NORM_EPS) if self.feature_norm else z


class ProjectionHead(nn.Module):
    """MLP, L2 bottleneck and last layer: ``in_dim -> hidden ... -> [bottleneck_dim] -> out_dim`` logits.

    Each hidden layer is a linear map with bias and GELU. The bottleneck is a linear map with bias, divided by its L2
    norm. The last layer has no bias. Weights start from N(0, init_std^2), biases at 0. (The paper truncates the normal
    at 100 standard deviations, which changes nothing.) ``first`` and ``second`` replace the two layers of the
    bottleneck, as in the paper's appendix B.2.

    The plain linear map of the published code's follow-up configurations is ``hidden=()``, ``first`` without a linear
    map, ``second`` with a bias, ``out_dim=None`` and ``init_std=None``.

    Args:
        in_dim: width of the embeddings.
        hidden: widths of the hidden layers; empty for a bottleneck directly on the embedding.
        bottleneck_dim: k, width of the normalised vectors. It is ignored unless both layers have a linear map.
        out_dim: m, number of logits; None for ``in_dim``.
        weight_norm: whether each of the m rows of the last layer has norm 1, as the paper says. Its published code does
            not normalise them; False gives that. It is ignored where ``second`` is given.
        init_std: standard deviation of the initial weights; None for torch's own initial values, uniform within
            ``1 / sqrt(fan_in)``, of biases too.
        first: the bottleneck's first layer; None for the paper's, a linear map with bias and the division by the norm.
        second: its second, the last layer; None for the paper's, a linear map without bias.
        activation: makes the activation function of each hidden layer.
        norm: makes the normalisation layer between each hidden layer and its activation, such as
            ``torch.nn.BatchNorm1d``; None for none.

    Raises:
        ValueError: if a width is below 1, ``init_std`` is not positive, ``norm`` makes no normalisation layer, or
            ``out_dim`` is not what a head without linear maps returns.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: tuple[int, ...] = (2048, 2048),
        bottleneck_dim: int = 256,
        out_dim: int | None = 65536,
        weight_norm: bool = True,
        init_std: float | None = 0.02,
        first: BottleneckLayer | None = None,
        second: BottleneckLayer | None = None,
        activation: Callable[[], nn.Module] = nn.GELU,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        out_dim = in_dim if out_dim is None else out_dim
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden={list(hidden)}: must be at least 1 each; give positive widths")
        for name, width in (("bottleneck_dim", bottleneck_dim), ("out_dim", out_dim)):
            if width < 1:
                raise ValueError(f"{name}={width}: must be at least 1; give a positive width")
        if init_std is not None and not init_std > 0:
            raise ValueError(f"init_std={init_std}: must be positive; the paper's value is 0.02")
        self.first = first or BottleneckLayer(feature_norm=True)
        self.second = second or BottleneckLayer(bias=False, weight_norm=weight_norm)
        widths = [in_dim, *hidden]
        if not (self.first.linear or self.second.linear or out_dim == widths[-1]):
            raise ValueError(
                f"out_dim={out_dim}: a bottleneck without linear maps returns its {widths[-1]} inputs; give that number"
            )
        layers = [
            (
                Float32Linear(a, b),
                *([] if norm is None else [normalization(norm, b, "torch.nn.BatchNorm1d")]),
                activation(),
            )
            for a, b in pairwise(widths)
        ]
        self.mlp = nn.Sequential(*(part for layer in layers for part in layer))
        if not self.first.linear:
            bottleneck_dim = widths[-1]
        elif not self.second.linear:
            bottleneck_dim = out_dim
        self.neck = self.first.linear_map(widths[-1], bottleneck_dim)
        self.last_layer = self.second.linear_map(bottleneck_dim, out_dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and init_std is not None:
                nn.init.normal_(layer.weight, std=init_std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Bottleneck vectors of embeddings, unit vectors by default: ``(B, in_dim)`` to ``(B, bottleneck_dim)``."""
        with torch.autocast(x.device.type, enabled=False):
            return self.first.normalized(self.neck(self.mlp(at_least_float32(x))))

    def classify(self, z: Tensor) -> Tensor:
        """Logits of bottleneck vectors: ``(B, bottleneck_dim)`` to ``(B, out_dim)``, at least float32."""
        with torch.autocast(z.device.type, enabled=False):
            return self.second.normalized(self.last_layer(z))

    @torch.no_grad()
    def fixed_classifier(self) -> Callable[[Tensor], Tensor]:
        """``classify`` for weights that no longer change: it keeps the unit rows instead of dividing in each call."""
        layer = self.last_layer
        if not isinstance(layer, UnitRowLinear):
            return self.classify
        weight = layer.effective_weight(torch.promote_types(layer.weight.dtype, torch.float32))
        bias = None if layer.bias is None else layer.bias.detach().to(weight.dtype, copy=True)

        def classify(z: Tensor) -> Tensor:
            with torch.autocast(z.device.type, enabled=False):
                return self.second.normalized(F.linear(z.to(weight.dtype), weight, bias))

        return classify

    def forward(self, x: Tensor) -> Tensor:
        """Logits of embeddings: ``(B, in_dim)`` to ``(B, out_dim)``, at least float32."""
        return self.classify(self.bottleneck(x))
