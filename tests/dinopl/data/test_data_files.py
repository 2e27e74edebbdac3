"""Image folders and .npz files."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinopl.cli.messages import in_training
from dinopl.core.errors import DataError
from dinopl.data import FolderImages, ImageFiles, NpzImages, TinyImageNetImages
from dinopl.data.images import ImageArrays, WorkerStore, as_tensor, read_all, square

MakeNpz = Callable[..., Path]
MakeFolder = Callable[..., Path]


def first_values(images: ImageArrays | ImageFiles) -> list[int]:
    arrays = images if isinstance(images, ImageArrays) else read_all(images, num_workers=0)
    return [int(value) for value in arrays.images[:, 0, 0, 0]]


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_is_read_in_order_of_its_names(make_folder: MakeFolder, test: str) -> None:
    folder = make_folder(test=test)
    source = FolderImages(folder.name)
    assert source.info(folder.parent) == ((3, 8, 8), 3, 12, 6)
    train, held = source.load(folder.parent, True), source.load(folder.parent, False)
    assert first_values(train) == list(range(12))
    assert train.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert first_values(held) == list(range(12, 18))
    assert held.label.tolist() == [0, 0, 1, 1, 2, 2]


def test_folder_names_are_options(make_folder: MakeFolder) -> None:
    folder = make_folder(test="held")
    (folder / "train").rename(folder / "fit")
    source = FolderImages(str(folder), train_dir="fit", test_dir="held", gray=True)
    assert source.info(Path("elsewhere")) == ((1, 8, 8), 3, 12, 6)
    assert source.mean is None
    assert first_values(source.load(Path("elsewhere"), True)) == list(range(12))


def test_a_class_without_test_images_is_fine_but_an_unknown_one_is_not(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "test" / "bee").rename(folder / "test" / "dog")
    with pytest.raises(ValueError, match=r"dog has no counterpart in the training folder"):
        FolderImages(folder.name).load(folder.parent, False)
    (folder / "test" / "dog" / "0.png").unlink()
    (folder / "test" / "dog" / "1.png").unlink()
    (folder / "test" / "dog").rmdir()
    assert FolderImages(folder.name).load(folder.parent, False).label.tolist() == [0, 0, 2, 2]


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"FolderImages: nothing at .*/set/train; .*root or \$DINOPL_DATA"):
        FolderImages("set").info(tmp_path)
    (tmp_path / "set" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="has no subfolders; it must have one for each class"):
        FolderImages("set").info(tmp_path)
    (tmp_path / "set" / "train" / "ant").mkdir()
    with pytest.raises(FileNotFoundError, match=r"nothing at .*/set/test"):
        FolderImages("set").info(tmp_path)
    (tmp_path / "set" / "test").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image files in .*/set/train/ant \("):
        FolderImages("set").info(tmp_path)


def test_images_of_another_size_are_refused_or_resized(make_folder: MakeFolder) -> None:
    folder = make_folder()
    Image.new("RGB", (10, 12), (7, 7, 7)).save(folder / "train" / "cow" / "9.png")
    files = FolderImages(folder.name).load(folder.parent, True)
    with pytest.raises(ValueError, match=r"/cow/9.png has shape \(3, 12, 10\), the first one \(3, 8, 8\); set image_s"):
        files[12]
    assert files.resized(4)[12].shape == (3, 4, 4)
    assert files.resized(4)[12].unique().tolist() == [7]


def test_a_file_that_is_no_image_is_named(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "train" / "ant" / "0.png").write_text("text")
    with pytest.raises(ValueError, match=r"ant/0.png: not an image that can be read"):
        FolderImages(folder.name).load(folder.parent, True)[0]


def test_images_are_read_as_a_viewer_shows_them(make_folder: MakeFolder) -> None:
    folder = make_folder() / "train" / "ant"
    gray = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040  # up to 65520: the brightest is nearly white
    Image.fromarray(gray).save(folder / "0.png")
    Image.fromarray((gray / 65535).astype(np.float32)).save(folder / "1.tif")
    shown = np.zeros((8, 8, 3), np.uint8)
    shown[:4] = 200  # bright above
    exif = Image.Exif()
    exif[274] = 6  # stored lying on its side, to be turned clockwise
    Image.fromarray(np.rot90(shown).copy()).save(folder / "2.png", exif=exif)
    clear = np.full((8, 8, 4), 7, np.uint8)
    clear[..., 3] = np.arange(8) // 4 * 255  # its left half is transparent, its right half nearly black
    Image.fromarray(clear).save(folder / "3.png")
    (folder / "1.png").unlink()
    images = FolderImages(str(folder.parent.parent)).load(Path(), True)
    assert [Path(path).name for path in images.paths[:4]] == ["0.png", "1.tif", "2.png", "3.png"]
    for row, most in ((0, 1), (1, 1)):  # gray levels, rounded either way
        assert np.abs(images[row][0].numpy() - gray / 257).max() <= most
        assert torch.equal(images[row][0], images[row][2])
    assert np.array_equal(images[2].permute(1, 2, 0).numpy(), shown)
    assert images[3][:, 0].tolist() == [[255] * 4 + [7] * 4] * 3


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0, 65535]], np.uint16), [0, 255]),
        (np.array([[0, 200]], np.int64), [0, 200]),
        (torch.tensor([[[0.0, 1.0]]]), [0, 255]),
        (np.array([[False, True]]), [0, 255]),
    ],
)
def test_arrays_of_other_types_keep_what_is_white(image: Any, expected: list[int]) -> None:
    assert as_tensor(image, 1).flatten().tolist() == expected


@pytest.mark.parametrize("pixels", [np.full((8, 8), 200, np.float32), np.full((8, 8), 70_000, np.int32)])
def test_an_image_without_a_known_white_is_refused_by_name(make_folder: MakeFolder, pixels: Any) -> None:
    folder = make_folder()
    Image.fromarray(pixels).save(folder / "train" / "ant" / "9.tif")
    with pytest.raises(DataError, match=r"ant/9.tif: mode [FI] with values from \d+ to \d+, and it is not known which"):
        read_all(FolderImages(str(folder)).load(Path(), True), num_workers=0)
    with pytest.raises(ValueError, match="int64 with values from 0 to 300"):
        as_tensor(np.array([[0, 300]]), 1)


def test_a_worker_that_meets_a_damaged_image_names_it(make_folder: MakeFolder) -> None:
    folder = make_folder()
    damaged = folder / "train" / "cow" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:45])
    store = WorkerStore(FolderImages(str(folder)).load(Path(), True), 1, torch.device("cpu"))
    with pytest.raises(DataError) as caught:
        list(store.batches([torch.arange(12)]))
    named = in_training(caught.value, {})
    assert named is not None
    assert named.startswith(f"{damaged}: not an image that can be read (")
    assert named.endswith("); replace or remove it")


def test_hidden_files_and_folders_hold_no_images(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for place in (folder / "train", folder / "test", folder / "train" / "ant"):
        (place / ".ipynb_checkpoints").mkdir()
        (place / ".ipynb_checkpoints" / "0.png").write_bytes((folder / "train" / "ant" / "0.png").read_bytes())
    (folder / "train" / "bee" / "._0.png").write_bytes(b"of another system")
    source = FolderImages(str(folder))
    assert source.info(Path()) == ((3, 8, 8), 3, 12, 6)
    assert source.class_names(Path()) == ["ant", "bee", "cow"]
    assert first_values(source.load(Path(), True)) == list(range(12))


@pytest.mark.parametrize("place", ["train/bee", "test/cow", "test"])
def test_a_folder_without_images_is_named(make_folder: MakeFolder, place: str) -> None:
    folder = make_folder()
    for path in (folder / place).rglob("*.png"):
        path.rename(path.with_suffix(".gif"))
    named = "test/ant" if place == "test" else place
    with pytest.raises(
        FileNotFoundError, match=rf"no image files in .*{named} \(\.bmp, .*\); put some there, or remove"
    ):
        FolderImages(str(folder)).info(Path())


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_fetch_the_rows_asked_for_in_order(make_folder: MakeFolder, workers: int) -> None:
    folder = make_folder()
    before = torch.random.get_rng_state()
    store = WorkerStore(FolderImages(folder.name).load(folder.parent, True), workers, torch.device("cpu"))
    for rows in ([3, 1, 11], [0]), ([5],), ():
        fetched = [batch[:, 0, 0, 0].tolist() for batch in store.batches([torch.tensor(part) for part in rows])]
        assert fetched == [list(part) for part in rows]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_square_is_resize_of_the_shorter_side_and_centre_crop() -> None:
    image = torch.zeros(3, 4, 8, dtype=torch.uint8)
    image[:, :, 2:6] = 200
    assert square(image, 4).unique().tolist() == [200]
    batch = torch.randint(0, 256, (5, 3, 9, 9), dtype=torch.uint8)
    together, alone = square(batch, 6), torch.stack([square(one, 6) for one in batch])
    assert torch.equal(together, alone)


def test_resizing_the_digits_keeps_values_between_their_levels() -> None:
    arrays = ImageArrays(torch.tensor([[[[0, 1], [0, 1]]]], dtype=torch.uint8), torch.tensor([0]), scale=16.0)
    resized = arrays.resized(4)
    assert resized.images.dtype == torch.float32
    assert resized.scale == 16
    assert ((resized.images > 0) & (resized.images < 1)).any()
    assert arrays.resized(2) is arrays


def write_tiny_imagenet(root: Path) -> None:
    folder, value = root / "tiny-imagenet-200", 0
    for name in ("n02", "n01"):
        (folder / "train" / name / "images").mkdir(parents=True)
        for number in range(2):
            place = folder / "train" / name / "images" / f"{name}_{number}.JPEG"
            Image.new("L" if number else "RGB", (64, 64), 10 if number else (value, value, value)).save(
                place, quality=95
            )
            value += 60
    (folder / "val" / "images").mkdir(parents=True)
    for number, value in enumerate((30, 90, 150)):
        Image.new("RGB", (64, 64), (value,) * 3).save(folder / "val" / "images" / f"val_{number}.JPEG", quality=95)
    lines = [f"val_{number}.JPEG\t{name}\t0\t0\t9\t9" for number, name in enumerate(("n02", "n01", "n02"))]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def test_tiny_imagenet_takes_its_test_labels_from_the_annotations(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    source = TinyImageNetImages()
    assert source.info(tmp_path) == ((3, 64, 64), 200, 100_000, 10_000)
    train, test = source.load(tmp_path, True), source.load(tmp_path, False)
    assert train.in_memory
    assert train.label.tolist() == [0, 0, 1, 1]
    assert test.label.tolist() == [1, 0, 1]
    assert first_values(test) == pytest.approx([30, 90, 150], abs=1)
    assert read_all(train, 0).images.shape == (4, 3, 64, 64)  # a gray file among them becomes RGB
    assert sorted(tmp_path.rglob("*")) == before


def test_tiny_imagenet_without_its_parts_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing at .*tiny-imagenet-200/train"):
        TinyImageNetImages().load(tmp_path, True)
    write_tiny_imagenet(tmp_path)
    table = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    table.write_text("val_0.JPEG\tn77\n")
    with pytest.raises(ValueError, match="is not its annotation file"):
        TinyImageNetImages().load(tmp_path, False)
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"val_annotations.txt"):
        TinyImageNetImages().load(tmp_path, False)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW", "NHW1", "N1HW"])
def test_npz_layouts_become_channels_first(make_npz: MakeNpz, layout: str) -> None:
    rng = np.random.default_rng(1)
    channels = 3 if layout in ("NHWC", "NCHW") else 1
    images = {
        part: rng.integers(0, 256, (n, channels, 5, 6), dtype=np.uint8) for part, n in (("train", 60), ("test", 20))
    }
    stored = {f"x_{part}": array for part, array in images.items()}
    if layout in ("NHWC", "NHW1"):
        stored = {key: array.transpose(0, 2, 3, 1) for key, array in stored.items()}
    if layout == "NHW":
        stored = {key: array[:, 0] for key, array in stored.items()}
    source = NpzImages(str(make_npz(**stored)))
    assert source.info(Path()) == ((channels, 5, 6), 4, 60, 20)
    train = source.load(Path(), True)
    np.testing.assert_array_equal(train.images.numpy(), images["train"])
    assert (train.images.dtype, train.scale) == (torch.uint8, 255.0)
    assert train.label.tolist() == [row % 4 for row in range(60)]


def test_floating_point_images_keep_their_values(make_npz: MakeNpz) -> None:
    x = np.random.default_rng(0).random((60, 8, 8, 3))
    path = make_npz(x_train=x, y_train=(np.arange(60) % 4).astype(np.uint8))
    train = NpzImages(path.name).load(path.parent, True)
    assert (train.images.dtype, train.scale) == (torch.float32, 1.0)
    np.testing.assert_allclose(train.images.numpy(), x.transpose(0, 3, 1, 2), rtol=1e-6)
    assert train.label.dtype == torch.int64


def test_a_compressed_npz_is_read(make_npz: MakeNpz, tmp_path: Path) -> None:
    arrays = dict(np.load(make_npz()))
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    np.testing.assert_array_equal(
        NpzImages("small.npz").load(tmp_path, False).images.numpy(), arrays["x_test"].transpose(0, 3, 1, 2)
    )


bad = np.full((60, 8, 8, 3), 0.5)
bad[0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"y_test": None}, "y_test is missing; it has x_test, x_train, y_train"),
        ({"y_train": np.arange(59) % 4}, r"x_train has 60 images, y_train the shape \(59,\)"),
        ({"y_train": np.zeros((60, 4), dtype=int)}, "y_train is int64 of shape .60, 4."),
        ({"y_train": np.zeros(60)}, "y_train is float64 .* one integer from 0 per image"),
        ({"y_test": np.arange(20) - 1}, "y_test is int64 .* one integer from 0 per image"),
        ({"x_train": np.zeros((60, 192), dtype=np.uint8)}, r"x_train has shape \(60, 192\); it must be NHW"),
        ({"x_train": np.zeros((60, 8, 8, 2), dtype=np.uint8)}, "NHWC or NCHW with 1 or 3 channels"),
        (
            {"x_train": np.zeros((60, 9, 9, 3), dtype=np.uint8)},
            r"images of x_train are \(3, 9, 9\), of x_test \(3, 8, 8\)",
        ),
        ({"x_train": np.zeros((60, 8, 8, 3), dtype=np.int32)}, "x_train is int32; images must be uint8, or floating"),
        (
            {"x_train": np.full((60, 8, 8, 3), 255.0)},
            r"x_train has values from 255 to 255, and must be in \[0, 1\]; divide by the value of white$",
        ),
        (
            {"x_train": np.linspace(-1, 1, 60 * 192).reshape(60, 8, 8, 3)},
            r"x_train has values from -1 to 1, and must be in \[0, 1\]; subtract -1 and divide by 2$",
        ),
        (
            {"x_train": bad},
            r"x_train has 1 values that are NaN or infinite, the first at \(0, 0, 0, 0\); leave those images out",
        ),
        (
            {"x_train": np.zeros((0, 8, 8, 3), dtype=np.uint8), "y_train": np.zeros(0, dtype=int)},
            "x_train has 0 images",
        ),
    ],
)
def test_a_malformed_npz_is_refused_in_one_line(make_npz: MakeNpz, replaced: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        NpzImages(str(make_npz(**replaced))).load(Path(), True)
    assert str(caught.value).startswith("NpzImages: ")
    assert "\n" not in str(caught.value)


class Bomb:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_pickled_code_in_an_npz_does_not_run(make_npz: MakeNpz, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = np.empty(60, dtype=object)
    hostile[:] = [Bomb()] * 60
    path = make_npz(y_train=hostile)
    monkeypatch.chdir(path.parent)
    with pytest.raises(ValueError, match=r"y_train cannot be read .*allow_pickle"):
        NpzImages(path.name).load(path.parent, True)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", pickle.dumps([1, 2])])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"NpzImages: x.npz: it is not an .npz file"):
        NpzImages("x.npz").info(tmp_path)


def test_an_archive_of_other_files_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x_train.npy", b"no array")
    with pytest.raises(ValueError, match=r"x.npz: it is not an .npz file"):
        NpzImages("x.npz").info(tmp_path)


def test_a_truncated_npz_is_refused(make_npz: MakeNpz) -> None:
    path = make_npz()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"it is not an .npz file"):
        NpzImages(str(path)).info(Path())


def test_an_npz_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"NpzImages: nothing at .*/no.npz; .*point root or"):
        NpzImages("no.npz").info(tmp_path)
