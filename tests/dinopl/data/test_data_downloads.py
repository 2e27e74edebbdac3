import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from dinopl.data import CIFAR10Images, MNISTImages, STL10Images, TorchvisionImages
from dinopl.data.sources.downloads import fetch_once
from dinopl.data.sources.published import PublishedImages


class TwoFiles(PublishedImages):
    """A published set whose download writes two files and an archive."""

    folder = "two/raw"
    files = ("a", "b")

    def __init__(self, fail_after: int = 3) -> None:
        self.fail_after = fail_after
        self.fetched = 0

    def fetch(self, root: Path) -> None:
        self.fetched += 1
        (root / self.folder).mkdir(parents=True)
        for number, name in enumerate(("archive.tar", "two/raw/a", "two/raw/b")):
            if number == self.fail_after:
                raise OSError("connection lost\nsecond line")
            (root / name).write_text("new")

    def read(self, root: Path, train: bool) -> Any:
        raise AssertionError("not read here")


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_download_leaves_the_data_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    source = TwoFiles()
    source.prepare(root)
    assert everything(root) == ["two/raw/a", "two/raw/b"]
    source.prepare(root)
    assert source.fetched == 1


@pytest.mark.parametrize("fail_after", [0, 1, 2])
def test_a_download_that_fails_leaves_nothing(fail_after: int, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    with pytest.raises(FileNotFoundError) as caught:
        TwoFiles(fail_after).prepare(root)
    message = str(caught.value)
    assert f"TwoFiles: no usable data in {root / 'two/raw'} and the download failed (connection lost)" in message
    assert "root or $DINOPL_DATA" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "two" / "raw").mkdir(parents=True)
    (tmp_path / "two" / "raw" / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        TwoFiles(fail_after=2).prepare(tmp_path)
    assert everything(tmp_path) == ["two/raw/a"]
    assert (tmp_path / "two" / "raw" / "a").read_text() == "old"


def test_an_incomplete_folder_is_completed_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "two" / "raw").mkdir(parents=True)
    (tmp_path / "two" / "raw" / "a").write_text("old")
    (tmp_path / "two" / "raw" / "mine").write_text("mine")
    TwoFiles().prepare(tmp_path)
    assert everything(tmp_path) == ["two/raw/a", "two/raw/b", "two/raw/mine"]
    assert (tmp_path / "two" / "raw" / "a").read_text() == "new"


def _fetch_slowly(root: Path, started: Event, count: Any) -> None:
    def fetch(staging: Path) -> None:
        started.set()
        with count.get_lock():
            count.value += 1
        (staging / "set").mkdir()
        (staging / "set" / "file").write_text("half")
        time.sleep(0.3)
        (staging / "set" / "file").write_text("whole")

    fetch_once("Slow", root / "set", root, lambda: (root / "set" / "file").exists(), fetch)


def test_two_processes_fetch_once_and_never_show_half_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, count = context.Event(), context.Value("i", 0)
    processes = [context.Process(target=_fetch_slowly, args=(tmp_path, started, count)) for _ in range(2)]
    for process in processes:
        process.start()
    started.wait(10)
    while any(process.is_alive() for process in processes):
        target = tmp_path / "set" / "file"
        assert not target.exists() or target.read_text() == "whole"
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0, 0]
    assert count.value == 1
    assert everything(tmp_path) == ["set/file"]


def test_a_process_that_is_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, count = context.Event(), context.Value("i", 0)
    process = context.Process(target=_fetch_slowly, args=(tmp_path, started, count))
    process.start()
    assert started.wait(10)
    process.kill()
    process.join()
    assert not (tmp_path / "set").exists()
    _fetch_slowly(tmp_path, context.Event(), count)
    assert (tmp_path / "set" / "file").read_text() == "whole"


@pytest.mark.parametrize("source", [MNISTImages(), CIFAR10Images(), STL10Images()], ids=lambda source: source.name)
def test_published_sets_come_through_torchvisions_download(
    source: PublishedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    calls = []

    def download(root: Path, download: bool) -> None:
        calls.append((root.parent, download))
        (root / source.folder).mkdir(parents=True)
        for name in source.files:
            (root / source.folder / name).write_bytes(b"data")

    monkeypatch.setattr(torchvision.datasets, source.name.removesuffix("Images"), download)
    source.prepare(tmp_path)
    source.prepare(tmp_path)
    assert calls == [(tmp_path, True)]
    assert everything(tmp_path) == sorted(f"{source.folder}/{name}" for name in source.files)


class Fetched(Dataset[None]):
    """A torchvision-style set that downloads one loose file a split."""

    def __init__(self, root: Path, train: bool, download: bool = False) -> None:
        self.file = Path(root, f"{train}.txt")
        if download:
            self.file.write_text("3")
        if not self.file.exists():
            raise RuntimeError("Dataset not found.")

    def __len__(self) -> int:
        return 1


def test_any_torchvision_set_comes_through_its_own_download(tmp_path: Path) -> None:
    source = TorchvisionImages(f"{__name__}.Fetched", num_classes=2, image_shape=(1, 2, 2))
    source.prepare(tmp_path)
    assert everything(tmp_path) == ["False.txt", "True.txt"]
    (tmp_path / "True.txt").write_text("kept")
    TorchvisionImages(f"{__name__}.Fetched", num_classes=2, image_shape=(1, 2, 2)).prepare(tmp_path)
    assert (tmp_path / "True.txt").read_text() == "kept"
