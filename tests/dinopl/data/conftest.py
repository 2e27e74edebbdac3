from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MakeNpz = Callable[..., Path]
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_npz(tmp_path: Path) -> MakeNpz:
    """Writes an .npz image set: 60 + 20 RGB images of 8x8 in 4 classes, with arrays replaced or (None) left out."""

    def make(name: str = "set.npz", **replaced: object) -> Path:
        rng = np.random.default_rng(0)
        arrays = {
            "x_train": rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
            "y_train": np.arange(60) % 4,
            "x_test": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
            "y_test": np.arange(20) % 4,
        } | replaced
        np.savez(tmp_path / name, **{key: value for key, value in arrays.items() if value is not None})
        return tmp_path / name

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a folder of PNG files, lossless, one flat gray value a file: train 3 x 4 files, test 3 x 2."""
    from PIL import Image

    def make(name: str = "folder", size: tuple[int, int] = (8, 8), test: str = "test") -> Path:
        value = 0
        for split, count in (("train", 4), (test, 2)):
            for category in ("ant", "bee", "cow"):
                place = tmp_path / name / split / category
                place.mkdir(parents=True)
                for number in range(count):
                    Image.new("RGB", size, (value, value, value)).save(place / f"{number}.png")
                    value += 1
        return tmp_path / name

    return make
