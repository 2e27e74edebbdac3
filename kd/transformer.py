"""A small causal Transformer, for distillation on text.

"Revisiting Knowledge Distillation" compares architectures and tasks; its first author's early code distils GPT models
(Radford et al., "Language models are unsupervised multitask learners", 2019): pre-norm blocks, learned positions, GELU.
What differs: there is no output layer here. Like an image encoder it gives features, and whoever uses it adds a linear
head, so that text and images are distilled by the same code.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from fprnn.baselines import causal_attention
from kd.networks import TextShape

_STD = 0.02  # GPT-2's


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
        ValueError: if the width cannot be shared among the heads.
    """

    def __init__(
        self, shape: TextShape, width: int = 128, depth: int = 4, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads={heads}: the width of CausalTransformer, {width}, must be a multiple of it")
        shape = TextShape(*shape)
        self.embed_dim = width
        self.token = nn.Embedding(shape.vocab_size, width)
        self.position = nn.Embedding(shape.length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        # GPT-2's: normal weights, smaller where a block adds to the stream, so that depth does not widen it.
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = (2 * depth) ** -0.5 if name.endswith("out.weight") else 1.0
                nn.init.normal_(parameter, std=_STD * scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Features ``(B, T, width)`` of tokens ``(B, T)`` int64; ValueError if T is above the shape's length."""
        length = tokens.shape[1]
        if length > self.position.num_embeddings:
            raise ValueError(f"{length} tokens: CausalTransformer was built for {self.position.num_embeddings}.")
        x: Tensor = self.dropout(self.token(tokens) + self.position.weight[:length])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class CausalBlock(nn.Module):
    """Attention to earlier tokens, then a two-layer perceptron, each added to its input: ``(B, T, D)`` to the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Adds attention and perceptron to ``x``."""
        parts = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, H, D / H)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = causal_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.attention_out(mixed))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)))
        return x + self.dropout(self.mlp_out(hidden))
