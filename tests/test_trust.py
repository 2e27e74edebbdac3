"""What a file of another's making names is not called, and not imported: hostile files through every door."""

import copy
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningModule
from safetensors.torch import save_file

import dinopl
from dinopl.cli.config import Arguments, class_paths
from dinopl.cli.resolve import Resolver
from dinopl.cli.tools.schema import Classes
from dinopl.core import moved, trust
from dinopl.core.errors import UserMistake
from dinopl.core.types import ImageShape
from dinopl.distillation.module import SelfDistillation
from kd import RunTeacher, SelfDistilledTeacher

ROOT = Path(__file__).parent.parent
TOUCH = "touch MARKER"
POPEN = {"class_path": "dinopl.core.files.os.popen", "init_args": {"cmd": TOUCH}}
UNPICKLE = {
    "class_path": "lightning.pytorch.core.saving.pl_load",
    "init_args": {"path_or_url": "second.ckpt", "weights_only": False},
}
FUNCTION = {
    "class_path": "dinopl.cli.tools.configs.configs",
    "init_args": {"arguments": ["cp", "random_teacher", "MARKER"]},
}

# Each stands where a class is expected.
HOSTILE: dict[str, Any] = {
    "attribute of a module that ours imported": POPEN,
    "the same as text": "dinopl.core.files.os.popen",
    "module of the working directory": {"class_path": "evilmod.Net"},
    "the same as text, as a plain string": "evilmod.Net",
    "the same in quotes within text": "'evilmod.Net'",
    "mapping within text": "{class_path: evilmod.Net}",
    "file with a mapping": "./evil.yaml",
    "Lightning unpickles a second file": UNPICKLE,
    "function of ours": FUNCTION,
    "the command itself": {"class_path": "dinopl.cli.main", "init_args": {"args": FUNCTION["init_args"]["arguments"]}},
    "module that runs when imported": {"class_path": "dinopl.__main__.main"},
    "built-in": {"class_path": "builtins.exec", "init_args": {"source": "open('MARKER', 'w')"}},
    "string in a listed class": {"class_path": "kd.EncoderClassifier", "init_args": {"encoder": "evilmod.Net"}},
    "class in a listed class": {"class_path": "kd.EncoderClassifier", "init_args": {"encoder": POPEN}},
    "what a listed class passes on": {"class_path": "kd.EncoderClassifier", "dict_kwargs": {"encoder": POPEN}},
    "activation function with arguments": {
        "class_path": "torch.nn.functional.silu",
        "init_args": {"input": {"class_path": "evilmod.Net"}},
    },
}

# Options of a class, or of a callable, by family.
PLACES = {
    "random_teacher": [
        *("model", "data", "model.encoder", "model.head", "model.teacher", "model.student", "model.loss"),
        *("model.optimizer", "model.lr_scheduler", "model.probes.0", "data.dataset", "data.views.0"),
        *("trainer.callbacks.0", "trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins.0"),
        *("trainer.profiler", "trainer.accelerator"),
    ],
    "fprnn/parity": [
        "model.layer",
        "model.layer.mixer",
        "model.layer.mixer.activation",
        "model.iterations",
        "data.task",
    ],
    "kd/digits": ["model.student", "model.student.encoder", "model.objective", "model.teacher", "data.data"],
}

# Classes that are listed, with arguments that reach further.
ARGUMENTS: dict[str, tuple[str, Any]] = {
    "lr_lambda": (
        "model.lr_scheduler",
        {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "dinopl.core.files.os.system"}},
    ),
    "lr_lambda of MultiplicativeLR": (
        "model.lr_scheduler",
        {"class_path": "torch.optim.lr_scheduler.MultiplicativeLR", "init_args": {"lr_lambda": POPEN}},
    ),
    "scale_fn": (
        "model.lr_scheduler",
        {
            "class_path": "torch.optim.lr_scheduler.CyclicLR",
            "init_args": {"base_lr": 0.1, "max_lr": 1.0, "scale_fn": "dinopl.core.files.os.system"},
        },
    ),
    "LambdaCallback": (
        "trainer.callbacks.0",
        {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": POPEN}},
    ),
    "LambdaCallback that unpickles": (
        "trainer.callbacks.0",
        {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": UNPICKLE}},
    ),
    "short name of a class": ("trainer.callbacks.0", "LambdaCallback"),
    "short name among words": ("trainer.strategy", "DDPStrategy"),
    "ModelPruning": (
        "trainer.callbacks.0",
        {"class_path": "lightning.pytorch.callbacks.ModelPruning", "init_args": {"pruning_fn": "evilmod.Net"}},
    ),
    "avg_fn": (
        "trainer.callbacks.0",
        {
            "class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging",
            "init_args": {"swa_lrs": 0.1, "avg_fn": "dinopl.core.files.os.system"},
        },
    ),
    "dirpath": (
        "trainer.callbacks.0",
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "/etc"}},
    ),
    "save_dir": (
        "trainer.logger",
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "../elsewhere"}},
    ),
    "another host": (
        "trainer.logger",
        {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking_uri": "http://evil"}},
    ),
    "LightningCLI": ("trainer.callbacks.0", {"class_path": "lightning.pytorch.cli.LightningCLI"}),
    "model_registry": ("trainer.model_registry", "somewhere"),
    "data set as text": (
        "data.dataset",
        {"class_path": "dinopl.data.TorchvisionImages", "init_args": {"dataset": "evilmod.Net"}},
    ),
    "data set that unpickles": (
        "data.dataset",
        {"class_path": "dinopl.data.TorchvisionImages", "init_args": {"dataset": "torchvision.datasets.LSUN"}},
    ),
    "class among plain arguments": (
        "data.dataset",
        {
            "class_path": "dinopl.data.TorchvisionImages",
            "init_args": {"dataset": "torchvision.datasets.CIFAR10", "train_args": {"transform": POPEN}},
        },
    ),
    "option with a dot": ("model.encoder", {"class_path.class_path": "evilmod.Net"}),
    "timm's hub": (
        "model.encoder",
        {"class_path": "kd.TimmClassifier", "init_args": {"name": "hf-hub:evil/net"}},
    ),
    "timm's file": (
        "model.encoder",
        {
            "class_path": "kd.TimmClassifier",
            "init_args": {"name": "vit", "arguments": {"checkpoint_path": "second.ckpt"}},
        },
    ),
    "timm's hub, for an encoder": (
        "model.encoder",
        {"class_path": "dinopl.encoders.TimmEncoder", "init_args": {"name": "hf-hub:evil/net"}},
    ),
    "timm's file, for an encoder": (
        "model.encoder",
        {
            "class_path": "dinopl.encoders.TimmEncoder",
            "init_args": {"name": "vit", "arguments": {"checkpoint_path": "second.ckpt"}},
        },
    ),
    "no mapping of arguments": ("model.encoder", {"class_path": "dinopl.encoders.MiniVGG", "init_args": "./evil.yaml"}),
    "trainer as text": ("trainer", "./evil.yaml"),
}


@pytest.fixture(autouse=True)
def hostile_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules and files leave a marker, which nothing may do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evilmod.py").write_text("open('MARKER', 'w').close()\nclass Net:\n    pass\n")
    (tmp_path / "evil.yaml").write_text("class_path: evilmod.Net\n")
    (tmp_path / "second.ckpt").write_bytes(b"cos\nsystem\n(S'touch MARKER'\ntR.")
    yield tmp_path
    sys.modules.pop("evilmod", None)
    assert not (tmp_path / "MARKER").exists()


@pytest.fixture(scope="module")
def resolvers() -> dict[str, Resolver]:
    """The real command, up to the complete configuration; its parser is made once."""
    return {command: Resolver(command) for command in ("fit", "test")}


@pytest.fixture(scope="module")
def configs(resolvers: dict[str, Resolver]) -> dict[str, Any]:
    """Complete configurations, as runs of three families store them."""
    files = {name: str(ROOT / "configs" / f"{name}.yaml") for name in PLACES}
    return {name: resolvers["fit"](Arguments.parse("fit", ["--config", file])) for name, file in files.items()}


def put(config: Any, place: str, value: Any) -> Any:
    """A copy of a configuration with another value at a dotted place; a place that ends in 0 is a list of one."""
    config = copy.deepcopy(config)
    *parents, last = place.split(".")
    if last == "0":
        last, value = parents.pop(), [value]
    node = config
    for part in parents:
        node = node[part]
        node = node.setdefault("init_args", {}) if "class_path" in node else node
    node[last] = value
    return config


def checkpoint(config: Any, family: str | None = None, path: str = "hostile.ckpt") -> str:
    """Writes a checkpoint that holds the configuration."""
    ours = {"family": family, "config": config, "image_shape": [1, 8, 8]}
    content = {"state_dict": {"student.encoder.weight": torch.ones(1), "teacher.x": torch.ones(1)}, "dinopl": ours}
    content |= {"pytorch-lightning_version": "2.6.0", "optimizer_states": [{}], "hyper_parameters": {}}
    torch.save(content, path)
    return path


def assert_one_line(text: str) -> None:
    assert len(text.splitlines()) <= 3
    assert len(text) < 1000


CASES = [(name, place, hostile) for name, places in PLACES.items() for place in places for hostile in HOSTILE]


@pytest.mark.parametrize("name", PLACES)
def test_no_place_of_a_configuration_takes_what_is_hostile(
    resolvers: dict[str, Resolver], configs: dict[str, Any], name: str
) -> None:
    for _, place, hostile in (case for case in CASES if case[0] == name):
        path = checkpoint(put(configs[name], place, HOSTILE[hostile]))
        with pytest.raises(UserMistake) as refused:
            resolvers["fit"](Arguments.parse("fit", ["--ckpt_path", path]))
        assert str(refused.value).startswith("--ckpt_path hostile.ckpt: its configuration "), (place, hostile)
        assert_one_line(str(refused.value))
        assert not Path("MARKER").exists(), (place, hostile)
        assert "evilmod" not in sys.modules


def test_there_are_enough_cases() -> None:
    assert len(CASES) + len(ARGUMENTS) >= 66
    assert len(HOSTILE) >= 10


@pytest.mark.parametrize("case", ARGUMENTS)
def test_no_argument_reaches_further_than_its_class(
    resolvers: dict[str, Resolver], configs: dict[str, Any], case: str
) -> None:
    path = checkpoint(put(configs["random_teacher"], *ARGUMENTS[case]))
    with pytest.raises(UserMistake, match=r"--ckpt_path hostile\.ckpt: its configuration ") as refused:
        resolvers["fit"](Arguments.parse("fit", ["--ckpt_path", path]))
    assert_one_line(str(refused.value))


@pytest.mark.parametrize("command", ["fit", "test", "predict", "validate"])
def test_the_command_refuses_in_one_line(
    run_main: Callable[..., int], configs: dict[str, Any], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    place = "trainer.callbacks.0" if command == "fit" else "model.encoder"
    path = checkpoint(put(configs["random_teacher"], place, HOSTILE["the same as text, as a plain string"]))
    before = set(Path().iterdir())
    assert run_main(command, "--ckpt_path", path) == 2
    error = capsys.readouterr().err
    assert error.startswith("dinopl: error: --ckpt_path hostile.ckpt: its configuration names evilmod.Net, ")
    assert "--config" in error
    assert "--trusted-modules" in error
    assert_one_line(error)
    assert set(Path().iterdir()) == before


def _resume(command: str, *words: str) -> Callable[..., None]:
    def door(config: Any, resolvers: dict[str, Resolver]) -> None:
        path = checkpoint(config)
        with pytest.raises(UserMistake):
            resolvers[command](Arguments.parse(command, ["--ckpt_path", path, *words]))

    return door


def _run_teacher(config: Any, resolvers: dict[str, Resolver]) -> None:
    student = config["model"]["init_args"]["encoder"]
    for spec in (student, {"class_path": "kd.EncoderClassifier", "init_args": {"encoder": student}}):
        path = checkpoint({"model": {"init_args": {"student": spec}}}, "KnowledgeDistillation")
        with pytest.raises(ValueError, match="makes no network") as refused:
            RunTeacher(path).load(ImageShape(1, 8, 8), 10)
        assert_one_line(str(refused.value))


def _self_distilled_teacher(config: Any, resolvers: dict[str, Resolver]) -> None:
    path = checkpoint(config, "SelfDistillation")
    with pytest.raises(ValueError, match="makes no network"):
        SelfDistilledTeacher(path).load(ImageShape(1, 8, 8), 10)


def _load_encoder(config: Any, resolvers: dict[str, Resolver]) -> None:
    with pytest.raises(ValueError, match="its encoder is") as refused:
        dinopl.load_encoder(checkpoint(config, "SelfDistillation"))
    assert_one_line(str(refused.value))


def _load_export(config: Any, resolvers: dict[str, Resolver]) -> None:
    metadata = {"image_shape": [1, 8, 8], "encoder": config["model"]["init_args"]["encoder"]}
    save_file({"student.encoder.weight": torch.ones(1)}, "hostile.safetensors", {"dinopl": json.dumps(metadata)})
    with pytest.raises(ValueError, match="its encoder is"):
        dinopl.load_encoder("hostile.safetensors")


def _load_from_checkpoint(config: Any, resolvers: dict[str, Resolver]) -> None:
    path = checkpoint(config)
    content = torch.load(path, weights_only=True)
    hyper_parameters = config["model"]["init_args"] | {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    torch.save(content | {"hyper_parameters": hyper_parameters}, path)
    with pytest.raises(ValueError, match="_instantiator"):
        SelfDistillation.load_from_checkpoint(path, image_shape=(1, 8, 8))
    torch.save(content, path)
    with pytest.raises((ValueError, RuntimeError)):  # of a part that it may not name, or of weights that do not fit
        SelfDistillation.load_from_checkpoint(path, image_shape=(1, 8, 8))


def _tool(*words: str) -> Callable[..., None]:
    """A tool reads a run folder or a checkpoint, whose configuration it may show but not call."""

    def door(config: Any, resolvers: dict[str, Resolver]) -> None:
        from dinopl.cli import main

        run = Path("runs/hostile/20260101-000000-00000000")
        run.mkdir(parents=True)
        results = {"status": "finished", "command": "fit", "metrics": {"test/accuracy": 0.5}, "config": config}
        (run / "results.json").write_text(json.dumps(results))
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        checkpoint(config, "SelfDistillation")
        assert main(list(words)) in (0, 2)

    return door


DOORS = {
    "fit": _resume("fit"),
    "fit with an overlay": _resume("fit", "--config", str(ROOT / "configs" / "overlays" / "debug.yaml")),
    "fit with an overlay of the model": _resume("fit", "--config", str(ROOT / "configs" / "overlays" / "long.yaml")),
    "test": _resume("test"),
    "RunTeacher": _run_teacher,
    "SelfDistilledTeacher": _self_distilled_teacher,
    "load_encoder of a checkpoint": _load_encoder,
    "load_encoder of an export": _load_export,
    "load_from_checkpoint": _load_from_checkpoint,
    "export": _tool("export", "--ckpt_path", "hostile.ckpt"),
    "report": _tool("report", "runs"),
    "report of two": _tool("report", "--compare", "runs/hostile", "runs/hostile"),
    "cite": _tool("cite", "runs/hostile/20260101-000000-00000000"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_hostile_files(
    resolvers: dict[str, Resolver], configs: dict[str, Any], door: str, hostile: str
) -> None:
    DOORS[door](put(configs["random_teacher"], "model.encoder", HOSTILE[hostile]), resolvers)
    assert not Path("MARKER").exists()
    assert "evilmod" not in sys.modules


def test_a_teachers_file_calls_nothing_that_is_no_network(configs: dict[str, Any]) -> None:
    other = {"class_path": "dinopl.probes.KNNProbe"}  # listed, but it makes no network
    path = checkpoint({"model": {"init_args": {"student": other}}}, "KnowledgeDistillation")
    with pytest.raises(ValueError, match="makes no network"):
        RunTeacher(path).load(ImageShape(1, 8, 8), 10)


def test_further_options_of_a_stored_configuration_are_dropped(configs: dict[str, Any]) -> None:
    more = {"config": "./evil.yaml", "ckpt_path": "second.ckpt", "weights_only": False, "evil": {"class_path": "x.Y"}}
    assert trust.checked_run(configs["random_teacher"] | more).keys() == configs["random_teacher"].keys() - more.keys()


@pytest.mark.parametrize("value", [{1: object()}, torch.ones(2), b"bytes"], ids=["object", "tensor", "bytes"])
def test_what_is_no_plain_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="which is no plain value"):
        trust.checked({"class_path": "dinopl.encoders.MiniVGG", "init_args": {"widths": value}})


def test_a_configuration_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nests deeper than"):
        trust.checked({"model": endless})


@pytest.mark.parametrize(
    "file",
    sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml") if "sweep" not in path.name),
)
def test_what_shipped_configurations_store_may_be_named(resolvers: dict[str, Resolver], file: str) -> None:
    if "overlays" in file:
        loaded = yaml.safe_load((ROOT / file).read_text())
        assert all("." not in path for path in class_paths(loaded))  # short names of classes that others store, too
        return
    config = resolvers["fit"](Arguments.parse("fit", ["--config", str(ROOT / file)]))
    kept = trust.checked_run(config)
    assert kept == {key: config[key] for key in kept}
    assert config.keys() - kept.keys() == {"ckpt_path", "weights_only"}
    assert all(isinstance(trust.resolve(path), type) for path in class_paths(config))


def test_public_classes_may_be_named_but_for_those_that_call_or_send() -> None:
    refused = set()
    for cls in Classes().paths:
        try:
            assert trust.resolve(f"{cls.__module__}.{cls.__qualname__}") is cls
        except ValueError:
            refused.add(cls.__name__)
        if not cls.__module__.startswith(("lightning.", "torch.")):
            assert cls.__name__ not in refused
    calling = {"LambdaLR", "MultiplicativeLR", "LambdaCallback", "ModelPruning", "ThroughputMonitor", "WeightAveraging"}
    sending = {"CometLogger", "LitLogger", "MLFlowLogger", "NeptuneLogger", "WandbLogger"}
    writing = {"BasePredictionWriter", "BatchSizeFinder", "LearningRateFinder", "SpikeDetection"}
    bases = {"BaseFinetuning", "Callback", "Checkpoint", "ProgressBar"}
    assert refused <= calling | sending | writing | bases
    assert {"LambdaLR", "MultiplicativeLR", "LambdaCallback", "ModelPruning", "WandbLogger"} <= refused


@pytest.mark.parametrize(
    "path",
    [
        *("dinopl.SelfDistillation", "dinopl.encoders.MiniVGG", "dinopl.encoders.mini_vgg.MiniVGG", "kd.RunTeacher"),
        *("fprnn.layers.FPRNN", "fprnn.layers.fprnn.FPRNN", "torch.nn.Linear", "torch.nn.modules.linear.Linear"),
        *("torch.optim.AdamW", "torch.optim.lr_scheduler.StepLR", "torchvision.models.ResNet"),
        *("torchvision.models.resnet.BasicBlock", "lightning.pytorch.callbacks.EarlyStopping"),
        *("lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.cli.ReduceLROnPlateau"),
    ],
)
def test_classes_on_the_list(path: str) -> None:
    assert trust.resolve(path).__name__ == path.rsplit(".", 1)[-1]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "os.system",
            "builtins.exec",
            "subprocess.Popen",
            "dinopl.core.files.os.popen",
            "dinopl.loading.export_weights",
        ),
        *(
            "dinopl.core.files.Path",
            "dinopl.distillation.module.LightningModule",
            "dinopl.cli.runs.DinoplCLI",
            "dinopl.cli.main",
        ),
        *("dinopl.encoders.common", "dinopl.reports.Run", "dinopl.training.loggers.MetricsFile", "kd.networks.build"),
        *("kd.networks.MiniMLP", "fprnn.layers.fprnn.torch.load", "torch.load", "torch.nn.functional.linear"),
        *("torch.nn.init.normal_", "torch.nn.modules.module.torch.load", "torch.optim.optimizer.Any"),
        *("torch.optim.lr_scheduler.LambdaLR", "torch.optim.lr_scheduler.MultiplicativeLR", "torch.hub.load"),
        *("torchvision.models.resnet18", "torchvision.models.get_model", "torchvision.datasets.LSUN"),
        *("lightning.pytorch.callbacks.LambdaCallback", "lightning.pytorch.cli.LightningCLI", "MiniVGG", "a b.C", ""),
        *("lightning.pytorch.core.saving.pl_load", "lightning.pytorch.loggers.WandbLogger", "dinopl.__main__.main"),
        *("functools.partial", "operator.attrgetter", "numpy.load", "pickle.loads", "evilmod.Net", "dinopl..Net"),
    ],
)
def test_what_is_not_on_the_list(path: str) -> None:
    with pytest.raises(ValueError, match=r"which a checkpoint may not import|which is not there"):
        trust.resolve(path)


def test_classes_of_ours_that_may_be_named_load_no_code() -> None:
    """A new class that imports by name, starts processes or unpickles must be looked at here before it is listed."""
    reviewed = {
        "dinopl/data/sources/torchvision.py",  # its data set's path is checked (trust._check_reach)
        "kd/networks.py",  # imports timm, by that name
        "dinopl/training/stopping.py",  # runs scontrol, with the job's id, after SLURM's signal
        "fprnn/ops/kernels.py",  # imports our backends, by a name that it makes
    }
    words = ("import_module(", "__import__(", "exec(", "eval(", "os.system", "popen", "subprocess", "pickle.load")
    found = set()
    for path in (path for package in trust.OURS for path in (ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").parts
        code = path.read_text()
        if trust._is_listed(".".join(name)) and any(f" {word}" in code or f"({word}" in code for word in words):
            found.add(str(path.relative_to(ROOT)))
    assert found <= reviewed


def test_what_the_user_names_is_the_users(
    resolvers: dict[str, Resolver], configs: dict[str, Any], hostile_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hostile_folder / "my_networks.py").write_text(
        "from dinopl.encoders import MiniVGG\n\nclass Mine(MiniVGG):\n    pass\n\ndef function(shape):\n    pass\n"
    )
    stored = {"class_path": "my_networks.Mine", "init_args": {"widths": [4, 4]}}
    path = checkpoint(put(configs["random_teacher"], "model.encoder", stored), "SelfDistillation")
    refused = pytest.raises(UserMistake, match=r"names my_networks\.Mine, which a checkpoint may not import")
    with refused:
        resolvers["test"](Arguments.parse("test", ["--ckpt_path", path]))
    assert "my_networks" not in sys.modules
    Path("mine.yaml").write_text("model: {init_args: {encoder: {class_path: my_networks.Mine}}}")
    for words in (
        ["--trusted-modules", "my_networks"],
        ["--trusted-modules=my_networks", "--seed_everything=1"],
        ["--model.encoder", "my_networks.Mine"],
        ["--config", "mine.yaml"],
    ):
        config = resolvers["test"](Arguments.parse("test", ["--ckpt_path", path, *words]))
        assert config["model"]["init_args"]["encoder"]["class_path"] == "my_networks.Mine"
    with trust.admitting(["my_networks"]):
        assert trust.resolve("my_networks.function").__name__ == "function"
        with pytest.raises(ValueError, match="under another name"):
            trust.resolve("my_networks.MiniVGG")
    with pytest.raises(UserMistake, match="--trusted-modules a-b: give names of modules"):
        Arguments.parse("test", ["--trusted-modules", "a-b"])
    sys.modules.pop("my_networks")


def test_a_teachers_file_may_name_what_the_user_does(hostile_folder: Path) -> None:
    (hostile_folder / "my_teachers.py").write_text(
        "from torch import nn\n\nclass Mine(nn.Linear):\n    def __init__(self, shape, classes):\n"
        "        super().__init__(2, classes)\n"
    )
    path = checkpoint(
        {"model": {"init_args": {"student": {"class_path": "my_teachers.Mine"}}}}, "KnowledgeDistillation"
    )
    with pytest.raises(ValueError, match=r"names my_teachers\.Mine, which a checkpoint may not import"):
        RunTeacher(path).load(ImageShape(1, 8, 8), 10)
    with trust.admitting(named=["my_teachers.Mine"]), pytest.raises(ValueError, match="is not of this network"):
        RunTeacher(path).load(ImageShape(1, 8, 8), 10)  # built; only the weights of this file are of another
    sys.modules.pop("my_teachers")


def test_a_file_admits_no_module(resolvers: dict[str, Resolver], configs: dict[str, Any]) -> None:
    hostile = put(configs["random_teacher"], "model.encoder", "evilmod.Net") | {"trusted_modules": ["evilmod"]}
    with pytest.raises(UserMistake, match=r"names evilmod\.Net"):
        resolvers["test"](Arguments.parse("test", ["--ckpt_path", checkpoint(hostile)]))


def test_a_class_that_has_moved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "MOVED", {"dinopl.old_encoders": "dinopl.encoders", "kd.old": "kd"})
    old = {
        "class_path": "kd.old.EncoderClassifier",
        "init_args": {"encoder": {"class_path": "dinopl.old_encoders.MiniVGG"}},
    }
    new = {"class_path": "kd.EncoderClassifier", "init_args": {"encoder": {"class_path": "dinopl.encoders.MiniVGG"}}}
    assert trust.checked(old) == new
    assert trust.resolve("dinopl.old_encoders.MiniVGG") is dinopl.encoders.MiniVGG


def test_the_parser_itself_is_a_second_lock(
    resolvers: dict[str, Resolver], configs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "import_path_denylist" not in inspect.signature(set_parsing_settings).parameters:
        pytest.skip("this jsonargparse has no list of denied paths")
    monkeypatch.setattr(
        "dinopl.cli.checkpoint_config.checked_run", lambda config: config
    )  # the first lock is left open
    path = checkpoint(put(configs["random_teacher"], "model.encoder", POPEN))
    with pytest.raises(UserMistake, match=r"not allowed|no class|expected|denied"):
        resolvers["test"](Arguments.parse("test", ["--ckpt_path", path]))


def test_families_check_what_they_load() -> None:
    from fprnn.module import SequenceModeling
    from kd.module import KnowledgeDistillation

    for module in (SelfDistillation, SequenceModeling, KnowledgeDistillation):
        assert issubclass(module, LightningModule)
        assert issubclass(module, trust.CheckedLoading)


def test_a_sweep_hands_trusted_modules_on(run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("lr.yaml").write_text("grid: {model.optimizer.lr: [0.1, 0.01]}")
    words = ["--config", ROOT / "configs" / "random_teacher.yaml", "--sweep", "lr.yaml", "--print-commands"]
    assert run_main("sweep", *words, "--trusted-modules", "my_package.networks", "other") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("--trusted-modules=my_package.networks --trusted-modules=other" in line for line in lines)
