"""Shipped configurations with something wrong in them, through the real command.

Each case either runs its first step, or exits with 2 and at most three lines, and then has written nothing. The same
seed and number give the same case on every machine. The long form, 2,000 cases in processes of 100 (run folders go
into a temporary folder, which is removed):

    python -m tests.fuzz.mutations --cases 2000
"""

import argparse
import collections.abc
import contextlib
import copy
import inspect
import io
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import types
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

from dinopl.cli.tools.schema import hints
from tests.configs.conftest import replaced
from tests.configs.small_corpora import small_corpus
from tests.configs.test_configs import CONFIGS, FILES, short

ROOT = Path(__file__).parent.parent.parent
SECONDS = 100  # a case that takes longer hangs; a busy machine is slow
MEMORY = 6 * 2**30

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 100, 0.5, -0.5, 1.5, 1e-12, 1e30, 10**9, 10**18, -(10**18)),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "x",
        "x" * 20_000,
        "a\u2028b\x1b[2J",
        "é",
        "null",
        "1",
        "1e-3",
        "true",
        "[1",
        "{a: b}",
        "-",
        "~",
        "auto",
    ),
    *("../x", "nowhere/x", ".", "2026-99-99", "a.b.c", "KNNProbe", "val/loss", "min"),
    *([], {}, [None], [1, 2, 3], [0], [-1], [[1]], ["x"], [1.5, 2.5], {"a": 1}, {1: 2}, {"a": {"b": None}}),
    *(
        {"class_path": "x.Y"},
        {"class_path": 3},
        {"class_path": None},
        {"init_args": {}},
        {"class_path": "torch.nn.ReLU"},
    ),
    *({"class_path": "dinopl.encoders.MiniVGG", "init_args": 3}, {"class_path": "torch.nn.Linear", "init_args": [1]}),
]
# Text in the place of a value.
TEXTS = [
    *("9" * 5000, "!!int x", "!!float x", "!!bool x", "!!timestamp x", "!!binary x", "!!set {a}", "!!omap [a: 1]"),
    *("!!python/object/apply:os.system ['touch MARKER']", "&a [*a]", "&a {b: *a}", "[" * 3000, "[" * 200 + "]" * 200),
    *("2026-99-99", "*nothing", "? [a, b]", "'", '"', "{", "1:2:3", "0x", "|", "\t", "@", "%", "\x00", "\ufeff", "- -"),
    *("{<<: 3}", '"a\\0b"', "<<", "&x", "!x y", "[a, &b [*b]]", ".inf", "1_000", "2026-12-01", "---", "...", "# x"),
]
# Of several processes; folders outside the case's own; noise as large as a published set.
NOT_CHANGED = ("devices", "num_nodes", "strategy", "default_root_dir", "accelerator", "num_train", "num_test")


class FirstStepDoneError(Exception):
    """Ends a run after its first step."""


def small(file: Path, folder: Path) -> dict[str, Any]:
    """A shipped configuration at the size at which the tests run it, as one tree.

    Args:
        file: the configuration.
        folder: for a corpus that it needs.
    """
    text = file.read_text()
    tree: dict[str, Any] = yaml.safe_load(text)
    for word in [*short(text), *replaced(text), *small_corpus(text, folder)]:
        path, _, value = word.removeprefix("--").partition("=")
        *parents, last = path.split(".")
        node = tree
        for part in [*parents, None]:
            if "class_path" in node:
                node = node.setdefault("init_args", {})
            if part is not None:
                if not isinstance(node.get(part), dict):
                    node[part] = {"class_path": node[part]} if isinstance(node.get(part), str) else {}
                node = node[part]
        node[last] = yaml.safe_load(value)
    if "TorchvisionClassifier" in text:
        tree["model"]["init_args"]["student"]["init_args"]["name"] = "squeezenet1_1"
    return tree


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place below the top of a tree."""
    for key, below in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if key not in NOT_CHANGED:
            yield (*path, key)
            yield from places(below, (*path, key))


def fitting(kind: Any, chance: random.Random) -> Any:
    """A value that the annotation of an argument lets pass, as far as it says anything; often one out of bounds."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return fitting(chance.choice(inner), chance)
    if origin is typing.Annotated:
        return fitting(inner[0], chance)
    if origin is typing.Literal:
        return chance.choice(inner)
    if kind in (None, type(None)):
        return None
    if kind is bool:
        return chance.choice((True, False))
    if kind is int:
        return chance.choice((-(10**18), -7, -1, 0, 0, 1, 1, 2, 3, 5, 8, 100, 10**6, 10**9, 10**18))
    if kind is float:
        return chance.choice(
            (-1e30, -1.0, -0.1, 0.0, 0.0, 1e-30, 0.01, 0.5, 0.99, 1.0, 1.0, 1.5, 7.0, 1e10, 1e30, 1e300)
        )
    if kind is str:
        return chance.choice([value for value in VALUES if isinstance(value, str)])
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        items = [item for item in inner if item is not Ellipsis]
        several = chance.choice((0, 1, 1, 2, 3)) if origin is not tuple or Ellipsis in inner else len(items)
        return [
            fitting(items[i] if len(items) == several else items[0], chance) for i in range(several if items else 0)
        ]
    if origin in (dict, collections.abc.Mapping) and len(inner) == 2:
        return {fitting(inner[0], chance): fitting(inner[1], chance) for _ in range(chance.choice((0, 1, 2)))}
    base = typing.get_origin(inner[-1]) or inner[-1] if origin is collections.abc.Callable and inner else kind
    if origin is collections.abc.Callable and typing.get_args(base := inner[-1]):
        base = typing.get_args(base)[0]
    if inspect.isclass(base) and (below := [cls for cls in known_classes() if issubclass(cls, base)]):
        cls = chance.choice(below)
        found: dict[str, Any] = {"class_path": f"{cls.__module__}.{cls.__qualname__}"}
        if (names := arguments(cls)) and chance.random() < 0.4:
            name = chance.choice(names)
            found["init_args"] = {name: fitting(hints(cls).get(name), chance)}
        return found
    return copy.deepcopy(chance.choice(VALUES))


def mutated(tree: dict[str, Any], chance: random.Random) -> str:
    """The text of a configuration with one or two things changed: mostly values of the right type.

    Args:
        tree: from ``small``.
        chance: draws them.
    """
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((1, 1, 1, 2))):
        kind = chance.choice(("argument",) * 12 + ("trainer",) * 3 + ("value", "value", "key", "gone", "list"))
        found = [place for place in places(tree) if kind != "argument" or place[-1] == "class_path"]
        if not found:
            continue
        *parents, last = chance.choice(found)
        node: Any = tree
        for part in parents:
            node = node[part]
        if kind == "value":
            node[last] = copy.deepcopy(chance.choice(VALUES))
        elif kind == "argument":
            cls = imported(str(node[last]))
            given = node.setdefault("init_args", {})
            if isinstance(given, dict) and cls is not None and (names := arguments(cls)):
                name = chance.choice(names)
                given[name] = fitting(hints(cls).get(name), chance)
        elif kind == "trainer" and isinstance(tree.get("trainer"), dict):
            name = chance.choice(arguments(Trainer))
            tree["trainer"][name] = fitting(hints(Trainer).get(name), chance)
        elif kind == "key" and isinstance(node, dict):
            at = chance.randrange(len(str(last)))
            node[str(last)[:at] + chance.choice(("", "x", "_", ".", "+")) + str(last)[at + 1 :]] = node.pop(last)
        elif kind == "gone" and isinstance(node, dict):
            del node[last]
        else:
            node[last] = [node[last], *([copy.deepcopy(node[last])] if chance.random() < 0.5 else [])]
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return scrambled(text, chance) if chance.random() < 0.12 else text


def scrambled(text: str, chance: random.Random) -> str:
    """A text with characters or lines changed."""
    lines = text.splitlines()
    row = chance.randrange(len(lines))
    match chance.choice(("value", "value", "value", "cut", "character", "line", "twice", "indent")):
        case "value":
            valued = [i for i, line in enumerate(lines) if ": " in line]
            row = chance.choice(valued or [row])
            lines[row] = f"{lines[row].partition(': ')[0]}: {chance.choice(TEXTS)}"
        case "cut":
            return text[: chance.randrange(len(text))]
        case "character":
            at = chance.randrange(len(text))
            return text[:at] + chance.choice("{}[]:-?&*!|>'\"%@`#,\t\n 0x\x7f") + text[at + 1 :]
        case "line":
            del lines[row]
        case "twice":
            lines.insert(row, lines[row])
        case "indent":
            lines[row] = "  " + lines[row]
    return "\n".join(lines) + "\n"


def imported(path: str) -> Any:
    """The class at a path, or the public one of that name; None if there is none."""
    from dinopl.cli.config import import_class

    return import_class(path) or next((cls for cls in known_classes() if cls.__name__ == path), None)


def arguments(cls: Any) -> list[str]:
    """Names of a constructor's arguments."""
    try:
        return [name for name in inspect.signature(cls).parameters if name not in (*NOT_CHANGED, "args", "kwargs")]
    except (TypeError, ValueError):
        return []


_CLASSES: list[type] = []


def known_classes() -> list[type]:
    """Public classes of ours, torch's layers and optimisers, Lightning's callbacks, in a fixed order."""
    if not _CLASSES:
        from torch import nn

        from dinopl.cli.tools.schema import Classes

        named = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in Classes().paths}
        named |= {f"torch.nn.{name}": getattr(nn, name) for name in ("ReLU", "Linear", "MSELoss", "CrossEntropyLoss")}
        left_out = ("WandbLogger", "MLFlowLogger", "CometLogger", "NeptuneLogger", "LitLogger", "DeviceStatsMonitor")
        _CLASSES.extend(named[path] for path in sorted(named) if named[path].__name__ not in left_out)
    return _CLASSES


def case(seed: int, number: int, folder: Path, trees: dict[Path, dict[str, Any]]) -> tuple[str, str]:
    """The file that a case begins with, by its name, and its text."""
    chance = random.Random(f"{seed}/{number}")
    file = chance.choice(FILES)
    if file not in trees:
        trees[file] = small(file, folder)
    return str(file.relative_to(CONFIGS)), mutated(trees[file], chance)


def outcome(text: str) -> str:
    """Runs a configuration up to its first step, in the working directory.

    Returns:
        "ran" or "refused"; anything else is what went wrong.
    """
    from dinopl.cli import main, runs
    from dinopl.training import RunFolder

    def stop(*_: object) -> None:
        raise FirstStepDoneError

    def too_long(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    Path("case.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    before = set(Path().rglob("*"))
    shown = io.StringIO()
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(RunFolder, "on_train_batch_end", stop)
        patch.setattr(runs, "show_summary", lambda folder: None)
        try:
            with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
                code: Any = main(["fit", "--config", "case.yaml"])
        except FirstStepDoneError:
            return "ran"
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if str(ROOT) in f.filename and "site-packages" not in f.filename] or frames
            where = (
                f"{Path(ours[-1].filename).name}:{ours[-1].name}, {Path(frames[-1].filename).name}:{frames[-1].name}"
            )
            return f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:200]}"
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
    said = [line for line in shown.getvalue().splitlines() if line.strip()]
    if code == 0:
        return "ran"
    if code != 2:
        return f"exit code {code}"
    if len(said) > 3 or sum(map(len, said)) > 1500:
        return f"{len(said)} lines, {sum(map(len, said))} characters: {said[0][:100]}"
    if not any(line.startswith("dinopl: error: ") for line in said):
        return f"no error line: {said}"
    if written := [path for path in set(Path().rglob("*")) - before if path.is_file()]:
        return f"refused, and wrote {sorted(map(str, written))[:3]}: {said[-1][:200]}"
    if Path("MARKER").exists():
        return "the payload ran"
    if os.environ.get("FUZZ_SHOW"):
        sys.stderr.write(f"{said[-1][:260]}\n")
    return "refused"


def cases(seed: int, numbers: range, each: Callable[[int, str, str, str], None]) -> None:
    """Runs cases in a folder each; ``each`` gets the number, the file, the text and the outcome."""
    trees: dict[Path, dict[str, Any]] = {}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as corpora:
        for number in numbers:
            with tempfile.TemporaryDirectory() as folder:
                file, text = case(seed, number, Path(corpora), trees)
                os.chdir(folder)
                try:
                    each(number, file, text, outcome(text))
                finally:
                    os.chdir(here)


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description="Shipped configurations with something wrong in them.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="a folder for the configurations that failed")
    parser.add_argument("--here", action="store_true", help="all cases in this process")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.cases)
    if not options.here:
        lost = 0
        keep = ["--keep", str(options.keep)] if options.keep else []
        for first in numbers[::100]:
            count = min(100, numbers.stop - first)
            words = ["--seed", str(options.seed), "--first", str(first), "--cases", str(count), "--here", *keep]
            lost += subprocess.run([sys.executable, "-m", "tests.fuzz.mutations", *words], cwd=ROOT).returncode
        sys.stdout.write(f"{len(numbers)} cases, {lost} lost\n")
        return min(lost, 100)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    counts: Counter[str] = Counter()

    def each(number: int, file: str, text: str, found: str) -> None:
        counts[found if found in ("ran", "refused") else "lost"] += 1
        if found not in ("ran", "refused"):
            sys.stdout.write(f"LOST {number} {file}: {found}\n")
            sys.stdout.flush()
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.seed}-{number}.yaml").write_text(text, errors="surrogatepass")

    cases(options.seed, numbers, each)
    sys.stdout.write(f"{numbers.start} to {numbers.stop - 1}: {dict(counts)}\n")
    return min(counts["lost"], 100)


if __name__ == "__main__":
    raise SystemExit(main())
