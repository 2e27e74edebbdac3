"""Networks of torchvision and timm by name, as encoders; and, for other families, with any number of outputs.

An encoder is the whole network but for its classifier: ``torchvision_network`` and ``timm_network`` make the whole.
timm is an extra (``pip install 'dinopl[timm]'``). Unlike this package's own encoders these keep the library's initial
values; like them, they are drawn from the global generator, which ``draw_network`` seeds.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dinopl.core.errors import did_you_mean
from dinopl.core.types import ImageShape
from dinopl.encoders.common import embedding_size


@contextmanager
def one_line(owner: str, name: str, known: Callable[[], list[str]] = list) -> Iterator[None]:
    """Turns an error of a library's factory into one line, with the nearest of the ``known`` names for an unknown one.

    Args:
        owner: class that the user named.
        name: of the network.
        known: gives the library's names; by default none, for a network that is known.
    """
    try:
        yield
    # assertions are timm's, of the size of an image; files and hosts are those of pretrained weights
    except (ValueError, TypeError, KeyError, RuntimeError, AssertionError, OSError) as error:
        cause = error.__cause__ or error  # of an image that it refuses, the library's own words
        reason = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
        arch = name.split(".")[0]  # timm writes the pretrained weights behind a dot
        names = [] if ":" in name else known()
        unknown = bool(names) and arch.lower() not in names
        remedy = did_you_mean(arch, names) if unknown else f"; correct name, weights or arguments of {owner}"
        raise ValueError(f"name={name}: {reason}{remedy}") from error


def torchvision_network(
    name: str,
    shape: Sequence[int],
    num_classes: int | None = None,
    weights: str | None = None,
    arguments: dict[str, Any] | None = None,
    owner: str = "TorchvisionEncoder",
) -> nn.Module:
    """A classification model of torchvision's, without the auxiliary classifiers of GoogLeNet and Inception.

    Args:
        name: as ``torchvision.models.list_models`` has it, such as resnet50 or vit_b_16.
        shape: of one image, which must have three channels.
        num_classes: number of outputs; None for those of the ``weights``, or 1,000. With ``weights`` it must be theirs.
        weights: name of pretrained weights, such as IMAGENET1K_V1, which torchvision fetches; None draws at random.
        arguments: further arguments of the model.
        owner: class that the user named, for messages.

    Raises:
        ValueError: if torchvision knows no such model, or the weights or arguments do not fit it.
    """
    from torchvision import models

    if len(shape) == 3 and shape[0] == 1:
        raise ValueError(f"rgb=False: {owner} takes images of 3 channels, not {list(shape)}; switch it on")
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"shape={list(shape)}: {owner} takes images of 3 channels; give such images")
    names = models.list_models(module=models)  # classifiers only: others fetch weights unasked, and give no vectors
    if name.lower() not in names:
        raise ValueError(f"name={name}: Unknown model {name}{did_you_mean(name, names)}")
    given = {} if num_classes is None else {"num_classes": num_classes}
    with one_line(owner, name):
        network: nn.Module = models.get_model(name, weights=weights, **given, **(arguments or {}))
    # GoogLeNet and Inception return their auxiliary classifiers' outputs too while they are trained
    for part in ("aux1", "aux2", "AuxLogits"):
        if hasattr(network, part):
            network.aux_logits = False  # type: ignore[assignment]
            setattr(network, part, None)
    return network


def timm_network(
    name: str,
    channels: int,
    num_classes: int = 0,
    pretrained: bool = False,
    arguments: dict[str, Any] | None = None,
    owner: str = "TimmEncoder",
) -> nn.Module:
    """A model of timm's, which must be installed.

    Args:
        name: as ``timm.list_models`` has it.
        channels: of the images.
        num_classes: number of outputs, drawn at random where it is not that of pretrained weights; 0 for features.
        pretrained: whether to load timm's weights, which it fetches.
        arguments: further arguments of ``timm.create_model``, such as ``img_size`` for a transformer.
        owner: class that the user named, for messages.

    Raises:
        ValueError: if timm is not installed, knows no such model, or the arguments do not fit it.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise ValueError(f"name={name}: {owner} needs timm; `pip install timm` gets it") from None
    with one_line(owner, name, lambda: list(timm.list_models())):
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=channels, **(arguments or {})
        )
    return network


class LibraryNetwork(nn.Module):
    """A network of another library; a plain state dict of its ``network`` has that library's names."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(B, C, H, W)`` to embeddings or logits ``(B, ...)``."""
        output: Tensor = self.network(x)
        return output


class LibraryEncoder(LibraryNetwork):
    """A network of another library that embeds images, ``(B, C, H, W)`` to ``(B, embed_dim)``.

    Attributes:
        embed_dim: width of what it returns, as found with one image.
    """

    def __init__(self, network: nn.Module, shape: ImageShape) -> None:
        super().__init__(network)
        self.embed_dim = embedding_size(self, shape)  # not what the network says of itself


class TorchvisionEncoder(LibraryEncoder):
    """A classification model of torchvision's without its last layer.

    Args:
        shape: shape of one image, which must have three channels.
        name: as ``torchvision.models.list_models`` has it, such as resnet18 or vit_b_16.
        weights: name of pretrained weights, such as IMAGENET1K_V1, which torchvision fetches; None draws at random.
        arguments: further arguments of the model, such as ``image_size`` for a transformer.

    Raises:
        ValueError: if torchvision knows no such model, the weights or arguments do not fit it, or the model does not
            take images of this shape.
    """

    def __init__(
        self,
        shape: ImageShape,
        name: str = "resnet18",
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        owner = type(self).__name__
        network = torchvision_network(name, shape, weights=weights, arguments=arguments, owner=owner)
        # The classifier is defined last: a linear layer, or a convolution (SqueezeNet), after which only pools follow.
        found = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        found = found or [path for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
        network.set_submodule(found[-1], nn.Identity())
        with one_line(owner, name):
            super().__init__(network, shape)


class TimmEncoder(LibraryEncoder):
    """A model of timm's without its classifier; timm must be installed.

    Args:
        shape: shape of one image.
        name: as ``timm.list_models`` has it, such as resnet18 or vit_tiny_patch16_224.
        pretrained: whether to load timm's weights, which it fetches.
        arguments: further arguments of ``timm.create_model``, such as ``img_size`` for a transformer.

    Raises:
        ValueError: if timm is not installed, knows no such model, the arguments do not fit it, or the model does not
            take images of this shape.
    """

    def __init__(
        self, shape: ImageShape, name: str, pretrained: bool = False, arguments: dict[str, Any] | None = None
    ) -> None:
        owner = type(self).__name__
        network = timm_network(name, shape[0], pretrained=pretrained, arguments=arguments, owner=owner)
        with one_line(owner, name):
            super().__init__(network, shape)
