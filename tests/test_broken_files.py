"""Broken, foreign and hostile files through every door that takes a file: one line, and no payload runs."""

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

import dinopl
from dinopl.cli import main
from dinopl.cli.config import Arguments
from dinopl.cli.resolve import Resolver
from dinopl.core.errors import UserMistake
from dinopl.core.files import read_yaml
from dinopl.core.types import ImageShape
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.module import SelfDistillation
from dinopl.distillation.network import draw_network
from dinopl.distillation.student_start import CheckpointStart
from dinopl.distillation.teachers import FrozenTeacher
from dinopl.encoders import MiniVGG
from dinopl.loading import export_weights
from dinopl.reports import runs
from fprnn.module import SequenceModeling
from kd import KnowledgeDistillation, NetworkTeacher, RunTeacher, SelfDistilledTeacher
from tests.dinopl.cli.conftest import CUT

ROOT = Path(__file__).parent.parent
SHAPE = ImageShape(1, 8, 8)
WEIGHT = "student.head.last_layer.weight"


class Payload:
    """Leaves a marker if it is unpickled by a loader that runs what it reads."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("MARKER"),))


def assert_one_line(text: str) -> None:
    assert "\n" not in text
    assert 0 < len(text) < 1100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which no marker may appear."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evilmod.py").write_text("open('MARKER', 'w').close()\nclass Net:\n    pass\n")
    yield tmp_path
    assert "evilmod" not in sys.modules
    assert not (tmp_path / "MARKER").exists()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run of the main job."""
    place = tmp_path_factory.mktemp("good")
    words = ["fit", "--config", str(ROOT / "configs" / "random_teacher.yaml"), *CUT]
    assert main([*words, f"--trainer.default_root_dir={place}", "--test_after_fit=false"]) == 0
    return next(place.glob("*/*/checkpoints/last.ckpt"))


@pytest.fixture(scope="module")
def resolvers() -> dict[str, Resolver]:
    """The real command, up to the complete configuration; its parser is made once."""
    return {command: Resolver(command) for command in ("fit", "validate", "test", "predict")}


def changed(**parts: Any) -> Callable[[Path, Path], None]:
    """A checkpoint with other entries at its top."""

    def write(good: Path, path: Path) -> None:
        torch.save(torch.load(good, weights_only=True) | parts, path)

    return write


def ours(**parts: Any) -> Callable[[Path, Path], None]:
    """A checkpoint with other entries of this project's."""

    def write(good: Path, path: Path) -> None:
        content = torch.load(good, weights_only=True)
        content["dinopl"] |= parts
        torch.save(content, path)

    return write


def flipped(good: Path, path: Path) -> None:
    """One bit of one weight."""
    content = bytearray(good.read_bytes())
    weight = torch.load(good, weights_only=True)["state_dict"][WEIGHT]
    content[content.index(weight.numpy().tobytes()) + 8] ^= 1
    path.write_bytes(content)


def configured(encoder: Any) -> Callable[[Path, Path], None]:
    """A checkpoint whose configuration names another encoder."""

    def write(good: Path, path: Path) -> None:
        content = torch.load(good, weights_only=True)
        content["dinopl"]["config"]["model"]["init_args"]["encoder"] = encoder
        torch.save(content, path)

    return write


FILES: dict[str, Callable[[Path, Path], Any]] = {
    "empty": lambda good, path: path.touch(),
    "a folder": lambda good, path: path.mkdir(),
    "text": lambda good, path: path.write_text("epochs: 3\n"),
    "truncated": lambda good, path: path.write_bytes(good.read_bytes()[: good.stat().st_size // 2]),
    "one bit flipped": flipped,
    "payload": changed(callbacks=Payload()),
    "payload in a plain pickle": lambda good, path: path.write_bytes(pickle.dumps(Payload())),
    "payload in the state": changed(state_dict={"student.encoder.x": Payload()}),
    "payload in the configuration": configured({"class_path": "evilmod.Net"}),
    "payload as text": configured("evilmod.Net"),
    "payload of a function": configured(
        {"class_path": "dinopl.core.files.os.popen", "init_args": {"cmd": "touch MARKER"}}
    ),
    "of another family": ours(family="Other"),
    "a family that is no text": ours(family=["SelfDistillation"]),
    "bare state": lambda good, path: torch.save(torch.load(good, weights_only=True)["state_dict"], path),
    "of another version": changed(**{"pytorch-lightning_version": 7}),
    "loops": changed(loops=[1]),
    "callbacks": changed(callbacks=3),
    "optimiser states": changed(optimizer_states=[3]),
    "schedules": changed(lr_schedulers={"a": 1}),
    "names of weights": changed(state_dict={1: torch.ones(1)}),
}
ANY = set(FILES)
# What a door does not read at all, or may well read: a plain file of tensors, and weights without a configuration.
CONFIGURATION = {"payload in the configuration", "payload as text", "payload of a function"}
FOREIGN = {"bare state", "of another family", "a family that is no text"}
UNREAD = {"of another version", "loops", "callbacks", "optimiser states", "schedules", "names of weights"}


ENCODER = partial(MiniVGG, widths=(4, 4))
HEAD = partial(ProjectionHead, hidden=(8,), bottleneck_dim=4, out_dim=16)


def network() -> Any:
    return draw_network(ENCODER, HEAD, SHAPE, 0)


def loaded_module(path: Path, family: type[LightningModule]) -> Any:
    parts: Any = {
        SelfDistillation: {"encoder": ENCODER, "head": HEAD, "image_shape": SHAPE},
        KnowledgeDistillation: {"input_shape": SHAPE, "num_classes": 10},
        SequenceModeling: {"vocab_size": 4, "num_targets": 2},
    }
    return family.load_from_checkpoint(path, strict=False, **parts[family])


def tool(*words: str) -> Callable[[Path], None]:
    """A door of the command: its one line is raised, as the other doors raise theirs."""

    def run(path: Path) -> None:
        from dinopl.cli.main import _dispatch

        _dispatch([word.format(path) for word in words])

    return run


DOORS: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "FrozenTeacher": (lambda path: FrozenTeacher(checkpoint=path).draw(lambda seed: network()), CONFIGURATION),
    "CheckpointStart": (lambda path: CheckpointStart(path)(network(), lambda seed: network()), CONFIGURATION),
    "SelfDistilledTeacher": (lambda path: SelfDistilledTeacher(str(path)).load(SHAPE, 16), set()),
    "RunTeacher": (lambda path: RunTeacher(str(path)).load(SHAPE, 10), set()),
    "NetworkTeacher": (
        lambda path: NetworkTeacher(lambda shape, classes: network(), str(path), "student.").load(SHAPE, 16),
        CONFIGURATION | FOREIGN | UNREAD - {"names of weights"},
    ),
    "load_encoder": (dinopl.load_encoder, set()),
    "export_weights": (lambda path: export_weights(path, "out.safetensors"), CONFIGURATION),
    "dinopl export": (tool("export", "--ckpt_path", "{}", "--output", "out.safetensors"), CONFIGURATION),
    "SelfDistillation.load": (partial(loaded_module, family=SelfDistillation), CONFIGURATION),
    "KnowledgeDistillation.load": (partial(loaded_module, family=KnowledgeDistillation), set()),
    "SequenceModeling.load": (partial(loaded_module, family=SequenceModeling), set()),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_refused_at_every_door(good: Path, name: str) -> None:
    path = Path("broken.ckpt")
    FILES[name](good, path)
    for door, (take, taken) in DOORS.items():
        if name in taken:
            take(path)
            continue
        with pytest.raises((ValueError, OSError, UserMistake)) as refused:
            take(path)
        assert_one_line(str(refused.value))
        assert "broken.ckpt" in str(refused.value), door
    assert not Path("MARKER").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_refused_by_every_run(good: Path, resolvers: dict[str, Resolver], name: str) -> None:
    path = Path("broken.ckpt")
    FILES[name](good, path)
    for command, resolver in resolvers.items():
        with pytest.raises(UserMistake) as refused:
            resolver(Arguments.parse(command, ["--ckpt_path", str(path)]))
        assert str(refused.value).startswith("--ckpt_path "), command
        assert_one_line(str(refused.value))
    assert not Path("MARKER").exists()


def test_the_whole_checkpoint_passes_every_door(good: Path, resolvers: dict[str, Resolver]) -> None:
    for command, resolver in resolvers.items():
        assert resolver(Arguments.parse(command, ["--ckpt_path", str(good)]))["model"]
    of_another_family = ("RunTeacher", "KnowledgeDistillation.load", "SequenceModeling.load")
    for door, (take, _) in DOORS.items():
        if not door.startswith(of_another_family):
            take(good)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("loops", "fit_loop", "epoch_progress"), 3),
        (("loops", "fit_loop", "epoch_progress", "current", "processed"), "one"),
        (("loops", "fit_loop", "epoch_loop.batch_progress", "current"), None),
        (("loops", "test_loop"), None),
        (("callbacks", "ProbeCallback"), 3),
        (("random_states",), 3),
        (("optimizer_states", 0, "state"), []),
        (("optimizer_states", 0, "param_groups"), []),
        (("dinopl", "metrics"), 3),
        (("state_dict", WEIGHT), "text"),
    ],
)
def test_a_checkpoint_broken_further_inside_is_refused_in_one_line(
    good: Path, capsys: pytest.CaptureFixture[str], place: tuple[Any, ...], value: Any
) -> None:
    content = torch.load(good, weights_only=True)
    node = content
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    torch.save(content, "broken.ckpt")
    command = "test" if "test_loop" in place else "fit"
    assert main([command, "--ckpt_path", "broken.ckpt", "--trainer.max_epochs=2"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    assert "--ckpt_path" in line
    assert_one_line(line)


def exported(good: Path, path: Path) -> bytearray:
    return bytearray(export_weights(good, path).read_bytes())


def header(content: bytearray, **facts: Any) -> bytes:
    """An exported file with other metadata of ours; ``text`` replaces them whole."""
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length])
    found["__metadata__"]["dinopl"] = facts.get("text", json.dumps(json.loads(found["__metadata__"]["dinopl"]) | facts))
    written = json.dumps(found).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


EXPORTS: dict[str, Callable[[bytearray], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: bytes(content[:-20]),
    "one bit flipped": lambda content: bytes([*content[:-9], content[-9] ^ 1, *content[-8:]]),
    "a long header": lambda content: (2**62).to_bytes(8, "little") + content[8:],
    "payload": lambda content: pickle.dumps(Payload()),
    "no metadata": lambda content: header(content, text="{"),
    "a list": lambda content: header(content, text="[]"),
    "deep metadata": lambda content: header(content, text="[" * 100_000),
    "no image shape": lambda content: header(content, image_shape=None),
    "a text for a shape": lambda content: header(content, image_shape="188"),
    "a shape of nothing": lambda content: header(content, image_shape=[0, -1, 8]),
    "payload in the metadata": lambda content: header(content, encoder={"class_path": "evilmod.Net"}),
    "no encoder": lambda content: header(content, encoder=None),
    "a class that is no network": lambda content: header(content, encoder={"class_path": "dinopl.probes.KNNProbe"}),
    "another encoder": lambda content: header(content, encoder={"class_path": "dinopl.encoders.MiniVGG"}),
    "arguments that do not fit": lambda content: header(
        content, encoder={"class_path": "dinopl.encoders.MiniVGG", "init_args": {"widths": ["a"]}}
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_broken_export_is_refused(good: Path, name: str) -> None:
    path = Path("broken.safetensors")
    whole = exported(good, path)
    dinopl.load_encoder(path)
    path.write_bytes(EXPORTS[name](whole))
    with pytest.raises(ValueError, match=r"broken\.safetensors") as refused:
        dinopl.load_encoder(path)
    assert_one_line(str(refused.value))


def test_an_export_of_before_the_checksum_is_read(good: Path) -> None:
    path = Path("old.safetensors")
    content = exported(good, path)
    facts = json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["dinopl"])
    path.write_bytes(header(content, text=json.dumps({key: facts[key] for key in facts if key != "crc32"})))
    dinopl.load_encoder(path)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
YAMLS: dict[str, bytes] = {
    "empty": b"",
    "bytes": bytes(range(256)),
    "truncated": b"model: {class_path: Self",
    "a list": b"- model\n",
    "text": b"model\n",
    "a key twice": b"name: a\nname: b\n",
    "payload": b"name: !!python/object/apply:os.system ['touch MARKER']\n",
    "payload of a class": b"name: !!python/name:evilmod.Net ''\n",
    "an alias to itself": b"&a model: &b {x: *b}\n",
    "aliases of aliases": BOMB.encode(),
    "3000 brackets": b"name: " + b"[" * 3000,
    "5000 digits": b"name: " + b"9" * 5000,
    "no date": b"name: !!timestamp 2026-99-99\n",
    "no integer": b"name: !!int x\n",
    "no truth": b"name: !!bool x\n",
    "bytes in base 64": b"name: !!binary aGVsbG8=\n",
    "a set": b"name: !!set {a, b}\n",
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_broken_configuration_is_refused_at_every_door(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_bytes(YAMLS[name])
    base = str(ROOT / "configs" / "random_teacher.yaml")
    run = Path("runs/a/20260101-000000-00000000")
    run.mkdir(parents=True)
    (run / "config.yaml").write_bytes(YAMLS[name])
    harmless = name in ("empty", "a list", "text")  # an unfinished run without a configuration
    for words in (
        *(["fit", "--config", "broken.yaml"], ["predict", "--config", base, "--config", "broken.yaml"]),
        *(["cite", "--config", "broken.yaml"], ["sweep", "--config", base, "--sweep", "broken.yaml"]),
        *(["sweep", "--config", "broken.yaml", "--sweep", "broken.yaml"], ["cite", str(run)]),
        *(["report", "runs"], ["runs", "ls"], ["runs", "best", "--metric", "x"]),
    ):
        code = main(words)
        error = capsys.readouterr().err
        assert code == 2 or (harmless and words[0] in ("report", "runs")), words
        if code == 2:
            assert_one_line(error.removesuffix("\n"))
            assert error.startswith("dinopl: error: ")
    assert {path.name for path in Path().iterdir()} <= {"broken.yaml", "runs", "evilmod.py", "__pycache__"}
    assert not Path("MARKER").exists()


def test_plain_yaml_is_read_as_before() -> None:
    text = "a: {b: [1, 2.5, true, null, text], 3: x}\nday: 2026-12-01\nc: &c {d: 1}\ne: *c\nf: {<<: *c, g: 2}\n"
    expected = yaml.safe_load(text.replace("2026-12-01", "'2026-12-01'"))
    assert read_yaml(text) == expected


RESULTS: dict[str, Any] = {
    "status": "finished",
    "command": "fit",
    "metrics": {"test/accuracy": 0.5},
    "started": "2026-01-01T00:00:00+00:00",
    "config": {"model": {"class_path": "dinopl.SelfDistillation"}, "seed_everything": 0},
}
DAMAGED: dict[str, Any] = {
    "metrics": [3],
    "config": [1],
    "versions": "1",
    "status": 7,
    "command": ["fit"],
    "started": 3,
    "seed": "a",
    "duration_s": "long",
    "family": {},
    "stages": 3,
    "resumed_from": 1,
}
JSONS: dict[str, bytes] = {
    "empty": b"",
    "bytes": bytes(range(256)),
    "truncated": json.dumps(RESULTS).encode()[:-30],
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "5000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "no date": json.dumps(RESULTS | {"started": "2026-99-99"}).encode(),
    "a metric": json.dumps(RESULTS | {"metrics": {"test/accuracy": "high"}}).encode(),
    "a model": json.dumps(RESULTS | {"config": {"model": {"class_path": 3}}}).encode(),
    "a trainer": json.dumps(RESULTS | {"config": {"trainer": [3], "test_after_fit": True}}).encode(),
    **{key: json.dumps(RESULTS | {key: value}).encode() for key, value in DAMAGED.items()},
}
TOOLS = (["report", "runs"], ["runs", "ls"], ["runs", "best", "--metric", "test/accuracy"], ["report", "--compare"])


@pytest.mark.parametrize("name", JSONS)
def test_a_broken_run_folder_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/a/20260101-000000-00000000")
    run.mkdir(parents=True)
    (run / "results.json").write_bytes(JSONS[name])
    with pytest.raises(ValueError, match=r"results\.json") as refused:
        runs("runs")
    assert_one_line(str(refused.value))
    for words in [*TOOLS, ["cite", str(run)]]:
        more = [str(run), str(run)] if "--compare" in words else []
        assert main([*words, *more]) == 2, words
        error = capsys.readouterr().err
        assert "results.json" in error
        assert_one_line(error.removesuffix("\n"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("study.json", text) for text in ("", "[]", '{"axes": 3, "by": 3}', '{"x": 3}', '{"metric": [1]}')),
        *(("study.json", text) for text in ('{"variants": 3}', '{"log": 1}', "[" * 100_000)),
        *(("trial.json", text) for text in ("", "[]", "{", "[" * 100_000)),
        *(("metrics.csv", text) for text in ("\udcff\n", "a,b\n" + "x" * 200_000 + ",1\n")),
    ],
)
def test_broken_files_beside_the_results_are_refused(
    file: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Path("runs/study")
    run = study / "trials/one/20260101-000000-00000000"
    run.mkdir(parents=True)
    (study / "study.json").write_text("{}")
    (run.parent / "trial.json").write_text('{"options": {}}')
    (run / "results.json").write_text(json.dumps(RESULTS))
    assert main(["runs", "ls"]) == 0
    place = {"study.json": study, "trial.json": run.parent, "metrics.csv": run}[file]
    (place / file).write_text(content, encoding="utf-8", errors="surrogateescape")
    capsys.readouterr()
    if file == "metrics.csv":
        from dinopl.reports import Run

        with pytest.raises(ValueError, match=r"metrics\.csv"):
            Run.load(run)
        return
    for words in (["runs", "ls"], ["report", "runs/study"]):
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert file in error
        assert_one_line(error.removesuffix("\n"))


SWEEPS: list[Any] = [
    *(
        {"grid": 3},
        {"grid": [[1]]},
        {"grid": {"a.b": 3}},
        {"grid": {"a": {}}},
        {"grid": {1: [1]}},
        {1: 2},
        {"set": {1: 2}},
    ),
    *({"seeds": "many"}, {"seeds": {"a": 1}}, {"search": {}, "trials": "x"}, {"name": ["a"]}, {"name": "../x"}),
    *({"variants": [1]}, {"variants": {"a": 3}}, {"shared": {"a": 3}}, {"reference": {"m": [1]}}, {"by": {"a": 1}}),
    *(
        {"grid": {"a": {"from": "x", "to": 1}}},
        {"grid": {"a": {"from": 1, "to": 2, "number": 10**18}}},
        {"config": {"a": 1}},
    ),
    *({"seeds": 10**18}, {"grid": {"a": {"from": 0, "to": 1e300, "step": 1e-300}}}),
]


@pytest.mark.parametrize("content", SWEEPS, ids=str)
def test_a_broken_sweep_file_is_refused(content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text(yaml.safe_dump(content))
    words = ["sweep", "--config", str(ROOT / "configs" / "random_teacher.yaml"), "--sweep", "broken.yaml"]
    assert main([*words, "--print-commands"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dinopl: error: ")
    assert_one_line(error.removesuffix("\n"))


def test_a_message_is_short_and_holds_nothing_that_a_terminal_obeys() -> None:
    text = str(UserMistake(f"--name: \x1b[2J\u202e{'x' * 20_000}\n\u2028; give another."))
    assert_one_line(text)
    assert text.isprintable()
    assert text.startswith("--name: ?[2J?xxx")
    assert text.endswith("xxx ; give another.")
