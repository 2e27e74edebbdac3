"""CIFAR-5m from small files of its form."""

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinopl.data import CIFAR5mImages, ImageDataModule
from dinopl.data.images import ImageArrays, ImageFiles
from dinopl.data.sources.cifar5m import map_array

SIZES = (5, 3, 4, 2, 6, 7)


def parts(folder: Path, name: str = "part{}.npz", save: Any = np.savez) -> tuple[np.ndarray, np.ndarray]:
    """Six files; returns all images and labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (sum(SIZES), 32, 32, 3), dtype=np.uint8)
    label = np.arange(sum(SIZES)) % 10
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.cumsum((0, *SIZES))
    for number, (start, stop) in enumerate(pairwise(starts)):
        save(folder / name.format(number), X=images[start:stop], Y=label[start:stop])
    return images, label


@pytest.mark.parametrize("name", ["part{}.npz", "cifar5m_part{}.npz"])
def test_images_are_read_over_the_ends_of_files(tmp_path: Path, name: str) -> None:
    images, label = parts(tmp_path / "cifar5m", name)
    loaded = CIFAR5mImages(num_train=10).load(tmp_path, True)
    assert isinstance(loaded, ImageArrays)
    np.testing.assert_array_equal(loaded.images.numpy(), images[:10].transpose(0, 3, 1, 2))
    assert loaded.label.tolist() == label[:10].tolist()
    test = CIFAR5mImages(num_test=4).load(tmp_path, False)
    assert isinstance(test, ImageArrays)
    np.testing.assert_array_equal(test.images.numpy(), images[20:24].transpose(0, 3, 1, 2))


def test_all_images_stay_in_their_files_until_they_are_used(tmp_path: Path) -> None:
    images, label = parts(tmp_path / "cifar5m")
    loaded = CIFAR5mImages().load(tmp_path, True)
    assert isinstance(loaded, ImageFiles)
    assert loaded.label.tolist() == label[:20].tolist()
    again = pickle.loads(pickle.dumps(loaded))
    for row in range(20):
        wanted = torch.from_numpy(images[row].transpose(2, 0, 1))
        assert torch.equal(loaded[row], wanted)
        assert torch.equal(again[row], wanted)
    assert len(pickle.dumps(loaded.read)) < 2000  # the worker gets the paths, not the images


def test_both_forms_train_alike_and_only_needed_files_must_be_there(tmp_path: Path) -> None:
    parts(tmp_path / "cifar5m")

    def first_batch(source: CIFAR5mImages) -> torch.Tensor:
        module = ImageDataModule(source, root=str(tmp_path), batch_size=8, val_size=0, seed=0)
        module.setup("fit")
        return next(iter(module.train_dataloader()))["views"][0]

    source = CIFAR5mImages(num_train=20, num_test=7)
    assert torch.equal(first_batch(source), first_batch(CIFAR5mImages(num_train=None, num_test=7)))
    for number in (1, 2, 3, 4):
        (tmp_path / "cifar5m" / f"part{number}.npz").unlink()
    assert len(CIFAR5mImages(num_train=5).load(tmp_path, True)) == 5
    with pytest.raises(FileNotFoundError, match=r"CIFAR5mImages: nothing at .*part1.npz; .*point root or"):
        CIFAR5mImages(num_train=6).load(tmp_path, True)


def test_sizes_are_known_beforehand(tmp_path: Path) -> None:
    assert CIFAR5mImages().info(tmp_path) == ((3, 32, 32), 10, 5_002_240, 10_000)
    assert CIFAR5mImages(num_train=60_000, num_test=None).info(tmp_path)[2:] == (60_000, 1_000_448)


def test_files_of_another_form_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "cifar5m"
    parts(folder, save=np.savez_compressed)
    with pytest.raises(ValueError, match=r"part0.npz is compressed and cannot be mapped; save it again") as caught:
        CIFAR5mImages(num_train=2).load(tmp_path, True)
    assert "\n" not in str(caught.value)
    parts(folder)
    with pytest.raises(ValueError, match="num_train=99: there are only 20 images"):
        CIFAR5mImages(num_train=99).load(tmp_path, True)
    for broken, message in (
        ({"X": np.zeros((2, 3, 32, 32), np.uint8), "Y": np.zeros(2, int)}, "X is uint8 of shape"),
        ({"X": np.zeros((2, 32, 32, 3), np.uint8), "Y": np.zeros((2, 1), int)}, "Y of part0.npz is int64 of shape"),
        ({"X": np.zeros((2, 32, 32, 3), np.uint8), "Y": np.zeros(1, int)}, "another number of labels"),
        ({"Z": np.zeros(1)}, "There is no item named 'X.npy'"),
    ):
        np.savez(folder / "part0.npz", **broken)
        with pytest.raises(ValueError, match=message):
            CIFAR5mImages(num_train=2).load(tmp_path, True)
    (folder / "part0.npz").write_bytes(b"no archive")
    for source in (CIFAR5mImages(num_train=2), CIFAR5mImages()):
        with pytest.raises(ValueError, match=r"CIFAR5mImages: .*not a zip file"):
            source.load(tmp_path, True)
    for options in ({"num_train": 0}, {"num_test": -1}):
        with pytest.raises(ValueError, match=": give a positive number, or None"):
            CIFAR5mImages(**options)


def test_mapped_arrays_are_what_numpy_reads(tmp_path: Path) -> None:
    arrays = {"a": np.arange(24, dtype=np.int16).reshape(2, 3, 4), "other": np.linspace(0, 1, 7)}
    np.savez(tmp_path / "x.npz", **arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(map_array(tmp_path / "x.npz", name), array)
    np.savez(tmp_path / "f.npz", a=np.asfortranarray(arrays["a"]))
    with pytest.raises(ValueError, match="not an array of numbers in C order"):
        map_array(tmp_path / "f.npz", "a")
