"""``dinopl cite``: the entries are BibTeX, each class exists, and a run's own classes are cited."""

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule

from dinopl.cli import main
from dinopl.cli.tools.cite import CITATIONS, FAMILIES, REFERENCES, citations_of
from dinopl.data import CIFAR100Images, FashionMNISTImages, NoiseImages
from dinopl.encoders import MiniVGG, ResNet18
from fprnn.layers import DenseRNN
from tests.dinopl.cli.test_mistakes import said
from tests.dinopl.reports.run_trees import write_run

ENTRIES = list(REFERENCES.items())
ELSEWHERE = {place: keys for place, keys in CITATIONS.items() if "." in place}
NEEDED = {
    "inproceedings": {"title", "author", "booktitle", "year"},
    "article": {"title", "author", "journal", "year"},
    "techreport": {"title", "author", "institution", "year"},
    "misc": {"title", "author", "year"},
}
FIELD = re.compile(r"^  (\w+) *= (\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}),$", re.MULTILINE)


def parse(entry: str) -> tuple[str, str, dict[str, str]]:
    """Type, key and fields of an entry; whatever is not part of these makes it fail."""
    head = re.match(r"@(\w+)\{(\w+),\n", entry)
    assert head, entry
    fields = FIELD.findall(entry)
    assert FIELD.sub("", entry[head.end() :]).strip() == "}", entry
    assert len(dict(fields)) == len(fields)
    return head[1], head[2], {name: value[1:-1] for name, value in fields}


@pytest.mark.parametrize(("key", "entry"), ENTRIES, ids=[key for key, _ in ENTRIES])
def test_an_entry_is_bibtex(key: str, entry: str) -> None:
    kind, own_key, fields = parse(entry)
    assert own_key == key
    assert NEEDED[kind] <= fields.keys()
    assert entry.isascii()  # accents are TeX's
    authors = re.split(r"\s+and\s+", fields["author"])
    assert all(re.fullmatch(r"[^,]+, [^,]+", author) for author in authors)
    assert key.startswith(re.sub(r"\W", "", authors[0].split(",")[0].split()[-1]).lower())
    assert fields["year"] in key
    assert 1950 < int(fields["year"]) < 2030
    assert re.fullmatch(r"\d+--\d+", fields.get("pages", "1--2"))


def test_keys_and_titles_are_there_once() -> None:
    keys = [key for key, _ in ENTRIES]
    titles = [parse(entry)[2]["title"].lower() for _, entry in ENTRIES]
    assert len(set(keys)) == len(keys)
    assert len(set(titles)) == len(titles)


def classes(package: str) -> dict[str, type]:
    """All classes in a package's modules."""
    found_there: dict[str, type] = {}
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not found.name.startswith(("dinopl.cli", "dinopl.__main__")) and "triton" not in found.name:
            module = importlib.import_module(found.name)
            found_there |= {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return found_there


def test_classes_and_entries_belong_together() -> None:
    there = {package: classes(package) for package in FAMILIES}
    assert set(CITATIONS) - set(ELSEWHERE) <= {name for found in there.values() for name in found}
    for package, found in there.items():
        modules = [c for c in found.values() if issubclass(c, LightningModule) and c.__module__.startswith(package)]
        families = [cls for cls in modules if hasattr(cls, "family")]
        assert families
        assert all(citations_of(cls) for cls in families)
    assert {key for keys in CITATIONS.values() for key in keys} == set(REFERENCES)


def test_classes_of_other_packages_exist() -> None:
    for place, keys in ELSEWHERE.items():
        module, _, name = place.rpartition(".")
        homes = [importlib.import_module(home) for home in (module, "torch.optim.lr_scheduler")]
        (cls,) = {getattr(home, name) for home in homes if hasattr(home, name)}
        assert [parse(entry)[1] for entry in citations_of(cls)] == list(keys)


def test_a_class_goes_with_its_nearest_base() -> None:
    def keys(cls: type) -> list[str]:
        return [parse(entry)[1] for entry in citations_of(cls)]

    assert keys(MiniVGG) == ["simonyan2015very"]
    assert keys(ResNet18) == ["he2016deep"]
    assert keys(FashionMNISTImages) == ["xiao2017fashion"]  # and not MNIST's, which it is derived from
    assert keys(CIFAR100Images) == ["krizhevsky2009learning"]
    assert keys(DenseRNN) == ["movahedi2025fixed"]
    assert keys(NoiseImages) == keys(torch.optim.SGD) == []

    class Own(MiniVGG):
        citation = "@misc{own2026, title = {Mine}}"

    class Derived(Own):
        pass

    assert citations_of(Derived) == [Own.citation]


def test_what_a_configuration_uses(capsys: pytest.CaptureFixture[str], config: str) -> None:
    words = ["--data.dataset", "TorchvisionImages", "--data.dataset.dataset", "torchvision.datasets.CIFAR100"]
    assert main(["cite", "--config", config, *words, "--model.optimizer", "SGD"]) == 0
    entries = re.findall(r"^% (.*)\n(@\w+\{\w+,\n(?:  .*\n)+\}\n)", capsys.readouterr().out, re.MULTILINE)
    assert {name: parse(entry.strip())[1] for name, entry in entries} == {
        "SelfDistillation": "sarnthein2023random",
        "MiniVGG": "simonyan2015very",
        "ProjectionHead": "caron2021emerging",  # a default would be cited as well
        "CIFAR100": "krizhevsky2009learning",
    }


def test_what_a_run_used(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_encoders.py").write_text(
        "class Cited:\n    citation = '@misc{own2026}'\nclass Uncited:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    layer = {"class_path": "fprnn.layers.DiagonalRNN", "init_args": {"mixer": {"class_path": "my_encoders.Cited"}}}
    model = {"class_path": "my_encoders.Uncited", "init_args": {"layers": [layer, layer]}}
    run = str(write_run(tmp_path, config={"model": model}))
    assert main(["cite", run]) == 2  # the folder may be of another's making
    assert "--trusted-modules NAME" in said(capsys)
    assert main(["cite", run, "--trusted-modules", "my_encoders"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^%.*|^@\w+\{\w+", out, re.MULTILINE) == [
        *("% DiagonalRNN", "@inproceedings{movahedi2025fixed", "% Cited", "@misc{own2026"),
        "% no citation is known of my_encoders.Uncited",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "no run folder nowhere"),
        (["file.yaml"], "file.yaml: is a file; give --config file.yaml."),
        (["run", "extra"], "takes no further words, got extra"),
        (["run"], "names elsewhere.Model, which a checkpoint may not import"),
        (["run", "--trusted-modules", "elsewhere"], "names elsewhere.Model, which is not there"),
        (["--config", "none.yaml"], "--config none.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, config={"model": {"class_path": "elsewhere.Model"}}).rename(tmp_path / "run")
    (tmp_path / "file.yaml").write_text("")
    assert main(["cite", *words]) == 2
    assert expected in said(capsys)
