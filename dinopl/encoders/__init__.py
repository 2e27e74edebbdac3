"""Encoders for small images: factories from the shape of an image to a module with ``embed_dim``."""

from dinopl.encoders.common import GroupedNorm, embedding_size, evaluation
from dinopl.encoders.library import TimmEncoder, TorchvisionEncoder
from dinopl.encoders.resnet import ResNet18, ResNet20, ResNet34, ResNet50, ResNet56
from dinopl.encoders.small import ConvNet, MiniMLP, Pixels, UniformConvNet, UniformMLP
from dinopl.encoders.vgg import VGG11, VGG13, VGG16, VGG19, MiniVGG
from dinopl.encoders.vit import ViTBase, ViTMedium, ViTSmall, ViTTiny

__all__ = [
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "ConvNet",
    "GroupedNorm",
    "MiniMLP",
    "MiniVGG",
    "Pixels",
    "ResNet18",
    "ResNet20",
    "ResNet34",
    "ResNet50",
    "ResNet56",
    "TimmEncoder",
    "TorchvisionEncoder",
    "UniformConvNet",
    "UniformMLP",
    "ViTBase",
    "ViTMedium",
    "ViTSmall",
    "ViTTiny",
    "embedding_size",
    "evaluation",
]
