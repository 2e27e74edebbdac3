"""Classifiers that a student or a teacher may be: an encoder with a linear head, or a network of torchvision or timm.

A factory is called with the shape of a sample and the number of classes. It may be any class by its path; those here
are what this study needs. ``build`` makes a network from the plain values that a run keeps of its configuration.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from dinopl.core.seeds import seeded
from dinopl.core.trust import checked, resolve
from dinopl.core.types import ImageShape
from dinopl.encoders import MiniMLP, embedding_size
from kd.text import TextShape

Shape = ImageShape | TextShape
NetworkFactory = Callable[[Any, int], nn.Module]


def as_shape(shape: Any) -> Shape:
    """Three numbers as an image's channels, height and width; two as a text's vocabulary size and length."""
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


class LibraryClassifier(nn.Module):
    """A network of another library, for as many classes as the data have.

    Args:
        network: maps ``(B, C, H, W)`` to logits ``(B, K)``. Its own names count when a plain state dict is loaded.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.network(x)
        return logits


class TorchvisionClassifier(LibraryClassifier):
    """A model of torchvision's.

    Args:
        input_shape: shape of one image, which must have three channels.
        num_classes: K. With pretrained ``weights`` it must be theirs.
        name: as ``torchvision.models.list_models`` tells it, such as resnet50 or vit_b_16.
        weights: name of pretrained weights, such as IMAGENET1K_V1, which torchvision fetches; null draws at random.
        arguments: further arguments of the model.

    Raises:
        ValueError: if torchvision knows no such model, or the weights or arguments do not fit it.
    """

    def __init__(
        self,
        input_shape: Any,
        num_classes: int,
        name: str = "resnet18",
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        from torchvision.models import get_model

        _check_channels(type(self).__name__, input_shape)
        with _refused(type(self).__name__, name):
            network = get_model(name, weights=weights, num_classes=num_classes, **(arguments or {}))
        super().__init__(network)


class TimmClassifier(LibraryClassifier):
    """A model of timm's, which must be installed.

    Args:
        input_shape: shape of one image.
        num_classes: K.
        name: as ``timm.list_models`` tells it.
        pretrained: whether to load timm's weights; a head for another number of classes is drawn anew.
        arguments: further arguments of ``timm.create_model``.

    Raises:
        ValueError: if timm is not installed, knows no such model, or the arguments do not fit it.
    """

    def __init__(
        self,
        input_shape: Any,
        num_classes: int,
        name: str,
        pretrained: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        try:
            timm = importlib.import_module("timm")
        except ImportError:
            raise ValueError(f"name: {name} of TimmClassifier needs timm; `pip install timm` gets it.") from None
        channels = as_shape(input_shape)[0]
        with _refused(type(self).__name__, name):
            network = timm.create_model(
                name, pretrained=pretrained, num_classes=num_classes, in_chans=channels, **(arguments or {})
            )
        super().__init__(network)


@contextmanager
def _refused(owner: str, name: str) -> Iterator[None]:
    """Turns what a library's factory refuses into one line."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"name: {name} of {owner}: {told}; correct name, weights or arguments.") from error


def _check_channels(owner: str, shape: Any) -> None:
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(
            f"--model.student: {owner} takes images of 3 channels, and these samples have the shape {tuple(shape)}; "
            "set --data.rgb true for gray images."
        )


def draw_classifier(factory: NetworkFactory, shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """A freshly initialised classifier, drawn on the CPU under ``seed`` alone.

    Args:
        factory: makes it.
        shape: of a sample.
        num_classes: K.
        seed: of all initial values; nothing else sees it.
    """
    with seeded(seed), torch.device("cpu"):
        return factory(shape, num_classes)


def build(config: Any, *arguments: Any) -> Any:
    """Makes an object from the plain values of a configuration.

    Args:
        config: a class's path, or a mapping with ``class_path`` and ``init_args``.
        *arguments: positional arguments, those that a factory is called with.

    Raises:
        ValueError: if it names what another's file may not (``dinopl.core.trust``), or what there is not; nothing has
            been called then.
    """
    return _factory(checked(config, NetworkFactory))(*arguments)


def _factory(config: Any) -> Callable[..., Any]:
    cls = resolve(config if isinstance(config, str) else config["class_path"])
    given = {} if isinstance(config, str) else config.get("init_args") or {}
    hints = get_type_hints(cls.__init__ if inspect.isclass(cls) else cls)
    return partial(cls, **{key: _value(value, hints.get(key)) for key, value in given.items()})


def _value(value: Any, hint: Any) -> Any:
    """An argument: a factory where its annotation says so, otherwise an object, a list of such, or a plain value."""
    if isinstance(value, list):
        return [_value(item, None) for item in value]
    if isinstance(value, str) and get_origin(hint) is Callable and "." in value:
        return resolve(value)  # of an activation, and the like
    if not (isinstance(value, Mapping) and "class_path" in value):
        return value
    factory = _factory(value)
    return factory if get_origin(hint) is Callable or "Callable" in str(hint) else factory()


def penultimate(network: nn.Module) -> str | None:
    """Name of what goes into the last linear layer, as ``kd.features`` takes it; None if there is no linear layer."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name]
    return f"{names[-1]}:input" if names else None
