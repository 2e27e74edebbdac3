"""catbAbI on stories written by hand and made up: words, order, labels, tasks; and every kind of bad folder."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fprnn.tasks import CatBAbI, LengthRange, SequenceDataModule, write_stories
from fprnn.tasks.stories import read_stories

CONFIGS = Path(__file__).parents[3] / "configs" / "fprnn"
HAND = """1 Mary moved to the bathroom.
2 Where is Mary? \tbathroom\t1
3 John took the milk.
1 The kitchen is north of the hall.
2 How do you go from the hall to the kitchen?\tn,N\t1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three tasks of different lengths, two folders below."""
    write_stories(tmp_path / "tasks_1-20_v1-2" / "en-valid", tasks=(1, 2, 3), count=12)
    return tmp_path


def words(task: CatBAbI, row: torch.Tensor) -> list[str]:
    return task.vocabulary.decode(row.tolist())


def told(root: Path, split: str, tasks: tuple[int, ...] = (1, 2, 3)) -> list[tuple[str, ...]]:
    """Stories of a split, read in another way: from the letters of the whole file."""
    stories = []
    for task in tasks:
        text = (root / "tasks_1-20_v1-2" / "en-valid" / f"qa{task}_{split}.txt").read_text().lower()
        for story in ("\n" + text).split("\n1 ")[1:]:
            lines = [line.lstrip("0123456789 ") for line in story.splitlines()]
            parts = [line.split("\t")[:2] for line in lines]
            spaced = " ".join(" ".join(part) for part in parts).replace(".", " .").replace("?", " ?")
            stories.append(tuple(spaced.split()))
    return stories


def test_stories_by_hand(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(HAND)
    assert [" ".join(story) for story in read_stories(tmp_path / "story.txt")] == [
        "mary moved to the bathroom . where is mary ? bathroom john took the milk .",
        "the kitchen is north of the hall . how do you go from the hall to the kitchen ? n,n",
    ]


def test_an_evaluation_tells_every_story_of_its_split_once(root: Path) -> None:
    task = CatBAbI(str(root), [1, 2, 3])
    for split, name in (("val", "valid"), ("test", "test")):
        batch = task.evaluation(split, np.arange(2, dtype=np.uint64), 7)  # type: ignore[arg-type]
        text = [word for row in batch["tokens"] for word in words(task, row)]
        assert text[0] == "<eos>"
        stories = [tuple(story.split()) for story in " ".join(text).replace("<pad>", "").split("<eos>")]
        stories = [story for story in stories if story]
        assert Counter(stories) == Counter(told(root, name))
        assert stories != told(root, name)  # mixed, as in training
        again = task.evaluation(split, np.arange(9, dtype=np.uint64), 7)  # type: ignore[arg-type]
        assert torch.equal(again["tokens"], batch["tokens"])


def test_answers_are_asked_for_at_their_question_marks(root: Path) -> None:
    task = CatBAbI(str(root), [1, 2, 3])
    batch = task.evaluation("test", np.arange(1, dtype=np.uint64), 11)
    asked = [word for story in told(root, "test") for word in story].count("?")
    assert int(batch["mask"].sum()) == asked
    text, targets = batch["tokens"].flatten(), batch["targets"].flatten()
    places = batch["mask"].flatten().nonzero().flatten()
    assert {task.vocabulary.tokens[int(text[place])] for place in places} == {"?"}
    assert torch.equal(targets[places], text[places + 1])
    assert targets.count_nonzero() == asked
    whole = CatBAbI(str(root), [1, 2, 3], answers_only=False).evaluation("test", np.arange(1, dtype=np.uint64), 11)
    length = sum(len(story) + 1 for story in told(root, "test"))
    assert whole["mask"].flatten().tolist() == [True] * length + [False] * (-length % 11)
    assert torch.equal(whole["targets"].flatten()[: length - 1], text[1:length])
    assert int(whole["targets"].flatten()[length - 1]) == 1  # the last story ends


@given(st.integers(1, 60), st.integers(0, 40), st.integers(1, 9), st.integers(0, 2**62))
@settings(max_examples=30, deadline=None)
def test_a_training_sequence_is_a_piece_of_one_stream(
    stories: CatBAbI, length: int, first: int, count: int, stream: int
) -> None:
    lengths = LengthRange(length, length)
    whole = stories.training(stream, 0, first + count, lengths)
    part = stories.training(stream, first, count, lengths)
    assert all(torch.equal(part[key], whole[key][first:]) for key in part)  # type: ignore[literal-required]
    text = whole["tokens"].flatten()
    scored = whole["mask"].flatten()[:-1]
    assert torch.equal(whole["targets"].flatten()[:-1][scored], text[1:][scored])


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> CatBAbI:
    folder = tmp_path_factory.mktemp("babi")
    write_stories(folder / "en-valid", tasks=(1, 2), count=6)
    return CatBAbI(str(folder), tasks=[1, 2])


def test_each_pass_tells_every_story_once_in_another_order(root: Path) -> None:
    task = CatBAbI(str(root), [1, 2, 3])
    expected = told(root, "train")
    length = sum(len(story) + 1 for story in expected)
    orders = []
    for number in range(3):
        row = task.training(5, number, 1, LengthRange(length, length))["tokens"][0]
        passed = [tuple(story.split()) for story in " ".join(words(task, row)).split("<eos>")[1:]]
        assert Counter(passed) == Counter(expected)
        orders.append(passed)
    assert orders[0] != orders[1] != orders[2]
    other = task.training(6, 0, 1, LengthRange(length, length))["tokens"]
    assert not torch.equal(other, task.training(5, 0, 1, LengthRange(length, length))["tokens"])


def test_accuracy_of_each_task(root: Path) -> None:
    task = CatBAbI(str(root), tasks=[3, 1])
    data = SequenceDataModule(task, 9, eval_batch_size=4)
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for batch in data.test_dataloader()[0]:
        guesses = torch.where(torch.rand(batch["targets"].shape) < 0.5, batch["targets"], 2)
        measures = task.measures(guesses, batch)
        assert list(measures) == ["accuracy/task=1", "accuracy/task=3"]
        for name, (part, whole) in measures.items():
            number = int(name[-1])
            rows, columns = batch["mask"].nonzero(as_tuple=True)
            own = [
                (row, column)
                for row, column in zip(rows, columns, strict=True)
                if batch["task"][row, column] == number  # type: ignore[typeddict-item]
            ]
            assert int(part) == sum(int(guesses[place] == batch["targets"][place]) for place in own)
            assert int(whole) == len(own)
            right[name] += int(part)
            asked[name] += len(own)
    for number in (1, 3):
        count = [word for story in told(root, "test", (number,)) for word in story].count("?")
        assert asked[f"accuracy/task={number}"] == count
        assert 0 < right[f"accuracy/task={number}"] < count


def test_the_vocabulary_is_in_order_of_first_appearance(root: Path) -> None:
    tokens = CatBAbI(str(root), [1, 2, 3]).vocabulary.tokens
    text = [word for split in ("train", "valid", "test") for story in told(root, split) for word in story]
    assert tokens == ("<pad>", "<eos>", *dict.fromkeys(text))
    assert not any(token.isdigit() for token in tokens)
    assert "," in "".join(tokens)  # answers of several words are one


def test_made_up_stories_answer_themselves(tmp_path: Path) -> None:
    write_stories(tmp_path, tasks=(1, 2, 3), count=40, seed=3)
    asked = 0
    for task in (1, 2, 3):
        for story in read_stories(tmp_path / f"qa{task}_train.txt"):
            where: dict[str, str] = {}
            carried: dict[str, list[str]] = {}
            for sentence in " ".join(story).replace("? ", "?").split(" . "):
                while "?" in sentence:
                    question, _, rest = sentence.partition("?")
                    answer, _, sentence = rest.partition(" ")
                    person = question.replace("where is", "is").replace("what is", "is").split()[1]
                    expected = {
                        1: where[person],
                        2: "yes" if where[person] == question.split()[-1] else "no",
                        3: ",".join(carried.get(person, [])) or "nothing",
                    }[task]
                    assert answer == expected, story
                    asked += 1
                match sentence.split():
                    case [person, "went", "to", "the", place_name, *_]:
                        where[person] = place_name
                    case [person, "took", "the", thing, *_]:
                        carried.setdefault(person, []).append(thing)
    assert asked == 3 * 40 * 4
    write_stories(tmp_path / "again", tasks=(1,), count=40, seed=3)
    assert (tmp_path / "again" / "qa1_test.txt").read_text() == (tmp_path / "qa1_test.txt").read_text()


def test_the_folder_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [1, 2, 3]
    names = [str(root), str(root / "tasks_1-20_v1-2"), str(root / "tasks_1-20_v1-2" / "en-valid")]
    assert len({CatBAbI(name, tasks).vocabulary.fingerprint for name in names}) == 1
    monkeypatch.setenv("DINOPL_DATA", str(root))
    assert CatBAbI(tasks=tasks).vocab_size == CatBAbI(names[0], tasks).vocab_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": [21]}, r"tasks=\[21\]: there is no task 21; name tasks from 1 to 20"),
        ({"tasks": []}, r"tasks=\[\]: must be one or more different tasks"),
        ({"tasks": [1, 1]}, r"tasks=\[1, 1\]: must be .* name each once"),
        (
            {"tasks": [1, 2, 7]},
            r"tasks=.*: task 7 is missing, .*qa7_train.txt; complete .* leave the task out: \[1, 2\]",
        ),
        ({"size": "10k"}, "root=.*: has no folder en-valid-10k; unpack bAbI's"),
    ],
)
def test_a_bad_option_of_stories_is_refused(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        CatBAbI(str(root), **{"tasks": [1], **options})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "qa1_train.txt is empty"),
        ("1 Mary went.\nnonsense\n", "qa1_train.txt, line 2, is neither a statement nor a question"),
        ("1 Where is Mary?\n", "line 1, is neither"),
        ("1 Where is Mary? \tin the hall\t1\n", "line 1, is neither"),
    ],
)
def test_a_file_that_is_not_babis_is_refused(root: Path, text: str, message: str) -> None:
    (root / "tasks_1-20_v1-2" / "en-valid" / "qa1_train.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"root=.*{message}.*; put bAbI's own file there"):
        CatBAbI(str(root), [1])


def test_a_file_that_is_no_text_is_refused(root: Path) -> None:
    (root / "tasks_1-20_v1-2" / "en-valid" / "qa1_train.txt").write_bytes(b"1 caf\xe9.\n")
    with pytest.raises(ValueError, match=r"root=.*qa1_train.txt is not UTF-8 \(byte 5\); put bAbI's own"):
        CatBAbI(str(root), [1])


def test_all_tasks_of_the_small_set_are_the_default(tmp_path: Path) -> None:
    """Of the class and of the shipped configuration; and one task that lacks is named."""
    for size in ("en-valid", "en-valid-10k"):
        write_stories(tmp_path / size, tasks=range(1, 21), count=2 if size == "en-valid" else 4)
    options = yaml.safe_load((CONFIGS / "catbabi.yaml").read_text())["data"]["init_args"]["task"]
    assert options["class_path"] == "CatBAbI"
    shipped, plain = CatBAbI(str(tmp_path), **options["init_args"]), CatBAbI(str(tmp_path))
    for task in (shipped, plain):
        assert task.tasks == list(range(1, 21))
        batch = task.evaluation("test", np.arange(1, dtype=np.uint64), 20)
        assert batch["task"][batch["mask"]].unique().tolist() == task.tasks
        assert len(read_stories(tmp_path / "en-valid" / "qa1_train.txt")) * 20 == len(task._train.sizes)
    (tmp_path / "en-valid" / "qa13_valid.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"tasks=.*: task 13 is missing, there is no .*qa13_valid.txt"):
        CatBAbI(str(tmp_path))


def test_pieces_longer_than_a_split_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"train_length=20000: more than the \d+ words of a split"):
        SequenceDataModule(CatBAbI(str(root), [1]), train_length=20000)
