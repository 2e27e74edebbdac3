"""Encoders for small images: factories from the shape of an image to a module with ``embed_dim``."""

from dinopl.encoders.common import embedding_size, evaluation
from dinopl.encoders.conv_net import ConvNet
from dinopl.encoders.mini_mlp import MiniMLP
from dinopl.encoders.mini_vgg import MiniVGG
from dinopl.encoders.resnet import ResNet18
from dinopl.encoders.vgg import VGG11

__all__ = ["VGG11", "ConvNet", "MiniMLP", "MiniVGG", "ResNet18", "embedding_size", "evaluation"]
