"""A network of teacher or student: an encoder and a projection head, drawn together from one seed."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dinopl.core.random import seeded
from dinopl.core.types import ImageShape
from dinopl.encoders import embedding_size

EncoderFactory = Callable[[ImageShape], nn.Module]
HeadFactory = Callable[[int], nn.Module]


@runtime_checkable
class BottleneckHead(Protocol):
    """A head in two steps: a narrow vector, from which the wide logits can be recomputed cheaply."""

    def bottleneck(self, x: Tensor) -> Tensor:
        """Embeddings ``(B, r)`` to vectors ``(B, k)``."""

    def classify(self, z: Tensor) -> Tensor:
        """Vectors ``(B, k)`` to logits ``(B, m)``."""


class Network(nn.Module):
    """Encoder and head: images to embeddings to logits.

    Args:
        encoder: maps ``(B, C, H, W)`` to ``(B, embed_dim)``.
        head: maps ``(B, embed_dim)`` to ``(B, m)``.
        embed_dim: width of the embeddings.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, embed_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.embed_dim = embed_dim

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings ``(B, embed_dim)`` of images ``(B, C, H, W)``."""
        return self.encoder(x)

    def bottleneck(self, x: Tensor) -> Tensor:
        """What is worth caching of images: the head's bottleneck vectors ``(B, k)``, or embeddings if it has none."""
        embedding = self.embed(x)
        return self.head.bottleneck(embedding) if isinstance(self.head, BottleneckHead) else embedding

    def classify(self, z: Tensor) -> Tensor:
        """Logits ``(B, m)`` of what ``bottleneck`` returned."""
        return self.head.classify(z) if isinstance(self.head, BottleneckHead) else self.head(z)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, m)`` of images ``(B, C, H, W)``."""
        return self.head(self.embed(x))


def draw_network(encoder: EncoderFactory, head: HeadFactory, shape: ImageShape, seed: int) -> Network:
    """A freshly initialised network: the encoder first, then the head.

    The draw is on the CPU under ``seed`` alone, so it is the same on every device, and nothing else sees it.

    Args:
        encoder: makes an encoder for a shape of image.
        head: makes a head for a width of embedding.
        shape: shape of one image.
        seed: seed of all initial values.
    """
    with seeded(seed), torch.device("cpu"):
        body = encoder(shape)
        embed_dim = embedding_size(body, shape)
        return Network(body, head(embed_dim), embed_dim)


@torch.no_grad()
def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Writes the parameters and buffers of ``source`` into those of ``target``; they share no storage afterwards."""
    values = dict(source.named_parameters())
    for name, own in target.named_parameters():
        own.copy_(values[name])
    copy_buffers(source, target)


@torch.no_grad()
def copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Writes the buffers of ``source`` into those of ``target``, those that checkpoints leave out too."""
    values = dict(source.named_buffers())
    for name, own in target.named_buffers():
        own.copy_(values[name])
