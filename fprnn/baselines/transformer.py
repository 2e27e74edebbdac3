"""A causal Transformer layer: attention over all tokens so far, and an MLP.

"Attention Is All You Need" (Vaswani et al., NeurIPS 2017), the decoder without cross-attention. Different from the
Transformers that "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) compares with: on word problems theirs has no
causal mask and no usable positions, so its curve is no lower bound for this one; on copying theirs is GPT-NeoX, whose
MLP stands beside the attention (``parallel``). No biases, no dropout.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinopl.core.errors import check_norm_eps
from fprnn.baselines.positions import NoPE, Positions
from fprnn.baselines.streamed import StreamedLayer, head_width

AttentionCache = tuple[Tensor, Tensor]
"""Keys and values of all tokens so far, ``(B, heads, P, head_dim)`` each: it grows with every token."""


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, positions: Positions | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(K) + bias) v``, over the keys up to each query's own place.

    Args:
        queries: of the last Q of P tokens, ``(B, H, Q, K)``.
        keys: ``(B, H, P, K)``.
        values: ``(B, H, P, V)``.
        positions: makes the bias; queries and keys are taken to be rotated already.

    Returns:
        ``(B, H, Q, V)``.
    """
    heads, new, length = queries.shape[1], queries.shape[2], keys.shape[2]
    places = torch.arange(length, device=queries.device)
    distance = places[length - new :, None] - places
    bias = None if positions is None else positions.bias(distance, heads)
    if bias is None and new == length:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    mask = distance >= 0 if bias is None else bias.masked_fill(distance < 0, -torch.inf).to(queries.dtype)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


class CausalAttention(StreamedLayer[AttentionCache]):
    """Attention in several heads, ``(B, T, D)`` to ``(B, T, D)``.

    Args:
        d_model: number of channels D.
        num_heads: heads.
        width: of a head.
        positions: how a token knows where it stands.
    """

    def __init__(self, d_model: int, num_heads: int, width: int, positions: Positions) -> None:
        super().__init__()
        self.num_heads, self.width, self.positions = num_heads, width, positions
        self.in_proj = nn.Linear(d_model, 3 * num_heads * width, bias=False)
        self.out_proj = nn.Linear(num_heads * width, d_model, bias=False)

    def initial_state(self, batch: int) -> AttentionCache:
        """A cache without tokens."""
        empty = self.in_proj.weight.new_zeros(batch, self.num_heads, 0, self.width)
        return empty, empty

    def advance(self, x: Tensor, state: AttentionCache) -> tuple[Tensor, AttentionCache]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next cache."""
        start = state[0].shape[2]
        parts = torch.unflatten(self.in_proj(x), -1, (3, self.num_heads, self.width)).permute(2, 0, 3, 1, 4)
        queries, keys = (self.positions.rotate(part, start) for part in parts[:2])
        keys, values = (
            torch.cat([old.to(new.dtype), new], 2) for old, new in zip(state, (keys, parts[2]), strict=True)
        )
        y = causal_attention(queries, keys, values, self.positions)
        return self.out_proj(y.transpose(1, 2).flatten(2)), (keys, values)


class GELUNetwork(nn.Module):
    """Two linear maps with a GELU between, for each token by itself.

    Args:
        d_model: number of channels D.
        hidden: channels between.
    """

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d_model, hidden, bias=False)
        self.out_proj = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D)``."""
        return self.out_proj(F.gelu(self.in_proj(x)))


class TransformerLayer(StreamedLayer[AttentionCache]):
    """A Transformer's block from ``(B, T, D)`` to ``(B, T, D)``, without the residual connection around it.

    .. code-block:: text

        a = attention(x) ;  out = a + MLP(RMSNorm(x + a))        in parallel:  out = a + MLP(x)

    A model adds ``out`` to its residual stream r, of which x is the norm. So with ``parallel`` this is the pre-norm
    block of GPT-NeoX to the letter, but for one norm instead of two that differ in their weights; otherwise the MLP
    reads the norm of ``x + a`` where a pre-norm block has that of ``r + a``. Decoding keeps keys and values of all
    tokens: its memory grows with the context.

    Args:
        d_model: number of channels D.
        num_heads: heads.
        head_dim: width of a head; None is D / num_heads.
        positions: how a token knows where it stands: NoPE, RoPE, ALiBi or HardALiBi; None is NoPE.
        mlp_width: hidden channels of the MLP; None is 4 D.
        parallel: let the MLP read the layer's input instead of the attention's output.
        max_length: longest context in tokens, in training, evaluation and decoding; None is any.
        norm_eps: of the norm between attention and MLP.

    Raises:
        ValueError: if an option is below 1, the heads do not divide D and ``head_dim`` is not given, or the positions
            do not fit the heads.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        head_dim: int | None = None,
        positions: Positions | None = None,
        mlp_width: int | None = None,
        parallel: bool = False,
        max_length: int | None = 2048,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        width = head_width(d_model, num_heads, head_dim, mlp_width=mlp_width, max_length=max_length)
        check_norm_eps(norm_eps)
        positions = NoPE() if positions is None else positions
        positions.check(num_heads, width)
        self.max_length = max_length
        self.attention = CausalAttention(d_model, num_heads, width, positions)
        self.norm = None if parallel else nn.RMSNorm(d_model, eps=norm_eps)
        self.mlp = GELUNetwork(d_model, mlp_width or 4 * d_model)

    def check_context(self, length: int) -> None:
        """Raises a ValueError if a context of so many tokens is longer than ``max_length``."""
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"max_length: {self.max_length} is too short for a context of {length} tokens; use "
                f"{length} or more, or null for any, or shorter sequences"
            )

    def initial_state(self, batch: int) -> AttentionCache:
        """A cache without tokens."""
        return self.attention.initial_state(batch)

    def advance(self, x: Tensor, state: AttentionCache) -> tuple[Tensor, AttentionCache]:
        """Runs over the next tokens ``(B, T, D)``: their outputs and the next cache.

        Raises:
            ValueError: if the context becomes longer than ``max_length``.
        """
        self.check_context(state[0].shape[2] + x.shape[1])
        attended, state = self.attention.advance(x, state)
        return attended + self.mlp(x if self.norm is None else self.norm(x + attended)), state
