"""What every encoder family shares: the initialisation and the size of the embedding."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dinopl.core.types import ImageShape


def init_convolutions(module: nn.Module) -> None:
    """Draws every convolution of ``module`` from the global generator.

    "Random Teachers are Good Teachers" uses the initialisation of the torchvision models: Kaiming normal with
    ``fan_out`` and the gain of ReLU, that is a standard deviation of ``sqrt(2 / (out_channels * kh * kw))``; biases 0.
    Norm layers need no call: torch starts them at weight 1 and bias 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def embedding_size(encoder: nn.Module, shape: ImageShape) -> int:
    """Width r of the embeddings ``(B, r)`` that ``encoder`` makes of images of ``shape``.

    Reads ``encoder.embed_dim``; an encoder without it is asked with one image of zeros, in eval mode and without
    gradient, so that any module can serve as an encoder.

    Args:
        encoder: maps ``(B, C, H, W)`` to ``(B, r)``.
        shape: shape of one image.

    Raises:
        ValueError: if the encoder does not return one vector per image.
    """
    size = getattr(encoder, "embed_dim", None)
    if isinstance(size, int):
        return size
    anchor = next((p for p in encoder.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.no_grad(), evaluation(encoder):
        embedding = encoder(torch.zeros(1, *shape, dtype=anchor.dtype, device=anchor.device))
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        found = tuple(embedding.shape) if isinstance(embedding, torch.Tensor) else type(embedding).__name__
        raise ValueError(
            f"encoder: {type(encoder).__name__} returns {found} for one image, not (1, embed_dim); "
            "end it with a pooling and nn.Flatten()"
        )
    return embedding.shape[1]


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Puts a module in eval mode for a block; afterwards every submodule has the training flag that it had before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
