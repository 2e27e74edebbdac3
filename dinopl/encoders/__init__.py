"""Encoders for small images: factories from the shape of an image to a module with ``embed_dim``."""

from dinopl.encoders.common import embedding_size, evaluation
from dinopl.encoders.resnet import ResNet18
from dinopl.encoders.small import ConvNet, MiniMLP
from dinopl.encoders.vgg import VGG11, MiniVGG

__all__ = ["VGG11", "ConvNet", "MiniMLP", "MiniVGG", "ResNet18", "embedding_size", "evaluation"]
