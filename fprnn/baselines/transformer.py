"""The causal Transformer: attention over all tokens so far, and an MLP; as a layer, and as GPT-2's stack of them.

"Attention Is All You Need" (Vaswani et al., NeurIPS 2017), the decoder without cross-attention.
:class:`TransformerLayer` is what a sequence model stacks in the place of a recurrent layer. Different from the
Transformers that "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) compares with: on word problems theirs has no
causal mask and no usable positions, so its curve is no lower bound for this one; on copying theirs is GPT-NeoX, whose
MLP stands beside the attention (``parallel``). By default no biases, no dropout.

:class:`CausalTransformer` is a network of the same layers for the distillation of text (package ``kd``), as in the
early code of "Revisiting Knowledge Distillation", which distils GPT models (Radford et al., "Language models are
unsupervised multitask learners", 2019): pre-norm blocks with biases, learned positions, GELU. What differs: it has no
output layer. Like an image encoder it gives features, and whoever uses it adds a linear head, so that text and images
are distilled by the same code.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinopl.core.errors import check_norm_eps, check_sizes
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
        bias: add biases to both linear maps.
    """

    def __init__(self, d_model: int, num_heads: int, width: int, positions: Positions, bias: bool = False) -> None:
        super().__init__()
        self.num_heads, self.width, self.positions = num_heads, width, positions
        self.in_proj = nn.Linear(d_model, 3 * num_heads * width, bias=bias)
        self.out_proj = nn.Linear(num_heads * width, d_model, bias=bias)

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
        bias: add biases to both linear maps.
    """

    def __init__(self, d_model: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d_model, hidden, bias=bias)
        self.out_proj = nn.Linear(hidden, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D)``."""
        return self.out_proj(F.gelu(self.in_proj(x)))


class TransformerLayer(StreamedLayer[AttentionCache]):
    """A Transformer's block from ``(B, T, D)`` to ``(B, T, D)``, without the residual connection around it.

    .. code-block:: text

        a = attention(x) ;  out = a + MLP(RMSNorm(x + a))        in parallel:  out = a + MLP(x)

    A model adds ``out`` to its residual stream r, of which x is the norm. So with ``parallel`` this is the pre-norm
    block of GPT-NeoX to the letter, but for one norm instead of two that differ in their weights; otherwise the MLP
    reads the norm of ``x + a`` where a pre-norm block has that of ``r + a``. With ``input_norm``, x is the stream r
    itself and attention reads its norm: then this is the pre-norm block to the letter. Decoding keeps keys and values
    of all tokens: its memory grows with the context.

    Args:
        d_model: number of channels D.
        num_heads: heads.
        head_dim: width of a head; None is D / num_heads.
        positions: how a token knows where it stands: NoPE, RoPE, ALiBi or HardALiBi; None is NoPE.
        mlp_width: hidden channels of the MLP; None is 4 D.
        parallel: let the MLP read the layer's input instead of the attention's output.
        max_length: longest context in tokens, in training, evaluation and decoding; None is any.
        norm_eps: of the norms.
        bias: add biases, to the norms too, which are then layer norms: GPT-2's.
        dropout: of what attention and MLP give, in training.
        input_norm: let attention read a norm of its input, which is then a residual stream. Not for a sequence model,
            which has that norm itself.

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
        bias: bool = False,
        dropout: float = 0.0,
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        width = head_width(d_model, num_heads, head_dim, mlp_width=mlp_width, max_length=max_length)
        check_norm_eps(norm_eps)
        positions = NoPE() if positions is None else positions
        positions.check(num_heads, width)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: must be at least 0 and below 1")
        make_norm = nn.LayerNorm if bias else nn.RMSNorm
        self.max_length = max_length
        self.input_norm = make_norm(d_model, eps=norm_eps) if input_norm else None
        self.attention = CausalAttention(d_model, num_heads, width, positions, bias)
        self.norm = None if parallel else make_norm(d_model, eps=norm_eps)
        self.mlp = GELUNetwork(d_model, mlp_width or 4 * d_model, bias)
        self.dropout = nn.Dropout(dropout)

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
        attended, state = self.attention.advance(x if self.input_norm is None else self.input_norm(x), state)
        attended = self.dropout(attended)
        return attended + self.dropout(self.mlp(x if self.norm is None else self.norm(x + attended))), state


# Of a block's parameters, in checkpoints written before the network was made of TransformerLayers.
FORMER_NAMES = {
    "attention_norm": "input_norm",
    "qkv": "attention.in_proj",
    "attention_out": "attention.out_proj",
    "mlp_norm": "norm",
    "mlp_in": "mlp.in_proj",
    "mlp_out": "mlp.out_proj",
}


class CausalTransformer(nn.Module):
    """Features of each token that depend on it and those before it: ``(B, T)`` int64 to ``(B, T, width)``.

    Args:
        shape: vocabulary size, and the longest window; linked from the data.
        width: of the features.
        depth: number of blocks.
        heads: of attention; they share the width.
        dropout: of embeddings and of what each half of a block adds, in training.

    Attributes:
        embed_dim: the width.

    Raises:
        ValueError: if an option is out of range, or the width cannot be shared among the heads.
    """

    def __init__(
        self, shape: tuple[int, int], width: int = 128, depth: int = 4, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads={heads}: the width of CausalTransformer, {width}, must be a multiple of it")
        vocab_size, length = shape
        check_sizes(width=width)
        self.embed_dim = width
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        options: dict[str, Any] = {"max_length": length, "bias": True, "dropout": dropout, "input_norm": True}
        self.blocks = nn.ModuleList(TransformerLayer(width, heads, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        # GPT-2's: normal weights, smaller where a block adds to the stream, so that depth does not widen it.
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 * ((2 * depth) ** -0.5 if name.endswith("out_proj.weight") else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        self.register_load_state_dict_pre_hook(rename_former)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor) -> Tensor:
        """Features ``(B, T, width)`` of tokens ``(B, T)`` int64; ValueError if T is above the shape's length."""
        length = tokens.shape[1]
        if length > self.position.num_embeddings:
            raise ValueError(f"{length} tokens: CausalTransformer was built for {self.position.num_embeddings}.")
        x: Tensor = self.dropout(self.token(tokens) + self.position.weight[:length])
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


def rename_former(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Renames parameters of :data:`FORMER_NAMES` below a prefix, before a :class:`CausalTransformer` loads them."""
    for name in [name for name in state if name.startswith(f"{prefix}blocks.")]:
        block = re.match(r"blocks\.\d+\.", name.removeprefix(prefix))
        former, dot, kind = name.removeprefix(prefix + (block[0] if block else "")).rpartition(".")
        if block and former in FORMER_NAMES:
            state[f"{prefix}{block[0]}{FORMER_NAMES[former]}{dot}{kind}"] = state.pop(name)
