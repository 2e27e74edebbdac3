"""The digits that scikit-learn carries: the one image set that needs no download."""

from pathlib import Path

import torch

from dinopl.core.types import ImageShape
from dinopl.data.images import ImageArrays
from dinopl.data.sources.base import ImageSource, SourceInfo

_IMAGES = 1797


class DigitsImages(ImageSource):
    """Handwritten digits, 1797 gray images of 8x8, embedded in scikit-learn (UCI optical recognition of digits).

    Args:
        test_size: images in the test split; it is stratified and always the same.
    """

    def __init__(self, test_size: int = 500) -> None:
        if not 10 <= test_size <= _IMAGES - 10:
            raise ValueError(f"test_size {test_size} of DigitsImages: give a number from 10 to {_IMAGES - 10}.")
        self.test_size = test_size

    def info(self, root: Path) -> SourceInfo:
        """Known beforehand."""
        return SourceInfo(ImageShape(1, 8, 8), 10, _IMAGES - self.test_size, self.test_size)

    def load(self, root: Path, train: bool) -> ImageArrays:
        """Reads scikit-learn's copy; values are 0 to 16."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, label = load_digits(return_X_y=True)
        splits = train_test_split(images, label, test_size=self.test_size, random_state=0, stratify=label)
        images, label = splits[0 if train else 1], splits[2 if train else 3]
        stored = torch.from_numpy(images).to(torch.uint8).view(-1, 1, 8, 8)
        return ImageArrays(stored, torch.from_numpy(label).long(), scale=16.0)
