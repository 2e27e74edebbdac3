"""The JSON schema for editors: it is the classes' own, takes what the command takes, and marks mistakes."""

import copy
import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from dinopl.cli import main
from dinopl.cli.runs import OPTIONS
from dinopl.cli.tools.configs import config_root
from dinopl.cli.tools.schema import OURS, Classes

CONFIGS = config_root()
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.name.endswith(".sweep.yaml"))
ONE_A_FOLDER = list({path.parent: path for path in FILES if path.parent.name != "overlays"}.values())


class EditorsYaml(yaml.SafeLoader):
    """YAML as editors read it: in version 1.2, ``1e-3`` is a number."""


EditorsYaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+0123456789.")
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As the command writes it for an editor."""
    file = tmp_path_factory.mktemp("editor") / "schema.json"
    assert main(["configs", "schema", str(file)]) == 0
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def wrong(validator: Draft202012Validator, config: Any) -> set[str]:
    """Dotted places of what is wrong, the innermost ones."""

    def leaves(error: Any) -> Iterator[Any]:
        if not error.context:
            yield error
        for below in error.context:
            yield from leaves(below)

    return {
        ".".join(map(str, leaf.absolute_path)) + f": {leaf.message[:200]}"
        for error in validator.iter_errors(config)
        for leaf in leaves(error)
    }


def test_top_level_options_are_the_commands(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == set(OPTIONS) - {"config", "print_config", "traceback"}


def test_defaults_are_of_their_own_types(schema: dict[str, Any]) -> None:
    ours = [cls for cls in Classes().paths if cls.__module__.startswith(OURS)]
    assert len(ours) > 50
    for cls in ours:
        for option, described in schema["$defs"][cls.__name__]["properties"].items():
            if "default" in described:
                check = Draft202012Validator({**described, "$defs": schema["$defs"]})
                assert check.is_valid(described["default"]), f"{cls.__name__}.{option}"


def test_options_are_described(schema: dict[str, Any]) -> None:
    described = schema["$defs"]["LinearProbe"]
    assert described["description"]
    assert described["properties"]["batch_size"]["type"] == "integer"
    assert all(option.get("description") for option in described["properties"].values())
    assert "examples" in schema["$defs"]["kind.Optimizer"]["anyOf"][0]
    assert "MiniVGG" in schema["$defs"]["kind.Module.encoder"]["anyOf"][0]["examples"]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_shipped_configuration_is_valid(path: Path, validator: Draft202012Validator) -> None:
    assert wrong(validator, yaml.load(path.read_text(), EditorsYaml)) == set()


@pytest.mark.parametrize("path", ONE_A_FOLDER, ids=name)
def test_a_complete_configuration_is_valid(path: Path, validator: Draft202012Validator) -> None:
    """With every default that the command fills in."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["fit", "--config", str(path), "--print_config"]) == 0
    assert wrong(validator, yaml.load(out.getvalue(), EditorsYaml)) == set()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("modl", {}),
        ("threads", "two"),
        ("trainer.max_epoch", 3),
        ("trainer.max_epochs", "many"),
        ("model.init_args.encodr", "MiniVGG"),
        ("model.init_args.encoder.init_args.width", [4]),
        ("model.init_args.encoder.init_args.widths", "wide"),
        ("model.init_args.encoder.args", {}),
        ("model.init_args.teacher.init_args", {"batch_norm": "sometimes"}),
        ("model.init_args.probes.0.init_args.epochs", 1.5),
        ("model.init_args.optimizer.init_args.learning_rate", 0.1),
        ("data.init_args.batch_size", None),
        ("data.init_args.dataset.init_args", {"size": 3}),
    ],
)
def test_a_mistake_is_marked(validator: Draft202012Validator, place: str, value: Any) -> None:
    config = yaml.load((CONFIGS / "random_teacher.yaml").read_text(), EditorsYaml)
    *above, last = place.split(".")
    node = config
    for part in above:
        node = node[int(part)] if part.isdigit() else node[part]
    before = copy.deepcopy(config)
    node[last] = value
    assert wrong(validator, before) == set()
    assert any(last in told or place in told for told in wrong(validator, config))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("encoder", "VGG11"),
        ("encoder", {"class_path": "my_encoders.TwoLayers", "init_args": {"whatever": 1}}),
        ("encoder", {"class_path": "dinopl.encoders.MiniVGG", "init_args": None}),
        ("probe_epochs", 3),
        ("optimizer", {"class_path": "torch.optim.SGD", "init_args": {"lr": 1, "momentum": 0.9}}),
        ("lr_scheduler", {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 10}}),
    ],
)
def test_what_a_user_may_write_is_not(validator: Draft202012Validator, place: str, value: Any) -> None:
    config = yaml.load((CONFIGS / "random_teacher.yaml").read_text(), EditorsYaml)
    config["model"]["init_args"][place] = value
    assert wrong(validator, config) == set()


def test_the_command_prints_it(
    schema: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinopl.cli.tools.schema.build_schema", lambda: schema)  # made once already
    assert main(["configs", "schema"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == schema
    assert len(out.splitlines()) > len(schema["$defs"])


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinopl.cli.tools.schema.build_schema", lambda: {"$defs": {}})
    assert main(["configs", "schema", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"dinopl: error: configs schema {tmp_path}: Is a directory; name another file.\n"
