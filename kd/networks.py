"""Classifiers that a student or a teacher may be: an encoder with a linear head. ``kd/library.py`` has more.

A factory is called with the shape of a sample and the number of classes. It may be any class by its path; those here
are what this study needs. ``build`` makes a network from the plain values that a run keeps of its configuration.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dinopl.core.random import seeded
from dinopl.core.trust import checked, made
from dinopl.core.types import ImageShape
from dinopl.encoders import MiniMLP, embedding_size, evaluation


class TextShape(NamedTuple):
    """The shape of a window of text."""

    vocab_size: int
    length: int
    """Tokens of a window."""


Shape = ImageShape | TextShape
NetworkFactory = Callable[[Any, int], nn.Module]


def as_shape(shape: Any) -> Shape:
    """Three numbers as an image's channels, height and width; two as a text's vocabulary size and length."""
    if shape is None or len(shape) not in (2, 3):
        raise ValueError(f"input_shape={shape}: is not known from the data; give [channels, height, width]")
    return ImageShape(*shape) if len(shape) == 3 else TextShape(*shape)


class EncoderClassifier(nn.Module):
    """An encoder and a linear head: ``(B, C, H, W)`` to logits ``(B, K)``, or tokens ``(B, T)`` to ``(B, T, K)``.

    Args:
        input_shape: shape of one sample.
        num_classes: K.
        encoder: makes an encoder for a shape.
    """

    def __init__(self, input_shape: Any, num_classes: int, encoder: Callable[[Any], nn.Module] = MiniMLP) -> None:
        super().__init__()
        shape = as_shape(input_shape)
        self.encoder = encoder(shape)
        self.head = nn.Linear(embedding_size(self.encoder, shape), num_classes)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


def draw_classifier(factory: NetworkFactory, shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """A freshly initialised classifier of ``num_classes``, drawn on the CPU under ``seed``, which nothing else sees.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: must be at least 2")
    with seeded(seed), torch.device("cpu"):
        return factory(shape, num_classes)


def build(config: Any, *arguments: Any) -> Any:
    """Makes an object from the plain values of a configuration: a class's path, or ``class_path`` and ``init_args``.

    Positional arguments are those that a factory is called with.

    Raises:
        ValueError: if it names what another's file may not (``dinopl.core.trust``), or what there is not; nothing has
            been called then.
    """
    allowed = checked(config, NetworkFactory)
    return made({"class_path": allowed} if isinstance(allowed, str) else allowed, NetworkFactory)(*arguments)


def penultimate(network: nn.Module) -> str | None:
    """Name of what goes into the last linear layer, as ``kd.features`` takes it; None if there is no linear layer."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name]
    return f"{names[-1]}:input" if names else None


def output_shape(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What a network returns for one sample of a shape, of an image or of text; the network is left as it is."""
    anchor = next(iter(network.parameters()), torch.zeros(()))
    image = len(shape) == 3
    view = torch.zeros(1, *shape, dtype=anchor.dtype) if image else torch.zeros(1, shape[1], dtype=torch.int64)
    try:
        with torch.no_grad(), evaluation(network):
            outputs = network(view.to(anchor.device))
        return tuple(outputs.shape)
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__}: fails at one sample {tuple(shape)} ({type(error).__name__}: {error}); give a "
            "network of such samples"
        ) from error


def check_outputs(student: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Raises a ValueError unless a network returns as many logits as there are classes."""
    if (found := output_shape(student, shape)[-1]) != num_classes:
        raise ValueError(
            f"student={type(student).__name__}: gives {found} logits, and the data have {num_classes} classes; give "
            "one that takes the number of classes"
        )
