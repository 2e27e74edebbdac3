"""Image sets: embedded, published, from files, from arrays, of noise, or any of torchvision's."""

from dinopl.data.sources.base import ImageSource, SourceInfo
from dinopl.data.sources.cifar5m import CIFAR5mImages
from dinopl.data.sources.folders import FolderImages, TinyImageNetImages
from dinopl.data.sources.noise import NoiseImages
from dinopl.data.sources.npz import NpzImages
from dinopl.data.sources.published import (
    CIFAR10Images,
    CIFAR100Images,
    DigitsImages,
    FashionMNISTImages,
    MNISTImages,
    STL10Images,
)
from dinopl.data.sources.torchvision import TorchvisionImages

__all__ = [
    "CIFAR5mImages",
    "CIFAR10Images",
    "CIFAR100Images",
    "DigitsImages",
    "FashionMNISTImages",
    "FolderImages",
    "ImageSource",
    "MNISTImages",
    "NoiseImages",
    "NpzImages",
    "STL10Images",
    "SourceInfo",
    "TinyImageNetImages",
    "TorchvisionImages",
]
