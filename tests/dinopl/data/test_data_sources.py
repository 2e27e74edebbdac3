"""Embedded, published, generated and torchvision-style sets; fixtures are in the published on-disk formats."""

import gzip
import hashlib
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset

from dinopl.core.types import ImageShape
from dinopl.data import (
    CIFAR10Images,
    CIFAR100Images,
    DigitsImages,
    FashionMNISTImages,
    ImageArrays,
    MNISTImages,
    NoiseImages,
    SourceInfo,
    STL10Images,
    TorchvisionImages,
)
from dinopl.data.images import read_all
from dinopl.data.sources.published import PublishedImages, read_idx

PUBLISHED = [MNISTImages(), FashionMNISTImages(), CIFAR10Images(), CIFAR100Images(), STL10Images(), STL10Images(True)]


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = b"\x00\x00\x08" + bytes([array.ndim]) + np.asarray(array.shape, dtype=">i4").tobytes()
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, suffix: str = "") -> dict[str, np.ndarray]:
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 12), ("t10k", 5)):
        arrays[f"{split}-images-idx3"] = rng.integers(0, 256, (count, 28, 28))
        arrays[f"{split}-labels-idx1"] = rng.integers(0, 10, count)
    for name, array in arrays.items():
        write_idx(folder / f"{name}-ubyte{suffix}", array)
    return arrays


def test_digits_are_split_by_scikit_learn() -> None:
    images, label = load_digits(return_X_y=True)
    wanted = train_test_split(images, label, test_size=500, random_state=0, stratify=label)
    train, test = (DigitsImages().load(Path(), part) for part in (True, False))
    for arrays, x, y in ((train, wanted[0], wanted[2]), (test, wanted[1], wanted[3])):
        assert arrays.images.dtype == torch.uint8
        assert arrays.scale == 16
        np.testing.assert_array_equal(arrays.images.flatten(1).numpy(), x)
        np.testing.assert_array_equal(arrays.label.numpy(), y)
    assert DigitsImages().info(Path()) == SourceInfo(ImageShape(1, 8, 8), 10, 1297, 500)


def test_the_digits_test_size_is_an_option() -> None:
    source = DigitsImages(test_size=300)
    assert (len(source.load(Path(), True)), len(source.load(Path(), False))) == (1497, 300)
    assert source.info(Path())[2:] == (1497, 300)
    with pytest.raises(ValueError, match="test_size=5: give"):
        DigitsImages(test_size=5)


@pytest.mark.parametrize("source", PUBLISHED, ids=lambda source: source.name)
def test_published_sets_are_known_before_they_are_there(source: PublishedImages, tmp_path: Path) -> None:
    info = source.info(tmp_path)
    assert info.num_classes == (100 if source.name == "CIFAR100Images" else 10)
    assert (source.mean is None) == (source.name == "STL10Images")
    assert source.mean is None or len(source.mean) == info.shape.channels
    with pytest.raises(FileNotFoundError) as caught:
        source.load(tmp_path, train=True)
    message = str(caught.value)
    assert str(tmp_path / source.folder) in message
    assert "point root or $DINOPL_DATA" in message
    assert "$DINOPL_DATA" in message
    assert "\n" not in message


def test_constants_are_those_of_the_reference() -> None:
    assert (MNISTImages().mean, MNISTImages().std) == ((0.1307,), (0.3081,))
    assert (CIFAR10Images().mean, CIFAR10Images().std) == ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    assert (CIFAR100Images().mean, CIFAR100Images().std) == (CIFAR10Images().mean, CIFAR10Images().std)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("source", [MNISTImages(), FashionMNISTImages()], ids=lambda source: source.name)
def test_mnist_is_read_plain_or_gzipped_and_nothing_is_written(
    source: MNISTImages, suffix: str, tmp_path: Path
) -> None:
    raw = tmp_path / source.folder
    arrays = write_mnist(raw, suffix)
    before = sorted(tmp_path.rglob("*"))
    for folder in (raw, raw.parent, tmp_path):
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    source.prepare(tmp_path)
    train, test = (source.load(tmp_path, part) for part in (True, False))
    for folder in (tmp_path, raw.parent, raw):
        folder.chmod(stat.S_IRWXU)
    assert sorted(tmp_path.rglob("*")) == before
    np.testing.assert_array_equal(train.images[:, 0].numpy(), arrays["train-images-idx3"])
    np.testing.assert_array_equal(train.label.numpy(), arrays["train-labels-idx1"])
    np.testing.assert_array_equal(test.images[:, 0].numpy(), arrays["t10k-images-idx3"])
    assert test.images.shape == (5, 1, 28, 28)


def test_mnist_agrees_with_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import MNIST

    write_mnist(tmp_path / "MNIST" / "raw")
    theirs, ours = MNIST(tmp_path, train=True), MNISTImages().load(tmp_path, True)
    assert torch.equal(ours.images[:, 0], theirs.data)
    assert torch.equal(ours.label, theirs.targets)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00\x08", b"\x00\x00\x08\x01\x00\x00\x00\x09\x01", b"\x00\x00\x0d\x01\x00\x00\x00\x00"]
)
def test_a_broken_idx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file is not an idx file of bytes, or is truncated"):
        read_idx(tmp_path / "file")


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"x" * 100)[:-9], gzip.compress(b"abc")],
    ids=["text", "truncated", "something else"],
)
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, ".gz")
    (raw / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"MNISTImages: the files in .*raw are damaged") as caught:
        MNISTImages().load(tmp_path, True)
    assert "\n" not in str(caught.value)


def test_images_and_labels_must_match(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(3))
    with pytest.raises(ValueError, match="are damaged"):
        MNISTImages().load(tmp_path, True)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("source", [CIFAR10Images(), CIFAR100Images()], ids=lambda source: source.name)
def test_cifar_is_read(source: CIFAR10Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    theirs = getattr(torchvision.datasets, source.name.removesuffix("Images"))
    folder, key = tmp_path / source.folder, "labels" if source.name == "CIFAR10Images" else "fine_labels"
    folder.mkdir()
    rng, stored = np.random.default_rng(0), {}
    for name in source.files:
        stored[name] = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), key: [3, 1, 4, 1]}
        stored[name] |= {"label_names": ["a"], "fine_label_names": ["a"]}
        (folder / name).write_bytes(pickle.dumps(stored[name]))
    train, test, meta = source.files[:-2], source.files[-2], source.files[-1]
    monkeypatch.setattr(theirs, "train_list", [[name, md5(folder / name)] for name in train])
    monkeypatch.setattr(theirs, "test_list", [[test, md5(folder / test)]])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "filename": meta, "md5": md5(folder / meta)})
    source.prepare(tmp_path)
    loaded = source.load(tmp_path, True)
    wanted = np.concatenate([stored[name]["data"] for name in train]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(loaded.images.numpy(), wanted)
    assert loaded.label.tolist() == [3, 1, 4, 1] * len(train)
    assert len(source.load(tmp_path, False)) == 4
    (folder / test).write_bytes(b"other content")
    with pytest.raises(ValueError, match=r"are damaged \(Dataset not found or corrupted"):
        source.load(tmp_path, False)


def test_stl10_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (2, 3, 96, 96), dtype=np.uint8) for name in ("train", "test", "unlabeled")}
    for name, array in images.items():
        array.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # the files are column-major
    for name in ("train", "test"):
        np.array([1, 10], dtype=np.uint8).tofile(folder / f"{name}_y.bin")
    (folder / "class_names.txt").write_text("a\nb\n")
    names = {"train_list": ("train_X", "train_y", "unlabeled_X"), "test_list": ("test_X", "test_y")}
    for attribute, files in names.items():
        paths = [folder / f"{name}.bin" for name in files]
        monkeypatch.setattr(STL10, attribute, [[path.name, md5(path)] for path in paths])
    train, unlabelled = STL10Images().load(tmp_path, True), STL10Images(unlabelled=True).load(tmp_path, True)
    np.testing.assert_array_equal(train.images.numpy(), images["train"])
    np.testing.assert_array_equal(unlabelled.images.numpy(), images["unlabeled"])
    assert train.label.tolist() == [0, 9]
    assert unlabelled.label.tolist() == [-1, -1]
    assert STL10Images(unlabelled=True).load(tmp_path, False).label.tolist() == [0, 9]


def test_noise_has_the_shape_of_another_set_and_the_asked_deviation() -> None:
    source = NoiseImages(CIFAR10Images(), sigma=0.5, num_train=200, num_test=20, seed=0)
    assert source.info(Path()) == SourceInfo(ImageShape(3, 32, 32), 10, 200, 20)
    train, test = source.load(Path(), True), source.load(Path(), False)
    assert train.images.shape == (200, 3, 32, 32)
    assert len(test) == 20
    assert float(train.images.std()) == pytest.approx(0.5, abs=0.005)
    assert float(train.images.mean()) == pytest.approx(0, abs=0.005)
    assert set(train.label.tolist()) == set(range(10))
    assert not torch.equal(train.images[:20], test.images)
    assert (source.mean, source.std, train.scale) == ((0.0,), (1.0,), 1.0)


def test_noise_is_a_function_of_its_seed() -> None:
    def images(seed: int | None) -> torch.Tensor:
        return NoiseImages(DigitsImages(), num_train=5, seed=seed).load(Path(), True).images

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))
    torch.manual_seed(3)
    derived = images(None)
    torch.manual_seed(4)
    assert not torch.equal(derived, images(None))
    torch.manual_seed(3)
    assert torch.equal(derived, images(None))


def test_noise_takes_its_sizes_from_the_other_set() -> None:
    assert NoiseImages(DigitsImages()).info(Path()) == DigitsImages().info(Path())
    assert NoiseImages(CIFAR10Images(), size=16).info(Path()).shape == (3, 16, 16)
    unknown = TorchvisionImages("torchvision.datasets.SVHN", num_classes=10, image_shape=(3, 32, 32))
    with pytest.raises(ValueError, match="the size of SVHN is not known; give num_train and num_test"):
        NoiseImages(unknown).load(Path(), True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma=0.0: give"),
        ({"sigma": float("nan")}, "sigma=nan: give"),
        ({"num_train": 0}, "num_train=0: give"),
        ({"size": -1}, "size=-1: give"),
    ],
)
def test_impossible_noise_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseImages(DigitsImages(), **options)


class Toy(Dataset):
    """A torchvision-style set in this file: no root, no download, items are arrays."""

    def __init__(self, count: int, offset: int = 0, label: object = 1) -> None:
        self.count, self.offset, self.label = count, offset, label

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[np.ndarray, object]:
        if row >= self.count:
            raise IndexError(row)
        return np.full((4, 4, 3), self.offset + row, dtype=np.uint8), self.label


def test_any_set_of_items_is_read() -> None:
    source = TorchvisionImages(f"{__name__}.Toy", {"count": 5}, {"count": 3, "offset": 100})
    assert source.info(Path()) == SourceInfo(ImageShape(3, 4, 4), 2, 5, 3)
    source.prepare(Path())
    test = read_all(source.load(Path(), False), num_workers=0)
    assert isinstance(test, ImageArrays)
    assert test.images[:, 0, 0, 0].tolist() == [100, 101, 102]
    assert test.label.tolist() == [1, 1, 1]


def test_a_torchvision_set_is_read_by_class_path() -> None:
    options = {"image_size": [3, 6, 6], "num_classes": 4}
    source = TorchvisionImages("torchvision.datasets.FakeData", options | {"size": 9}, options | {"size": 7})
    info = source.info(Path())
    assert (info.shape, info.num_train, info.num_test) == ((3, 6, 6), 9, 7)
    assert read_all(source.load(Path(), True), 0).images.shape == (9, 3, 6, 6)


@pytest.mark.parametrize("path", ["torchvision.datasets.NoSuchSet", "no.such.module.Set", "Set", ""])
def test_a_class_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=f"dataset={path}: not a class .*; give") as caught:
        TorchvisionImages(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["os.abort", "subprocess.Popen", "torch.utils.data.get_worker_info"])
def test_what_is_no_data_set_class_is_not_called(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    if path != "subprocess.Popen":
        monkeypatch.setattr(path, lambda *args, **options: called.append(path))
    else:
        monkeypatch.setattr("subprocess.Popen.__init__", lambda *args, **options: called.append(path))
    with pytest.raises(ValueError, match=f"dataset={path}: not a subclass of .*; give") as caught:
        TorchvisionImages(path, {"args": "true"}, {}, num_classes=2, image_shape=(1, 8, 8)).prepare(Path())
    assert "\n" not in str(caught.value)
    assert called == []


def test_arguments_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"train_args=\{'train': True\}: do not fit Toy"):
        TorchvisionImages(f"{__name__}.Toy").info(Path())


def test_labels_must_be_integers() -> None:
    source = TorchvisionImages(f"{__name__}.Toy", {"count": 2, "label": "cat"}, {"count": 2})
    with pytest.raises(ValueError, match="Toy: its labels are not integers"):
        source.info(Path())


def test_a_torchvision_set_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    splits = {"split": "train"}, {"split": "test"}
    with pytest.raises(FileNotFoundError, match=r"SVHN: not found under .*num_classes and image_shape must be given"):
        TorchvisionImages("torchvision.datasets.SVHN", *splits).info(tmp_path)
    known = TorchvisionImages("torchvision.datasets.SVHN", *splits, num_classes=10, image_shape=(3, 32, 32))
    assert known.info(tmp_path) == SourceInfo(ImageShape(3, 32, 32), 10)
