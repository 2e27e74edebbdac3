import gzip
import hashlib
import math
import multiprocessing
import tarfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from dinopl.data import CIFAR10Images, FashionMNISTImages, MNISTImages, STL10Images, TorchvisionImages
from dinopl.data.sources.downloads import fetch_once
from dinopl.data.sources.published import PublishedImages

ASKED = 2  # times that torchvision opens an address for one download: it looks for redirections first


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


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, bytes], list[str]]]:
    """The archives of a small FashionMNIST on a web server of this machine, and what was asked of it."""
    import torchvision.datasets

    files, asked = {}, []
    for split, count in (("train", 3), ("t10k", 2)):
        for kind, sizes in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
            files[f"{split}-{kind}-ubyte.gz"] = gzip.compress(head + bytes(math.prod(sizes)), mtime=0)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path[1:])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(files[self.path[1:]])

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", sums)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{served.server_port}/"])
    yield files, asked
    served.shutdown()
    served.server_close()


def test_four_processes_make_one_download(tmp_path: Path, server: tuple[dict[str, bytes], list[str]]) -> None:
    files, asked = server
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=FashionMNISTImages().prepare, args=(tmp_path / "data",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert Counter(asked) == dict.fromkeys(files, ASKED)
    assert len(FashionMNISTImages().load(tmp_path / "data", train=True).label) == 3


@pytest.mark.parametrize("damage", ["truncated", "a bit flipped", "not an archive"])
def test_a_damaged_archive_is_named_and_fetched_again(
    tmp_path: Path, server: tuple[dict[str, bytes], list[str]], damage: str
) -> None:
    files, asked = server
    name = "train-labels-idx1-ubyte.gz"
    whole = files[name]
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    files[name] = {"truncated": whole[:-4], "a bit flipped": flipped, "not an archive": b"<html>"}[damage]
    with pytest.raises(FileNotFoundError, match=rf"FashionMNISTImages: .*download failed .* at {name}; put") as refused:
        FashionMNISTImages().prepare(tmp_path / "data")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "data").exists()
    files[name] = whole
    FashionMNISTImages().prepare(tmp_path / "data")
    assert asked.count(name) == 2 * ASKED
    assert len(FashionMNISTImages().load(tmp_path / "data", train=True).label) == 3


@pytest.mark.parametrize(
    "error", [EOFError("cut"), zlib.error("bad"), tarfile.ReadError("no tar"), zipfile.BadZipFile("x")]
)
def test_an_archive_without_a_sum_is_named_too(tmp_path: Path, error: Exception) -> None:
    def fetch(staging: Path) -> None:
        (staging / "set.tar").write_bytes(b"half")
        raise error

    with pytest.raises(FileNotFoundError, match=r"download failed \(.*\) at set\.tar; put"):
        fetch_once("Set", tmp_path / "set", tmp_path, lambda: False, fetch)
    assert everything(tmp_path) == []
