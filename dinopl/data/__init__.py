"""Image data: sources, stratified subsets, one order for all processes, views, loaders, and their DataModule."""

from dinopl.core.types import as_batch
from dinopl.data.images import ImageArrays, ImageFiles
from dinopl.data.indexed import IndexedDataModule
from dinopl.data.loader import ImageLoader
from dinopl.data.module import ImageDataModule
from dinopl.data.order import BatchOrder, Block, EvalSampler, OrderSampler, epoch_order
from dinopl.data.sources import (
    CIFAR5mImages,
    CIFAR10Images,
    CIFAR100Images,
    DigitsImages,
    FashionMNISTImages,
    FolderImages,
    ImageSource,
    MNISTImages,
    NoiseImages,
    NpzImages,
    SourceInfo,
    STL10Images,
    TinyImageNetImages,
    TorchvisionImages,
)
from dinopl.data.subsets import stratified_split, stratified_subset
from dinopl.data.targets import InputTargets, LabelNoise, LogitNoise, Targets
from dinopl.data.views import Chain, CropFlip, DINOAugmentation, ImageView, MultiCrop, ResizedCrop, WholeImage

__all__ = [
    "BatchOrder",
    "Block",
    "CIFAR5mImages",
    "CIFAR10Images",
    "CIFAR100Images",
    "Chain",
    "CropFlip",
    "DINOAugmentation",
    "DigitsImages",
    "EvalSampler",
    "FashionMNISTImages",
    "FolderImages",
    "ImageArrays",
    "ImageDataModule",
    "ImageFiles",
    "ImageLoader",
    "ImageSource",
    "ImageView",
    "IndexedDataModule",
    "InputTargets",
    "LabelNoise",
    "LogitNoise",
    "MNISTImages",
    "MultiCrop",
    "NoiseImages",
    "NpzImages",
    "OrderSampler",
    "ResizedCrop",
    "STL10Images",
    "SourceInfo",
    "Targets",
    "TinyImageNetImages",
    "TorchvisionImages",
    "WholeImage",
    "as_batch",
    "epoch_order",
    "stratified_split",
    "stratified_subset",
]
