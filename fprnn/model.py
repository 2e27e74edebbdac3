"""A sequence model: an embedding, a stack of recurrent blocks, and a head.

The wrapper of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 4.5 and the released code, which has it from
Mamba (Gu and Dao, 2023)::

    residual = embedding(tokens)
    residual = residual + layer(RMSNorm(residual))      n_layers times
    logits = head(RMSNorm(residual))

The residual stream is float32 in any precision. What differs from the released code: the head may be untied and then
has a class for each target; logits of the padded vocabulary are cut off before the loss; each block's output weights
are divided by ``sqrt(n_layers)``, which the released code does for FP-Mamba and misses, by another name, for FP-RNN.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.errors import MOST_PARTS, check_norm_eps, check_sizes
from dinopl.core.precision import at_least_float32
from fprnn.layers import FPRNN
from fprnn.mixers import Mixer
from fprnn.solvers import FixedPointSolver
from fprnn.solvers.newton import normalized


class SequenceModel(nn.Module):
    """Tokens ``(B, T)`` to logits ``(B, T, num_targets)``.

    A layer decodes without reading everything again if it has ``initial_state(batch)``, ``advance(x, state)`` for the
    next tokens ``(B, T, D)`` and ``step(x_t, state)`` for the next one ``(B, D)``, which return outputs and the state
    after them: the fixed-point layers, their controls and all baselines do. A layer may also have
    ``check_context(length)``, which raises a ValueError for sequences that are too long, and ``tokenwise``, see
    :meth:`first_block`.

    Args:
        vocab_size: number of different input tokens.
        num_targets: number of classes; with a tied head class i is token i.
        layer: makes a layer ``(B, T, D) -> (B, T, D)`` for a width D, such as :class:`~fprnn.layers.FPRNN`.
        d_model: width D.
        n_layers: number of blocks.
        tie_head: use the embedding as the head.
        pad_vocab_to: round the rows of embedding and head up to a multiple of this, 8 in the paper's code.
        embedding_std: standard deviation of the initial embedding; 0.02 in the paper's code, whose head is tied.
        norm_eps: of the norms before each layer and before the head.
        scale_output: divide the initial weights of each ``out_proj`` in a layer by ``sqrt(n_layers)``.

    Raises:
        ValueError: if a size is out of range, or a tied head lacks classes.
    """

    def __init__(
        self,
        vocab_size: int,
        num_targets: int,
        layer: Callable[[int], nn.Module] = FPRNN,
        d_model: int = 64,
        n_layers: int = 1,
        tie_head: bool = False,
        pad_vocab_to: int = 1,
        embedding_std: float = 1.0,
        norm_eps: float = 1e-5,
        scale_output: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "num_targets": num_targets, "d_model": d_model, "pad_vocab_to": pad_vocab_to}
        for name, size in sizes.items():
            if size is None:
                raise ValueError(f"{name}=None: is not known from the data; give a number")
        if layer is None:  # which the command can pass whatever the annotation says
            raise ValueError("layer=None: the model needs one; give a class such as FPRNN")
        check_sizes(**sizes)
        check_sizes(MOST_PARTS, n_layers=n_layers)
        if embedding_std < 0:
            raise ValueError(f"embedding_std={embedding_std}: must be at least 0; 1.0, or 0.02 with a tied head")
        check_norm_eps(norm_eps)
        if tie_head and num_targets > vocab_size:
            raise ValueError(
                f"tie_head=True: gives {vocab_size} classes, one for each token, and the targets are {num_targets}; "
                "set it to False"
            )
        self.vocab_size, self.num_targets, self.d_model = vocab_size, num_targets, d_model
        self.embedding = nn.Embedding(round_up(vocab_size, pad_vocab_to), d_model)
        self.norms = nn.ModuleList(nn.RMSNorm(d_model, eps=norm_eps) for _ in range(n_layers))
        self.layers = nn.ModuleList(layer(d_model) for _ in range(n_layers))
        for made in self.layers:  # a part of a layer would be made from a width as well
            if isinstance(made, Mixer | FixedPointSolver):
                raise ValueError(f"layer={type(made).__name__}: is a part of a layer; give a layer such as FPRNN")
            if not hasattr(made, "initial_state"):  # of another package, or no layer at all: asked once
                try:
                    with torch.no_grad():
                        found = copy.deepcopy(made).eval()(torch.zeros(1, 2, d_model)).shape
                except Exception as error:
                    found = f"{type(error).__name__}: {' '.join(str(error).split())}"
                if found != (1, 2, d_model):
                    raise ValueError(
                        f"layer={type(made).__name__}: must map (B, T, {d_model}) to itself, and (1, 2, {d_model}) "
                        f"gives {found}; give a layer such as FPRNN"
                    )
        self.final_norm = nn.RMSNorm(d_model, eps=norm_eps)
        classes = round_up(num_targets, pad_vocab_to)
        self.head = None if tie_head else nn.Linear(d_model, classes, bias=False)
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        if scale_output:
            scale_outputs(self.layers, 1 / math.sqrt(n_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, T, num_targets)`` for tokens ``(B, T)``, from the zero state."""
        residual = self.first_block(tokens)
        for index in range(1, len(self.layers)):
            residual = self.block(index, residual)
        return self.read_out(residual)

    def first_block(self, tokens: Tensor) -> Tensor:
        """The residual stream ``(B, T, D)`` behind the first block, whose input depends on each token alone.

        So a layer that is ``tokenwise``, as :class:`~fprnn.layers.FPRNN` may be, computes what depends on single tokens
        for the vocabulary, if that is smaller.
        """
        layer, table = self.layers[0], self.embedding.weight
        if not getattr(layer, "tokenwise", False) or len(table) >= tokens.numel():
            return self.block(0, self.embed(tokens))
        return self.embed(tokens) + layer(self._normed(self.norms[0], at_least_float32(table)), tokens)

    def check_context(self, length: int) -> None:
        """Raises a ValueError if a layer refuses contexts of so many tokens, by its own ``check_context``."""
        for layer in self.layers:
            check = getattr(layer, "check_context", None)
            if check is not None:
                check(length)

    def embed(self, tokens: Tensor) -> Tensor:
        """Where the residual stream starts: tokens ``(B, ...)`` to ``(B, ..., D)``, in at least float32."""
        return at_least_float32(self.embedding(tokens))

    def block(self, index: int, residual: Tensor) -> Tensor:
        """The residual stream ``(B, T, D)`` behind a block."""
        return residual + self.layers[index](self._normed(self.norms[index], residual))

    def read_out(self, residual: Tensor) -> Tensor:
        """Logits ``(..., num_targets)`` of the residual stream ``(..., D)``."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(self._normed(self.final_norm, residual), weight)[..., : self.num_targets]

    def initial_state(self, batch: int) -> list[Any]:
        """Every layer's state before the first token of ``batch`` sequences.

        Raises:
            TypeError: if a layer cannot stream.
        """
        for layer in self.layers:
            if not all(hasattr(layer, name) for name in ("initial_state", "advance", "step")):
                raise TypeError(f"{type(layer).__name__} cannot stream: it needs initial_state, advance and step")
        return [layer.initial_state(batch) for layer in self.layers]  # type: ignore[operator]

    def advance(self, tokens: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits ``(B, T, num_targets)`` for the next tokens ``(B, T)``, in parallel, and the states after them."""
        return self._stream(tokens, states, "advance")

    def step(self, tokens: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits ``(B, num_targets)`` for the next token ``(B,)`` of each sequence, and the states after it."""
        return self._stream(tokens, states, "step")

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        n: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continues sequences, one token at a time and, but for Transformers, in constant memory.

        Args:
            prompt: tokens ``(B, P)``, P at least 1; read in parallel.
            n: tokens to add.
            temperature: of the softmax to draw from; 0 takes the most likely token.
            top_k: draw among so many most likely tokens only.
            generator: to draw with; by default the device's global one.

        Returns:
            The new tokens, ``(B, n)``.

        Raises:
            ValueError: if the prompt is empty, or there are targets that are no tokens.
        """
        if not prompt.shape[1]:
            raise ValueError("prompt: is empty; give at least one token")
        if self.num_targets > self.vocab_size:
            raise ValueError(
                f"num_targets={self.num_targets}: more than {self.vocab_size} tokens, so they cannot be read"
            )
        logits, states = self.advance(prompt, self.initial_state(len(prompt)))
        tokens = [prompt[:, :0]]
        logits = logits[:, -1]
        for left in reversed(range(n)):
            tokens.append(sample_tokens(logits, temperature, top_k, generator).unsqueeze(1))
            if left:
                logits, states = self.step(tokens[-1].squeeze(1), states)
        return torch.cat(tokens, 1)

    def _stream(self, tokens: Tensor, states: list[Any], method: str) -> tuple[Tensor, list[Any]]:
        residual, after = self.embed(tokens), []
        for norm, layer, state in zip(self.norms, self.layers, states, strict=True):
            out, state = getattr(layer, method)(self._normed(norm, residual), state)
            residual = residual + out
            after.append(state)
        return self.read_out(residual), after

    def _normed(self, norm: nn.Module, residual: Tensor) -> Tensor:
        """The norm in full precision, in the precision of the weights that read it."""
        assert isinstance(norm, nn.RMSNorm)
        return normalized(norm, residual).to(self.embedding.weight.dtype)


def sample_tokens(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draws a class from each row of logits.

    Args:
        logits: ``(B, V)``.
        temperature: they are divided by it; 0 takes the largest.
        top_k: all but the k largest are left out.
        generator: to draw with.

    Returns:
        ``(B,)`` int64.

    Raises:
        ValueError: if an option is out of range.
    """
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature={temperature}: must be at least 0, and top_k={top_k} at least 1 or None")
    if temperature == 0:
        return logits.argmax(-1)
    values = at_least_float32(logits) / temperature
    if top_k is not None and top_k < values.shape[-1]:
        kept, classes = values.topk(top_k, -1)
        drawn = torch.multinomial(kept.softmax(-1), 1, generator=generator)
        return classes.gather(-1, drawn).squeeze(-1)
    return torch.multinomial(values.softmax(-1), 1, generator=generator).squeeze(-1)


def scale_outputs(layers: nn.ModuleList, factor: float) -> None:
    """Multiplies the weights of each ``out_proj`` in the layers: a Transformer has two, others one or none."""
    for part in layers.modules():
        projection = getattr(part, "out_proj", None)
        if isinstance(projection, nn.Linear):
            with torch.no_grad():
                projection.weight.mul_(factor)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below the value."""
    return -(-value // multiple) * multiple
