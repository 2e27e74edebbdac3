"""The stories of bAbI: reading its files, and writing small ones of the same form for trying things out.

bAbI v1.2 (Weston et al., "Towards AI-Complete Question Answering", 2015). A line is a number, then a statement, or a
question, its answer and the numbers of supporting lines, parted by tabs; a story ends where the numbers begin again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fprnn.tasks.corpus import read_utf8

SPLITS = ("train", "valid", "test")
"""bAbI's names for the splits, as in ``qa1_train.txt``."""

_PEOPLE = ("Mary", "John", "Sandra", "Daniel")
_PLACES = ("kitchen", "garden", "office", "hallway", "bathroom", "bedroom")
_THINGS = ("milk", "football", "apple")


def read_stories(path: Path) -> list[list[str]]:
    """Stories of a file, each a list of words.

    As in catbAbI (Schlag et al., "Learning Associative Inference Using Fast Weight Memory", ICLR 2021): lower case;
    "." and "?" are words; an answer is one word, even with commas, and follows its "?"; supporting lines are left out.

    Args:
        path: a bAbI file.

    Raises:
        ValueError: if the file is empty or not UTF-8, or a line is neither statement nor question.
    """
    stories: list[list[str]] = []
    content = read_utf8(path, f"root={path.parent}: {path.name}", "put bAbI's own file there", "utf-8")
    for number, line in enumerate(content.lower().splitlines(), 1):
        identity, _, text = line.strip().partition(" ")
        question, *rest = (part.strip() for part in text.split("\t"))
        asks = question.endswith("?") and bool(rest) and bool(rest[0]) and " " not in rest[0]
        if not identity.isdigit() or not (text.endswith(".") or asks):
            raise ValueError(
                f"root={path.parent}: {path.name}, line {number}, is neither a statement nor a question with its "
                "answer; put bAbI's own file there"
            )
        if identity == "1" or not stories:
            stories.append([])
        stories[-1] += [*text[:-1].split(), "."] if text.endswith(".") else [*question[:-1].split(), "?", rest[0]]
    if not stories:
        raise ValueError(f"root={path.parent}: {path.name} is empty; put bAbI's own file there")
    return stories


def write_stories(folder: str | Path, tasks: Sequence[int] = (1, 2, 3), count: int = 20, seed: int = 0) -> None:
    """Writes small made-up stories in the form of bAbI, for trying things out without the data.

    People go to places and take things. By its number, a task asks where a person is, whether one is in a place, or
    what one carries, which has answers of several words.

    Args:
        folder: where ``qa1_train.txt`` and so on are to lie; such as ``data/en-valid``. Made where it is missing.
        tasks: numbers of the tasks.
        count: training stories of a task; validation and test have a quarter each.
        seed: what the stories are drawn from.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    for task in tasks:
        for place, split in enumerate(SPLITS):
            generator = np.random.default_rng([seed, task, place])
            stories = (_story(generator, task) for _ in range(count if split == "train" else max(count // 4, 1)))
            lines = (f"{number} {line}\n" for story in stories for number, line in enumerate(story, 1))
            (Path(folder) / f"qa{task}_{split}.txt").write_text("".join(lines), encoding="utf-8")


def _story(generator: np.random.Generator, task: int, turns: int = 4) -> Iterator[str]:
    """Lines of a story: two moves, a thing taken, and a question a turn."""
    where: dict[str, str] = {}
    carried: dict[str, list[str]] = {person: [] for person in _PEOPLE}
    things = list(generator.permutation(_THINGS))
    for turn in range(turns):
        for person in generator.permutation(_PEOPLE)[:2].tolist():
            where[person] = str(generator.choice(_PLACES))
            yield f"{person} went to the {where[person]}."
        taker = str(generator.choice(list(where)))
        if things:
            carried[taker].append(str(things.pop()))
            yield f"{taker} took the {carried[taker][-1]}."
        yield _question(generator, task, taker, where[taker], carried[taker]) + f"\t{turn + 1}"


def _question(generator: np.random.Generator, task: int, person: str, place: str, carried: list[str]) -> str:
    """A question about a person and its answer."""
    if task % 3 == 1:
        return f"Where is {person}? \t{place}"
    if task % 3 == 2:
        asked = str(generator.choice([place, str(generator.choice(_PLACES))]))
        return f"Is {person} in the {asked}? \t{'yes' if asked == place else 'no'}"
    return f"What is {person} carrying? \t{','.join(carried) or 'nothing'}"
