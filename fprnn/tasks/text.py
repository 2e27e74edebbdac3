"""Language modelling: predict the next character, byte or token of a text.

Section 4.5 of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025) trains on FineWeb; ``docs/text_data.md`` says how that
becomes a folder of shards. What differs: training, validation and test text are contiguous parts that do not overlap,
while in the authors' data a document can straddle training and validation; and windows are drawn by number, pass by
pass, from the text itself, so that nothing is cut beforehand and any length will do.

At the end stands what the distillation of text (package ``kd``) reads: a text as a whole, cut once into windows that
have an index.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinopl.core.errors import MOST_NAMES, DataError, check_sizes
from fprnn.tasks.corpus import Integers, TokenStore, find_path, read_utf8, shortened, window_starts
from fprnn.tasks.task import LengthRange, Seeds, SequenceBatch, Task, Vocabulary

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Units = Literal["characters", "bytes"]

PROBED = 2**20
"""Tokens at the beginning of a shard that are checked at once; all others are checked when they are read."""


class TextTask(Task):
    """What the text tasks share: windows of a text, each labelled with its next token; a length counts tokens.

    Training goes through the training text pass by pass, in windows that do not overlap. Evaluation reads a split from
    its beginning in windows that do not overlap, each from an empty state: all of them, or where there are more than
    ``val_size`` or ``test_size``, so many, evenly spaced.

    Args:
        splits: the tokens of each split.
        vocabulary: names of the tokens.
        source: the argument that names the text, and its value, for messages.
    """

    def __init__(self, splits: dict[Split, TokenStore], vocabulary: Vocabulary, source: str) -> None:
        self.vocabulary = vocabulary
        self.num_targets = len(vocabulary)
        self._splits = splits
        self._source = source

    def num_split_tokens(self, split: Split) -> int:
        """Tokens of a split."""
        return len(self._splits[split])

    @abstractmethod
    def tokens_per_character(self, split: Split) -> float | None:
        """Tokens of a split over its characters, for ``bits_per_character``; None where that is not known."""

    def training(self, stream: int, first: int, count: int, lengths: LengthRange) -> SequenceBatch:
        """The windows ``first .. first + count - 1`` of all passes."""
        store = self._splits["train"]
        starts = window_starts(stream, first, count, len(store), lengths.longest)
        return shortened(self._labelled(store, starts, lengths.longest), stream, first, lengths)

    def evaluation(self, split: Literal["val", "test"], seeds: Seeds, length: int) -> SequenceBatch:
        """Windows behind each other, or as many as there are seeds, evenly spaced."""
        store = self._splits[split]
        whole = (len(store) - 1) // length
        count = min(len(seeds), whole)
        return self._labelled(store, np.arange(count, dtype=np.int64) * whole // max(count, 1) * length, length)

    def check_length(self, option: str, length: int) -> None:
        """Refuses windows that are longer than a split."""
        super().check_length(option, length)
        split, tokens = min(((split, len(store)) for split, store in self._splits.items()), key=lambda item: item[1])
        if length >= tokens:
            raise ValueError(
                f"{option}: length {length} needs {length + 1} tokens, but {split} has {tokens} ({self._source}); "
                "use a shorter length, a longer text or a larger share for it."
            )

    def _labelled(self, store: TokenStore, starts: Integers, length: int) -> SequenceBatch:
        windows = torch.from_numpy(self._checked(store.windows(starts, length + 1)))
        targets = windows[:, 1:].contiguous()
        return {
            "tokens": windows[:, :-1].contiguous(),
            "targets": targets,
            "mask": torch.ones_like(targets, dtype=torch.bool),
        }

    def _checked(self, windows: Integers) -> Integers:
        """Windows that may be shown to a model; characters and bytes always may."""
        return windows


class CharacterText(TextTask):
    """Next character of a text; a length counts characters.

    Args:
        path: a text file in UTF-8, whose end is held out; or a folder with ``train.txt``, ``val.txt`` and ``test.txt``.
            Also looked for below the environment's ``DINOPL_DATA``.
        val_fraction: share of a single file, before the test text, to validate on.
        test_fraction: share of a single file, its end, to test on.
        characters: the alphabet, which numbers the tokens; by default all characters of the text, sorted. To be given
            where a model goes on to another text.

    Raises:
        FileNotFoundError: if there is no such text.
        ValueError: if it is empty or not UTF-8, has a character outside the alphabet, or a share is out of range.
    """

    def __init__(
        self, path: str, val_fraction: float = 0.05, test_fraction: float = 0.05, characters: str | None = None
    ) -> None:
        remedy = "convert it, or use ByteText."
        texts = [(file, read_utf8(file, f"path: {file}", remedy)) for file in _text_files(path)]
        alphabet = characters or "".join(sorted(set().union(*(text for _, text in texts))))
        if len(set(alphabet)) < len(alphabet):
            twice = next(character for character in alphabet if alphabet.count(character) > 1)
            raise ValueError(f"characters: {twice!r} comes twice; name each character once.")
        vocabulary = Vocabulary(alphabet)
        stores = [TokenStore([_numbered(text, alphabet, file)]) for file, text in texts]
        super().__init__(_split(stores, val_fraction, test_fraction), vocabulary, f"path={path}")

    def tokens_per_character(self, split: Split) -> float:
        """1: the tokens are characters."""
        return 1.0

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, such as the beginning that a model is to go on from."""
        return self.vocabulary.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        return "".join(self.vocabulary.decode(tokens))


class ByteText(TextTask):
    """Next byte of any file; a length counts bytes.

    Args:
        path: a file, whose end is held out; or a folder with ``train.txt``, ``val.txt`` and ``test.txt``. Also looked
            for below the environment's ``DINOPL_DATA``. It is mapped, not read.
        val_fraction: share of a single file, before the test text, to validate on.
        test_fraction: share of a single file, its end, to test on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, or a share is out of range.
    """

    def __init__(self, path: str, val_fraction: float = 0.05, test_fraction: float = 0.05) -> None:
        stores = [TokenStore([np.memmap(file, dtype=np.uint8, mode="r")]) for file in _text_files(path)]
        names = (chr(byte) if 32 <= byte < 127 else f"<0x{byte:02x}>" for byte in range(256))
        super().__init__(_split(stores, val_fraction, test_fraction), Vocabulary(names), f"path={path}")

    def tokens_per_character(self, split: Split) -> float:
        """Bytes of a split over its characters, taken as UTF-8, where all bytes of a character but one continue it."""
        parts = self._splits[split].parts
        return sum(map(len, parts)) / max(sum(int(((part & 0xC0) != 0x80).sum()) for part in parts), 1)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, such as the beginning that a model is to go on from."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens; what is not UTF-8 becomes a replacement character."""
        return bytes(tokens).decode(errors="replace")


class TokenShards(TextTask):
    """Next token of a text that was tokenised before; a length counts tokens.

    Shards are ``.npy`` files with one row of integers each, all of one type; they are mapped, not read, and may be
    larger than the memory. In order of their names they are one text. ``docs/text_data.md`` makes some of FineWeb.

    Args:
        folder: folder of shards, whose end is held out; or with the folders ``train``, ``val`` and ``test`` of shards.
            Also looked for below the environment's ``DINOPL_DATA``.
        vocab_size: number of tokens of the tokeniser, 50257 for GPT-2.
        val_fraction: share of the text, before the test text, to validate on.
        test_fraction: share of the text, its end, to test on.
        characters_per_token: mean number of characters of a token, if bits per character are wanted.

    Raises:
        FileNotFoundError: if there is no such folder, or no shard in it.
        ValueError: if a shard is not what it should be, or a share is out of range.
    """

    def __init__(
        self,
        folder: str,
        vocab_size: int,
        val_fraction: float = 0.005,
        test_fraction: float = 0.005,
        characters_per_token: float | None = None,
    ) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size: {vocab_size} leaves nothing to predict; use the tokeniser's.")
        check_sizes(MOST_NAMES, vocab_size=vocab_size)
        if characters_per_token is not None and not characters_per_token > 0:
            raise ValueError(f"characters_per_token: {characters_per_token} is not positive; use their mean number.")
        self.characters_per_token = characters_per_token
        root = find_path("folder", folder, "write .npy shards there, as docs/text_data.md says")
        own = [root / split for split in SPLITS]
        shards = [_shards(place) for place in (own if all(map(Path.is_dir, own)) else [root])]
        (first, one), *others = [shard for part in shards for shard in part]
        for name, shard in others:
            if shard.dtype != one.dtype:
                raise ValueError(f"folder: {name} holds {shard.dtype}, but {first.name} {one.dtype}; write one type.")
        stores = [TokenStore([array for _, array in part]) for part in shards]
        super().__init__(
            _split(stores, val_fraction, test_fraction), Vocabulary(map(str, range(vocab_size))), f"folder={folder}"
        )
        self._shards = [shard for part in shards for shard in part]
        self._check(PROBED)

    def tokens_per_character(self, split: Split) -> float | None:
        """Follows from ``characters_per_token``, for every split alike."""
        return None if self.characters_per_token is None else 1 / self.characters_per_token

    def _checked(self, windows: Integers) -> Integers:
        """Refuses tokens that the vocabulary does not have."""
        if windows.size and not 0 <= int(windows.min()) <= int(windows.max()) < self.vocab_size:
            self._check(None)
        return windows

    def _check(self, count: int | None) -> None:
        """Raises a DataError for the first token of the shards that the vocabulary does not have.

        ``count`` tokens of each shard are looked at; None is all.
        """
        for file, shard in self._shards:
            for begin in range(0, len(shard) if count is None else min(count, len(shard)), PROBED):
                tokens = shard[begin : begin + PROBED]
                if 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
                    continue
                place = int(((tokens < 0) | (tokens >= self.vocab_size)).argmax())
                token = int(tokens[place])
                fault = "is negative" if token < 0 else f"is not below {self.vocab_size}"
                raise DataError(
                    f"vocab_size: {file} has the token {token} at position {begin + place}, which {fault}; use the "
                    "size of the tokeniser that made the shards, or correct them."
                )


def _split(stores: Sequence[TokenStore], val_fraction: float, test_fraction: float) -> dict[Split, TokenStore]:
    """Three texts as they are, or one text cut in three: beginning, validation, end."""
    if len(stores) == 3:
        return dict(zip(SPLITS, stores, strict=True))
    for name, value in (("val", val_fraction), ("test", test_fraction)):
        if not 0 < value < 1:
            raise ValueError(f"{name}_fraction: {value} is not between 0 and 1; use 0.05, say.")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction: {val_fraction} and the test text's {test_fraction} leave nothing to train on; "
            "use smaller shares."
        )
    whole, total = stores[0], len(stores[0])
    val, test = (max(int(total * share), 1) for share in (val_fraction, test_fraction))
    ends = (0, max(total - val - test, 0), max(total - test, 0), total)
    return {split: whole.cut(ends[i], ends[i + 1]) for i, split in enumerate(SPLITS)}


def _text_files(path: str) -> list[Path]:
    """The file itself, or a folder's three."""
    root = find_path("path", path, "give the path of a text file")
    if root.is_dir():
        files = [root / f"{split}.txt" for split in SPLITS]
    elif root.is_file():
        files = [root]
    else:
        raise FileNotFoundError(f"path: {root} is neither file nor folder; give the path of a text file.")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"path: the folder {root} has no {file.name}; give a file, or a folder with all three."
            )
        if not file.stat().st_size:
            raise ValueError(f"path: {file} is empty; give a file with text.")
    return files


class TextSource(ABC):
    """A text as a whole, which is numbered and cut by :func:`encode` and :func:`windows`: what ``kd`` distils on."""

    @abstractmethod
    def read(self, root: Path) -> str:
        """The whole text, from a file below the folder of all data sets.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it is not text.
        """


class TextFile(TextSource):
    """A file of UTF-8 text.

    Args:
        path: the file: absolute, or relative to ``data.root`` or else to the working directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, root: Path) -> str:
        """Reads the file."""
        below, given = root / self.path, Path(self.path)
        path = given if given.exists() and not below.exists() else below
        if not path.is_file():
            raise FileNotFoundError(
                f"{type(self).__name__}: nothing at {path}; put the data there, or point root or $DINOPL_DATA at the "
                "folder above"
            )
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"TextFile: {path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error


class PythonDocsText(TextSource):
    """The reference pages that Python's ``help`` shows: half a million characters of English that need no download.

    They are those of the interpreter, so that another version of Python has a slightly other text.
    """

    def read(self, root: Path) -> str:
        """Joins the pages in alphabetical order."""
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise FileNotFoundError(
                "PythonDocsText: this Python comes without its reference pages (pydoc_data); use a TextFile."
            ) from error
        return "\n".join(topics[name] for name in sorted(topics))


def encode(text: str, units: Units) -> tuple[Tensor, tuple[str, ...]]:
    """A text as tokens ``(n,)`` int32, and what each stands for: characters, or the 256 bytes as hexadecimal digits.

    Characters are those that occur in the text, in their order in Unicode; bytes are those of its UTF-8 form.
    """
    if units == "bytes":
        content = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
        return torch.from_numpy(content), tuple(f"{byte:02x}" for byte in range(256))
    alphabet = "".join(sorted(set(text)))
    return torch.from_numpy(number_characters(text, alphabet)), tuple(alphabet)


def windows(tokens: Tensor, length: int) -> Tensor:
    """Windows that do not overlap, each with the token after it: ``(n,)`` to ``((n - 1) // length, length + 1)``.

    What is left at the end and fills no window is dropped.
    """
    if len(tokens) <= length:
        return tokens.new_empty(0, length + 1)
    return tokens.unfold(0, length + 1, length)


def number_characters(text: str, alphabet: str) -> NDArray[np.int32]:
    """Places of a text's characters in an alphabet, ``(len(text),)``; -1 of those that it does not have."""
    table = np.full(0x110000, -1, dtype=np.int32)  # one entry for each code point of Unicode
    points, known = (np.frombuffer(part.encode("utf-32-le"), dtype="<u4") for part in (text, alphabet))
    table[known] = np.arange(len(alphabet))
    numbers: NDArray[np.int32] = table[points]
    return numbers


def _numbered(text: str, alphabet: str, file: Path) -> NDArray[np.int32]:
    """Places of a text's characters in the alphabet; ValueError if it does not have one of them."""
    numbers = number_characters(text, alphabet)
    if (numbers < 0).any():
        place = int((numbers < 0).argmax())
        raise ValueError(
            f"characters: {text[place]!r}, character {place} of {file}, is not among them; "
            "add it, or leave characters at None"
        )
    return numbers


def _shards(folder: Path) -> list[tuple[Path, NDArray[Any]]]:
    """A folder's shards, mapped, in order of their names."""
    found = folder.glob("*.npy") if folder.is_dir() else []
    files = sorted(file for file in found if not file.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"folder: no .npy file in {folder}; write shards there, as docs/text_data.md says.")
    shards = []
    for file in files:
        try:
            shard = np.load(file, mmap_mode="r")
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"folder: {file} is no array of numbers ({error}); write it with numpy.save.") from None
        if shard.ndim != 1 or shard.dtype.kind not in "iu":
            raise ValueError(
                f"folder: {file} holds {shard.ndim} dimensions of {shard.dtype}; write one row of integers to a shard."
            )
        shards.append((file, shard))
    return shards
