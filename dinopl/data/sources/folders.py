"""Folders of image files, one subfolder a class, and TinyImageNet, whose validation folder has none."""

import os
from pathlib import Path

import torch

from dinopl.core.errors import DataError
from dinopl.core.types import ImageShape
from dinopl.data.images import ImageFiles, as_tensor
from dinopl.data.sources.base import ImageSource, SourceInfo, locate, missing, one_line

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"))
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FileReader:
    """Opens the image file of a row; a class, so that it can be sent to worker processes."""

    def __init__(self, paths: list[Path]) -> None:
        self.files = [str(path) for path in paths]

    def __call__(self, row: int) -> object:
        """The decoded image, with the file closed again; ValueError if it is no image, or a damaged one."""
        from PIL import Image

        try:
            with Image.open(self.files[row]) as image:
                image.load()
                return image
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:  # as PIL's readers raise them
            raise ValueError(f"not an image that can be read ({one_line(error)}); replace or remove it") from error


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files and folders, as editors leave them, are passed over."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones, such as ``.ipynb_checkpoints``, are none."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


class FolderImages(ImageSource):
    """Any folder with a training and a test folder, each with one subfolder of image files a class.

    Classes are the names of the training subfolders, sorted; hidden ones are passed over. Images are read as a viewer
    shows them: turned upright by their EXIF orientation, on white where they are transparent, 16 bits rescaled to 8.
    RGB images are normalised with ImageNet's constants unless ``normalization`` of the data module says otherwise.

    Args:
        folder: the folder: absolute, or relative to ``root`` or else to the working directory.
        train_dir: name of the training folder in it.
        test_dir: name of the test folder; None takes ``test``, or else ``val``.
        gray: decode to one channel instead of RGB.
        in_memory: decode all images once at the start; otherwise ``num_workers`` processes decode them as they
            are used.
    """

    def __init__(
        self,
        folder: str,
        train_dir: str = "train",
        test_dir: str | None = None,
        gray: bool = False,
        in_memory: bool = False,
    ) -> None:
        self.folder = folder
        self.train_dir = train_dir
        self.test_dir = test_dir
        self.channels = 1 if gray else 3
        self.in_memory = in_memory
        self.mean = None if gray else IMAGENET_MEAN
        self.std = None if gray else IMAGENET_STD

    def info(self, root: Path) -> SourceInfo:
        """Counts the files and opens the first one.

        Raises:
            FileNotFoundError: if a folder is not there, or a class has no images in it.
        """
        train, classes = self._train_folder(root)
        counts = []
        for folder in (train, self._test_folder(root)):
            found = {name: len(image_files(folder / name)) for name in subfolders(folder)}
            if empty := [folder / name for name, count in found.items() if not count] or [folder] * (not found):
                raise FileNotFoundError(
                    f"{self.name}: no image files in {empty[0]} ({', '.join(sorted(SUFFIXES))}); put some there, or "
                    "remove the folder"
                )
            counts.append(sum(found.values()))
        return SourceInfo(self._shape(train), len(classes), *counts)

    def class_names(self, root: Path) -> list[str]:
        """The name of each class, in their order."""
        return self._train_folder(root)[1]

    def load(self, root: Path, train: bool) -> ImageFiles:
        """Lists the files of one split."""
        folder, classes = self._train_folder(root)
        folder = folder if train else self._test_folder(root)
        if unknown := [name for name in subfolders(folder) if name not in classes]:
            raise ValueError(f"{self.name}: {folder / unknown[0]} has no counterpart in the training folder")
        files = [(path, number) for number, name in enumerate(classes) for path in image_files(folder / name)]
        return self._listed(files, self._shape(self._train_folder(root)[0]))

    def _listed(self, files: list[tuple[Path, int]], shape: ImageShape) -> ImageFiles:
        label = torch.tensor([number for _, number in files], dtype=torch.int64)
        return ImageFiles(FileReader([path for path, _ in files]), label, shape, in_memory=self.in_memory)

    def _shape(self, train: Path) -> ImageShape:
        """Shape of the first training image."""
        for place in subfolders(train):
            if files := image_files(train / place):
                try:
                    return ImageShape(*as_tensor(FileReader(files)(0), self.channels).shape)
                except ValueError as error:
                    raise DataError(f"{files[0]}: {error}") from error
        raise FileNotFoundError(f"{self.name}: no image files below {train} ({', '.join(sorted(SUFFIXES))})")

    def _train_folder(self, root: Path) -> tuple[Path, list[str]]:
        folder = locate(root, self.folder) / self.train_dir
        if not folder.is_dir():
            raise missing(self.name, folder)
        if not (classes := subfolders(folder)):
            raise FileNotFoundError(f"{self.name}: {folder} has no subfolders; it must have one for each class")
        return folder, classes

    def _test_folder(self, root: Path) -> Path:
        names = (self.test_dir,) if self.test_dir else ("test", "val")
        folders = [locate(root, self.folder) / name for name in names]
        for folder in folders:
            if folder.is_dir():
                return folder
        raise missing(self.name, folders[0])


class TinyImageNetImages(FolderImages):
    """TinyImageNet: 200 classes, RGB, 64x64, 100,000 for training; its 10,000 validation images are the test split.

    Their classes come from its annotation file; no file is moved. Normalised with ImageNet's constants.

    Args:
        folder: the unpacked archive: absolute, or relative to ``root`` or else to the working directory.
        in_memory: decode all images once at the start (1.4 GB at 64x64); otherwise ``num_workers`` processes
            decode them as they are used.
    """

    def __init__(self, folder: str = "tiny-imagenet-200", in_memory: bool = True) -> None:
        super().__init__(folder, test_dir="val", in_memory=in_memory)

    def info(self, root: Path) -> SourceInfo:
        """Known beforehand."""
        return SourceInfo(ImageShape(3, 64, 64), 200, 100_000, 10_000)

    def load(self, root: Path, train: bool) -> ImageFiles:
        """Lists the files of one split."""
        _, classes = self._train_folder(root)
        if train:
            return super().load(root, train)
        table = self._test_folder(root) / "val_annotations.txt"
        if not table.is_file():
            raise missing(self.name, table)
        number = {name: position for position, name in enumerate(classes)}
        rows = [line.split("\t")[:2] for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
        try:
            files = [(table.parent / "images" / file, number[name]) for file, name in rows]
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.name}: {table} is not its annotation file ({error})") from error
        return self._listed(files, self.info(root).shape)
