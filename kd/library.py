"""Classifiers of torchvision and timm that a student or a teacher may be.

A factory is called with the shape of a sample and the number of classes, as those of ``kd/networks.py``.
"""

from typing import Any

from dinopl.encoders.library import LibraryNetwork, timm_network, torchvision_network
from kd.networks import as_shape


class TorchvisionClassifier(LibraryNetwork):
    """A model of torchvision's.

    Args:
        input_shape: shape of one image, which must have three channels.
        num_classes: K. With pretrained ``weights`` it must be theirs.
        name: as ``torchvision.models.list_models`` has it, such as resnet50 or vit_b_16.
        weights: name of pretrained weights, such as IMAGENET1K_V1, which torchvision fetches; None draws at random.
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
        super().__init__(torchvision_network(name, input_shape, num_classes, weights, arguments, type(self).__name__))


class TimmClassifier(LibraryNetwork):
    """A model of timm's, which must be installed.

    Args:
        input_shape: shape of one image.
        num_classes: K.
        name: as ``timm.list_models`` has it.
        pretrained: whether to load timm's weights; a head for another number of classes is drawn at random.
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
        channels = as_shape(input_shape)[0]
        super().__init__(timm_network(name, channels, num_classes, pretrained, arguments, type(self).__name__))
