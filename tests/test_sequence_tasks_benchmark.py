"""The sequence-task benchmark: what it runs, what it chooses by, equal sizes, and the numbers that it writes."""

import csv
import itertools
import json
import sys
from functools import partial
from pathlib import Path
from pydoc import locate
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from fprnn.layers import FPMamba
from fprnn.model import SequenceModel

ROOT = Path(__file__).parent.parent


class FakeCommand:
    """Stands for the command: writes the results that a learning rate would have."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> None:
        self.calls.append(command)
        words = dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--"))
        rate, seed = float(words.get("model.optimizer.lr", 0.004)), int(words["seed_everything"])
        # Validation prefers 0.003, the test split the largest rate.
        metrics = {"val/loss/length=64": abs(rate - 0.003), "test/loss/length=64": 1 - rate, "parameters": 9.0}
        metrics |= {"test/sequence_accuracy/length=64": 0.0, "test/iterations/layer=1/length=64": 7.0 + seed}
        config = {
            "model": {"init_args": {"optimizer": {"init_args": {"lr": rate}}}},
            "trainer": {"precision": None},
            "threads": 1,
        }
        results = {"status": "finished", "seed": seed, "duration_s": 2.0, "config": config, "metrics": metrics}
        folder = Path(words["trainer.default_root_dir"]) / "name" / "attempt"
        folder.mkdir(parents=True)
        lines = "epoch,step,train/loss,solve/residual_max,val/loss/length=64\n0,9,0.5,0.25,\n0,9,,,2.5\n1,40,,,\n"
        (folder / "metrics.csv").write_text(lines)
        (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, writing below ``tmp_path``."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("state_tracking", "sequence_tasks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import sequence_tasks

    monkeypatch.setattr(sequence_tasks, "results_file", lambda what, _: tmp_path / f"{what}.csv")
    return sequence_tasks


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rates_are_chosen_on_validation_and_losses_become_bits(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import state_tracking

    command = FakeCommand()
    monkeypatch.setattr(state_tracking.subprocess, "run", command)
    words = ["text", "--variants", "lstm", "fpmamba", "--rates", "1e-3", "3e-3", "1e-2", "--seeds", "4", "5"]
    monkeypatch.setattr(sys, "argv", ["sequence_tasks.py", *words, "--runs", str(tmp_path / "runs")])
    script.main()
    rows = read(tmp_path / "sequence_tasks_text.csv")
    chosen = {(row["variant"], row["seed"], row["lr"]) for row in rows if row["chosen"] == "True"}
    assert chosen == {(name, seed, "0.003") for name in ("fpmamba", "lstm") for seed in ("4", "5")}
    assert len(rows) == len(command.calls) == 8
    for row in rows:
        assert float(row["bits_per_character"]) == pytest.approx((1 - float(row["lr"])) * 1.4426950408889634)
        assert float(row["iterations/layer=1"]) == 7 + int(row["seed"])
    course = read(tmp_path / "sequence_tasks_text_course.csv")
    assert len(course) == 2 * len(rows)  # what was logged, and neither the empty line nor the test
    assert {(row["step"], row["train/loss"], row["solve/residual_max"]) for row in course} == {
        ("9.0", "0.5", "0.25"),
        ("9.0", "", ""),
    }


def test_a_cell_of_the_papers_table_says_what_depends(script: ModuleType) -> None:
    assert script.dependence(True, True, False) == (
        "bc+q",
        ["--model.layer.b_h_dep=true", "--model.layer.c_h_dep=true", "--model.layer.lambda_h_dep=false"],
    )
    name, words = script.dependence(False, False, False)
    assert name == "none"
    assert words[-1] == "--model.layer.mixer.dependence=input"
    table = {script.dependence(*cell)[0] for cell in itertools.product((True, False), repeat=3)}
    assert len(table) == 8
    assert set(script.VARIANTS["copying"]) == table | {"bc+q-conv", "q-conv", "diagonal", "diagonal-conv"}


def printed(script: ModuleType, config: str, variant: str, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The whole configuration of a variant, which passed the command's checks."""
    from dinopl.cli.main import main

    file = ROOT / "configs" / "fprnn" / f"{config}.yaml"
    assert main(["fit", f"--config={file}", *script.VARIANTS[config][variant], *words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("config", "variant"),
    [
        ("copying", "none"),
        ("copying", "q-conv"),
        ("parity", "implicit"),
        ("arithmetic", "delta-product"),
        ("catbabi", "mamba"),
    ],
)
def test_the_command_takes_a_variants_options(
    script: ModuleType, config: str, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(script, config, variant, capsys)["name"] == config


def built(node: Any, key: str = "") -> Any:
    """The object of a printed class; of layers and mixers what makes one for a width."""
    if not isinstance(node, dict) or "class_path" not in node:
        return node
    made = partial(
        locate(node["class_path"]), **{name: built(value, name) for name, value in node.get("init_args", {}).items()}
    )
    return made if key in ("layer", "mixer") else made()


def test_models_of_text_have_equally_many_parameters(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def size(variant: str) -> int:
        options = printed(script, "text", variant, capsys)["model"]["init_args"]
        layer = built(options["layer"], "layer")
        with torch.device("meta"):  # sizes alone
            model = SequenceModel(65, 65, layer, options["d_model"], options["n_layers"], options["tie_head"])
        return sum(p.numel() for p in model.parameters())

    sizes = {variant: size(variant) for variant in script.VARIANTS["text"]}
    assert len(sizes) == 6
    for variant, count in sizes.items():
        assert abs(count / sizes["fpmamba"] - 1) < 0.03, variant


def test_the_record_logs_residuals_and_the_models_size(script: ModuleType) -> None:
    logged: dict[str, float] = {}

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SequenceModel(5, 5, lambda width: FPMamba(width, d_state=2), d_model=4, n_layers=2)

        def log(self, name: str, value: float) -> None:
            logged[name] = value

    module, record = Module(), script.SolveRecord()
    record.on_train_batch_end(None, module)
    assert not logged  # nothing has been solved
    module.model(torch.randint(5, (7, 6)))
    record.on_train_batch_end(None, module)
    record.on_train_epoch_end(None, module)
    residuals = [layer.statistics.residual for layer in module.model.layers]
    assert logged["solve/residual_max"] == max(float(r.max()) for r in residuals)
    assert logged["solve/residual_median"] == max(float(r.median()) for r in residuals)
    assert logged["parameters"] == sum(p.numel() for p in module.parameters())
