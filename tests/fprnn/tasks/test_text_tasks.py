"""Text tasks against plain slices of the text; shards against one array; every kind of bad file."""

import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.core.errors import DataError
from fprnn.tasks import (
    ByteText,
    CharacterText,
    LengthRange,
    SequenceDataModule,
    TokenShards,
    WordProblem,
    bits_per_character,
)
from fprnn.tasks.corpus import TokenStore, window_starts

TEXT = "".join(f"{number}äé€, " for number in range(400))
ONE = np.zeros(1, dtype=np.uint64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def write_shards(folder: Path, sizes: list[int], dtype: str = "uint16") -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    tokens = np.random.default_rng(0).integers(300, size=sum(sizes)).astype(dtype)
    for number, shard in enumerate(np.split(tokens, np.cumsum(sizes)[:-1])):
        np.save(folder / f"{number:03d}.npy", shard)
    return tokens


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 2),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_parts_read_like_one_array(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint8)
    store = TokenStore(np.split(whole, np.cumsum(sizes)[:-1]))
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(begin + 1, len(whole)))
    cut = store.cut(begin, end)
    assert len(cut) == end - begin
    width = data.draw(st.integers(1, len(cut)))
    starts = np.array(data.draw(st.lists(st.integers(0, len(cut) - width), max_size=4)), dtype=np.int64)
    expected = [whole[begin + start : begin + start + width].tolist() for start in starts]
    assert cut.windows(starts, width).tolist() == expected


@given(st.integers(2, 300), st.integers(1, 20), st.integers(0, 2**62), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_a_pass_shows_every_window_once(total: int, length: int, stream: int, number: int) -> None:
    length = min(length, total - 1)
    per_pass = max((total - 1) // length - 1, 1)
    starts = window_starts(stream, number * per_pass, per_pass, total, length)
    assert starts.min() >= 0
    assert starts.max() + length + 1 <= total
    assert np.diff(np.sort(starts)).tolist() == [length] * (per_pass - 1)
    several = window_starts(stream, number * per_pass, 2 * per_pass + 1, total, length)
    assert several[:per_pass].tolist() == starts.tolist()
    np.testing.assert_array_equal(
        window_starts(stream, number * per_pass + 1, 2 * per_pass, total, length), several[1:]
    )


def test_passes_differ_in_order_and_place() -> None:
    passes = [window_starts(3, 49 * number, 49, 500, 10).tolist() for number in range(20)]
    assert len({tuple(starts) for starts in passes}) == 20
    assert len({min(starts) for starts in passes}) > 5
    assert all(starts != sorted(starts) for starts in passes)


@pytest.mark.parametrize("kind", [CharacterText, ByteText])
def test_windows_are_slices_of_the_text(kind: type[CharacterText | ByteText], file: Path) -> None:
    task = kind(str(file), val_fraction=0.2, test_fraction=0.1)
    text = TEXT if kind is CharacterText else TEXT.encode().decode("latin-1")
    batch = task.training(1, 0, 50, LengthRange(13, 13))

    def spelt(row: torch.Tensor) -> str:
        return task.decode(row.tolist()) if kind is CharacterText else bytes(row.tolist()).decode("latin-1")

    train = text[: len(text) - int(len(text) * 0.2) - int(len(text) * 0.1)]
    for row in range(50):
        assert spelt(batch["tokens"][row]) + spelt(batch["targets"][row, -1:]) in train
        assert torch.equal(batch["tokens"][row, 1:], batch["targets"][row, :-1])
    assert batch["mask"].all()


def test_splits_lie_behind_each_other_and_are_read_in_order(file: Path) -> None:
    task = CharacterText(str(file), val_fraction=0.2, test_fraction=0.1)
    parts = {}
    for split in ("val", "test"):
        batch = task.evaluation(split, np.zeros(10**6, dtype=np.uint64), 13)
        parts[split] = task.decode(batch["tokens"].flatten().tolist())
        assert (
            task.decode(batch["targets"].flatten().tolist())
            == parts[split][1:] + TEXT[TEXT.index(parts[split]) + len(parts[split])]
        )
    train = task.num_split_tokens("train")
    val = int(len(TEXT) * 0.2)
    assert parts["val"] == TEXT[train : train + (val - 1) // 13 * 13]
    assert TEXT[train + val :].startswith(parts["test"])
    assert len(TEXT) - train - val - len(parts["test"]) in range(1, 14)


def test_fewer_windows_than_there_are_lie_evenly(file: Path) -> None:
    task = ByteText(str(file), val_fraction=0.5)
    every, some = (task.evaluation("val", np.zeros(count, dtype=np.uint64), 30) for count in (10**6, 7))
    places = [(every["tokens"] == row).all(1).nonzero().flatten().tolist()[0] for row in some["tokens"]]
    assert len(places) == 7
    assert np.ptp(np.diff(places)) <= 1
    assert places[0] == 0
    assert places[-1] > 0.8 * len(every["tokens"])


def test_a_folder_has_its_own_splits(tmp_path: Path) -> None:
    for split, text in (("train", "abcabcabc"), ("val", "bbbbb"), ("test", "cccccc")):
        (tmp_path / f"{split}.txt").write_text(text)
    for task in (CharacterText(str(tmp_path)), ByteText(str(tmp_path))):
        assert [task.num_split_tokens(split) for split in ("train", "val", "test")] == [9, 5, 6]
        assert task.decode(task.evaluation("test", ONE, 3)["tokens"][0].tolist()) == "ccc"


def test_random_lengths_are_masked(file: Path) -> None:
    task = CharacterText(str(file))
    batch = task.training(1, 5, 100, LengthRange(3, 9))
    assert batch["mask"].sum(1).unique().tolist() == list(range(3, 10))
    assert (batch["mask"].int().diff(dim=1) <= 0).all()
    assert not batch["targets"][~batch["mask"]].any()
    assert torch.equal(batch["tokens"], task.training(1, 5, 100, LengthRange(9, 9))["tokens"])
    part = task.training(1, 25, 10, LengthRange(3, 9))
    assert torch.equal(part["mask"], batch["mask"][20:30])


def test_characters_are_counted_and_spelt(file: Path) -> None:
    characters, bytes_ = CharacterText(str(file)), ByteText(str(file))
    assert characters.vocabulary.tokens == tuple(sorted(set(TEXT)))
    assert characters.tokens_per_character("val") == 1
    encoded = TEXT.encode()
    test = encoded[-int(len(encoded) * 0.05) :]
    characters_in_test = len(test.decode(errors="ignore"))
    assert bytes_.tokens_per_character("test") == pytest.approx(len(test) / characters_in_test, rel=0.01)
    assert characters.decode(characters.encode("3é, ")) == bytes_.decode(bytes_.encode("3é, ")) == "3é, "
    assert bytes_.vocabulary.decode([65, 10]) == ["A", "<0x0a>"]
    assert bytes_.num_targets == 256
    assert bits_per_character(float(np.log(8)), 2.0) == pytest.approx(6)


def test_an_alphabet_fixes_the_numbers(file: Path) -> None:
    alphabet = "zyx" + "".join(sorted(set(TEXT)))
    task = CharacterText(str(file), characters=alphabet)
    assert "".join(task.vocabulary.tokens) == alphabet
    assert task.decode(task.evaluation("test", ONE, 20)["tokens"][0].tolist()) in TEXT
    with pytest.raises(ValueError, match=r"characters: 'ä', character 1 of .*text.txt, is not among them"):
        CharacterText(str(file), characters="0123456789,é€ ")
    with pytest.raises(ValueError, match=r"characters: 'a' comes twice; name each character once"):
        CharacterText(str(file), characters="aba")


def test_a_checkpoint_of_other_tokens_is_refused(file: Path) -> None:
    first = SequenceDataModule(CharacterText(str(file)), 8, seed=1)
    second = SequenceDataModule(CharacterText(str(file), characters="".join(sorted(set(TEXT), reverse=True))), 8)
    first.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match=r"task=CharacterText: its 15 tokens are not those .*checkpoint"):
        second.load_state_dict(first.state_dict())
    old = {key: value for key, value in first.state_dict().items() if key != "vocabulary"}
    second.load_state_dict(old)
    with pytest.raises(ValueError, match="WordProblem"):
        SequenceDataModule(WordProblem("S3"), 8).load_state_dict(first.state_dict())


def test_a_text_is_also_looked_for_among_all_data(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOPL_DATA", str(file.parent.parent))
    assert CharacterText(f"{file.parent.name}/text.txt").num_targets == 15


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_shards_are_one_text(tmp_path: Path, dtype: str) -> None:
    whole = write_shards(tmp_path / "shards", [100, 7, 300], dtype)
    task = TokenShards(str(tmp_path / "shards"), 300, val_fraction=0.25, test_fraction=0.25)
    assert [task.num_split_tokens(split) for split in ("train", "val", "test")] == [205, 101, 101]
    batch = task.training(4, 0, 200, LengthRange(20, 20))
    starts = window_starts(4, 0, 200, 205, 20)
    for row, start in enumerate(starts):
        assert batch["tokens"][row].tolist() == whole[start : start + 20].tolist()
        assert batch["targets"][row].tolist() == whole[start + 1 : start + 21].tolist()
    assert batch["tokens"].dtype == torch.int64
    assert Counter(starts.tolist())  # several passes
    assert task.tokens_per_character("val") is None
    known = TokenShards(str(tmp_path / "shards"), 300, characters_per_token=4.0)
    assert known.tokens_per_character("test") == 0.25


def test_a_folder_of_shards_has_its_own_splits(tmp_path: Path) -> None:
    for split, size in (("train", 50), ("val", 20), ("test", 30)):
        write_shards(tmp_path / split, [size, 3])
    task = TokenShards(str(tmp_path), 300)
    assert [task.num_split_tokens(split) for split in ("train", "val", "test")] == [53, 23, 33]


def make(folder: Path, kind: str) -> Path:
    """A file or folder with one thing wrong."""
    path = folder / "text.txt"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "latin":
        path.write_bytes(b"caf\xe9")
    elif kind == "no val":
        (folder / "train.txt").write_text("abc")
        path = folder
    elif kind == "good":
        path.write_text("abc" * 40)
    return path


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("missing", {}, r"path: nothing at [^,]*text.txt; give the path of a text file"),
        ("empty", {}, "path: .*text.txt is empty; give a file with text"),
        ("latin", {}, r"path: .*text.txt is not UTF-8 \(byte 3\); convert it, or use ByteText"),
        ("no val", {}, "path: the folder .* has no val.txt; give a file, or a folder with all three"),
        ("good", {"val_fraction": 0.0}, "val_fraction: 0.0 is not between 0 and 1"),
        ("good", {"test_fraction": 1.0}, "test_fraction: 1.0 is not between 0 and 1"),
        ("good", {"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction: 0.5 and .* nothing to train"),
    ],
)
def test_a_bad_text_is_refused(tmp_path: Path, kind: str, options: dict[str, float], message: str) -> None:
    path = make(tmp_path, kind)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        CharacterText(str(path), **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes(("abc" * 40).encode("utf-8-sig"))
    assert CharacterText(str(tmp_path / "marked.txt")).vocabulary.tokens == ("a", "b", "c")


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match=r"path: .*pipe is neither file nor folder; give the path"):
        CharacterText(str(tmp_path / "pipe"))


def test_a_text_too_short_for_the_length_is_refused(tmp_path: Path) -> None:
    task = CharacterText(str(make(tmp_path, "good")))
    SequenceDataModule(task, 5)
    with pytest.raises(ValueError, match=r"train_length: length 6 needs 7 tokens, but val has 6 \(path="):
        SequenceDataModule(task, 6)
    (tmp_path / "two.txt").write_text("ab")
    with pytest.raises(ValueError, match="but train has 0"):
        SequenceDataModule(CharacterText(str(tmp_path / "two.txt")), 1)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ({}, "folder: no .npy file in .*; write shards there"),
        ({"a": np.zeros(9, np.uint16), "b": np.zeros(9, np.int32)}, "b.npy holds int32, but a.npy uint16; write one"),
        ({"a": np.zeros(9, np.float32)}, "a.npy holds 1 dimensions of float32; write one row of integers"),
        ({"a": np.zeros((3, 3), np.uint16)}, "a.npy holds 2 dimensions of uint16; write one row of integers"),
        ({"a": np.array(["x"], dtype=object)}, "a.npy is no array of numbers .*; write it with numpy.save"),
        ({"a": np.array([0, 9, 10] * 9)}, "vocab_size: .*a.npy has the token 10 at position 2, which is not below 10"),
        ({"a": np.array([0, -1, 9] * 9)}, "a.npy has the token -1 at position 1, which is negative"),
    ],
)
def test_bad_shards_are_refused(tmp_path: Path, shards: dict[str, np.ndarray], message: str) -> None:
    for name, shard in shards.items():
        np.save(tmp_path / f"{name}.npy", shard, allow_pickle=True)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        TokenShards(str(tmp_path), 10, val_fraction=0.3, test_fraction=0.3)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_missing_and_a_vocabulary_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder: nothing at [^,]*none; write .npy shards"):
        TokenShards(str(tmp_path / "none"), 10)
    with pytest.raises(ValueError, match=r"vocab_size: 1 leaves nothing to predict"):
        TokenShards(str(tmp_path), 1)
    with pytest.raises(ValueError, match=r"characters_per_token: 0 is not positive"):
        TokenShards(str(tmp_path), 10, characters_per_token=0)


def test_a_wrong_token_deep_in_a_shard_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fprnn.tasks.text.PROBED", 4)
    np.save(tmp_path / "a.npy", np.array([1] * 50 + [7] + [1] * 49))
    task = TokenShards(str(tmp_path), 5, val_fraction=0.1, test_fraction=0.1)
    with pytest.raises(DataError, match=r"vocab_size: .*a.npy has the token 7 at position 50, which is not below 5"):
        task.training(0, 0, 50, LengthRange(5, 5))


def test_the_documented_script_writes_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """The script of docs/text_data.md, with a stand-in for the two packages that it needs."""
    text = (root / "docs" / "text_data.md").read_text()
    (script,) = (block for block in re.findall(r"```python\n(.*?)```", text, flags=re.S) if "fineweb" in block.lower())
    documents = [{"text": "x" * (number % 7 + 1)} for number in range(3000)]

    def load_dataset(path: str, **options: object) -> list[dict[str, str]]:
        assert path == "HuggingFaceFW/fineweb"
        assert options["streaming"]
        return documents

    encoding = SimpleNamespace(eot_token=50256, encode_ordinary=lambda text: [len(text)] * len(text))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(get_encoding=lambda name: encoding))
    monkeypatch.chdir(tmp_path)
    exec(script.replace("100_000_000", "1_000").replace("2_000_000_000", "4_500"), {})
    folder = next(path for path in tmp_path.rglob("*.npy")).parent
    expected = [token for d in documents for token in [50256, *[len(d["text"])] * len(d["text"]), 50256]]
    written = [np.load(path) for path in sorted(folder.glob("*.npy"))]
    assert {len(shard) for shard in written[:-1]} == {1000}
    assert {shard.dtype for shard in written} == {np.dtype("uint16")}
    np.testing.assert_array_equal(np.concatenate(written), expected[: sum(map(len, written))])
    assert sum(map(len, written)) == 4500
    task = TokenShards(str(folder), 50257)
    assert SequenceDataModule(task, 16, batch_size=4).training_batch(0)["tokens"].shape == (4, 16)
