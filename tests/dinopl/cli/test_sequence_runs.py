"""Sequence runs through the real command, cut short: what they leave, swapped parts, checkpoints, mistakes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dinopl.cli import main
from dinopl.distillation.module import SelfDistillation
from dinopl.reports import Run
from fprnn.module import SequenceModeling

CUT = (
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.log_every_n_steps=1",
    "--model.d_model=8",
    "--data.steps_per_epoch=3",
    "--data.train_length=5",
    "--data.eval_lengths=[4,6]",
    "--data.batch_size=8",
    "--data.eval_batch_size=8",
    "--data.val_size=8",
    "--data.test_size=12",
)
SequenceRun = Callable[..., tuple[int, Path | None]]


@pytest.fixture
def sequence_run(run_main: Callable[..., int], root: Path, tmp_path: Path) -> SequenceRun:
    """Runs a command of the cut parity job; returns the exit code and the new run folder."""

    def run(command: str, *options: object) -> tuple[int, Path | None]:
        before = set(tmp_path.glob("runs/*/*"))
        code = run_main(command, "--config", root / "configs" / "fprnn" / "parity.yaml", *CUT, *options)
        made = set(tmp_path.glob("runs/*/*")) - before
        assert len(made) <= 1
        return code, made.pop() if made else None

    return run


@pytest.fixture(scope="module")
def fitted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the cut job."""
    place = tmp_path_factory.mktemp("fitted")
    config = root / "configs" / "fprnn" / "parity.yaml"
    assert main(["fit", "--config", str(config), *CUT, f"--trainer.default_root_dir={place}"]) == 0
    return next(place.glob("parity/*"))


def only_run() -> Path:
    """The one run folder below the working directory."""
    (folder,) = Path("runs").glob("*/*")
    return folder


def checkpoint_of(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def drawn(path: Path) -> dict[tuple[str, float], float]:
    """A figure's numbers: by metric and length."""
    with path.open() as file:
        return {(row["metric"], float(row["length"])): float(row["value"]) for row in csv.DictReader(file)}


def test_a_run_leaves_table_figures_and_their_numbers(
    sequence_run: SequenceRun, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, folder = sequence_run("fit")
    assert code == 0
    assert folder is not None
    results = json.loads((folder / "results.json").read_text())
    metrics = results["metrics"]
    assert results["status"] == "finished"
    measures = ("token_accuracy", "sequence_accuracy", "iterations", "iterated_sequence_accuracy")
    names = {f"test/{measure}/length={length}" for measure in measures for length in (4, 6)}
    assert names <= metrics.keys()
    assert "val/token_accuracy/length=6" in metrics
    for figure in ("accuracy", "iterations"):
        assert (folder / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        for (name, length), value in drawn(folder / "figures" / f"{figure}.csv").items():
            assert value == metrics[f"{name}/length={length:.0f}"]
    assert EventAccumulator(str(folder)).Reload().Tags()["images"] == ["figures/accuracy", "figures/iterations"]
    shown = capsys.readouterr().out
    row = next(line.split() for line in shown.splitlines() if line.startswith("6 "))
    accuracies = [f"{metrics[f'test/{m}/length=6']:.3f}" for m in ("token_accuracy", "sequence_accuracy")]
    assert row[1:4] == [*accuracies, f"{metrics['test/iterations/length=6']:.1f}"]


def test_a_control_run_later_is_drawn_beside_and_iterates_nothing(fitted: Path, sequence_run: SequenceRun) -> None:
    place = f"--trainer.default_root_dir={fitted.parent.parent}"
    assert sequence_run("fit", "--model.layer", "DiagonalRNN", place) == (0, None)
    (control,) = set(fitted.parent.iterdir()) - {fitted}
    accuracy = drawn(control / "figures" / "accuracy.csv")
    before = Run.load(fitted).metrics
    assert accuracy["FPRNN: test/token_accuracy", 6.0] == before["test/token_accuracy/length=6"]
    assert accuracy["test/token_accuracy", 6.0] == Run.load(control).metrics["test/token_accuracy/length=6"]
    assert not (control / "figures" / "iterations.png").exists()


@pytest.mark.parametrize(
    ("options", "place", "expected"),
    [
        (["--model.layer", "DiagonalRNN"], ["layer"], {"expand": 2, "d_inner": None, "conv_width": None}),
        (["--model.layer", "LSTMLayer"], ["layer"], {"hidden_size": None}),
        (["--model.layer.solver", "PicardSolver"], ["layer", "solver"], {"tol": 0.1, "max_iterations": 100}),
        (["--model.layer.mixer", "KroneckerMixer"], ["layer", "mixer"], {"beta": 1.0, "dependence": "concatenate"}),
        (["--model.layer.mixer.rank", "3"], ["layer", "mixer"], {"rank": 3}),
        (["--model.lr_scheduler", "WarmupConstant"], ["lr_scheduler"], {"warmup_steps": 0}),
    ],
)
def test_parts_swap_and_start_from_their_own_defaults(
    run_main: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    root: Path,
    options: list[str],
    place: list[str],
    expected: dict[str, Any],
) -> None:
    config = root / "configs" / "fprnn" / "parity.yaml"
    assert run_main("fit", "--config", config, *options, "--print_config") == 0
    node = yaml.safe_load(capsys.readouterr().out)["model"]
    for part in place:
        node = node["init_args"][part]
    own = dict(node["init_args"])
    assert expected.items() <= own.items()
    assert not {"mixer", "solver"} & own.keys()  # of the layer that was there before
    assert ("rank" in own) == (node["class_path"].rsplit(".", 1)[-1] == "HouseholderMixer")


@pytest.mark.parametrize("options", [["--model.layer", "LSTMLayer"], ["--model.layer.solver", "PicardSolver"]])
def test_swapped_parts_train(sequence_run: SequenceRun, options: list[str]) -> None:
    assert sequence_run("fit", *options)[0] == 0


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_is_scored_as_at_the_end_of_its_training(
    fitted: Path, run_main: Callable[..., int], command: str
) -> None:
    assert run_main(command, "--ckpt_path", checkpoint_of(fitted)) == 0
    before, after = Run.load(fitted).metrics, Run.load(only_run()).metrics
    scores = {name: value for name, value in after.items() if "/length=" in name}
    assert scores
    assert scores == {name: before[name] for name in scores}


def test_lengths_solver_and_cap_may_be_others_at_test_time(fitted: Path, run_main: Callable[..., int]) -> None:
    words = ["test", "--ckpt_path", checkpoint_of(fitted), "--data.eval_lengths=[3,9]"]
    assert run_main(*words, "--model.layer.solver", "PicardSolver", "--model.eval_max_iterations=1") == 0
    metrics = Run.load(only_run()).metrics
    assert {name.rsplit("=", 1)[1] for name in metrics if "/length=" in name} == {"3", "9"}
    assert metrics["test/iterations/length=9"] is not None  # counted with the counter's own cap
    assert metrics["test/iterations/length=9"] > 1


def test_predictions_have_a_file_for_each_length(
    fitted: Path, run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("predict", "--ckpt_path", checkpoint_of(fitted)) == 0
    folder = only_run()
    shown = capsys.readouterr().out
    for number, length in enumerate((4, 6)):
        with np.load(folder / f"predictions-{number}.npz") as predictions:
            assert predictions["index"].tolist() == list(range(12))
            right = (predictions["prediction"] == predictions["target"]).mean()
            assert right == pytest.approx(Run.load(fitted).metrics[f"test/token_accuracy/length={length}"])
        assert f"predictions-{number}.npz" in shown


def test_a_resumed_run_ends_bit_for_bit_where_the_whole_one_does(sequence_run: SequenceRun) -> None:
    """With a curriculum that has moved, a solver with a memory, and a schedule."""
    options = [
        '--data.curriculum={"class_path": "AdaptiveLengths", "init_args": {"threshold": 0.01, "smoothing": 0.5}}'
    ]
    options += ["--model.layer.solver=AutomaticSolver", "--model.lr_scheduler.total_steps=60", "--data.batch_size=64"]
    _, whole = sequence_run("fit", *options, "--trainer.max_epochs=2")
    _, first = sequence_run("fit", *options)
    assert first is not None
    assert whole is not None
    _, second = sequence_run("fit", *options, "--trainer.max_epochs=2", "--ckpt_path", checkpoint_of(first))
    assert second is not None
    one, two = (torch.load(checkpoint_of(folder), weights_only=True) for folder in (whole, second))
    assert one["global_step"] == two["global_step"] == 6
    assert one["SequenceDataModule"] == two["SequenceDataModule"]
    assert one["SequenceDataModule"]["curriculum"]["length"] > 2
    for name, value in one["state_dict"].items():
        assert torch.equal(two["state_dict"][name], value), name
    assert Run.load(whole).metrics == Run.load(second).metrics


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--data.task", "Parity", "--data.task.context=9", "--data.eval_lengths=[4,32]"],
            "--data.eval_lengths 32: beyond Parity's limit; use 8 or less",
        ),
        (["--data.train_length=0"], "--data.train_length 0: too short for WordProblem; use 1 or more"),
        (["--data.task.group=Q8"], '--data.task.group Q8: unknown. Did you mean "Z8"?'),
        (["--data.task.group=S8"], "--data.task.group S8: has more than the 5040 elements"),
        (
            ["--model.layer.mixer=KroneckerMixer", "--model.layer.d_inner=17"],
            "--model.layer.d_inner 17: is prime, so no Kronecker product has this width; choose a product such as 18",
        ),
        (
            ["--model.layer.mixer=MonarchMixer", "--model.layer.d_inner=18"],
            "--model.layer.mixer.block 4: does not divide d_inner=18; choose a divisor",
        ),
        (
            ["--model.layer.solver=PicardSolver", "--model.layer.solver.tol=1e-9"],
            "--model.layer.solver.tol 1e-09: too small for torch.float32; use 2.4e-07 or more",
        ),
        (["--model.layer.mixer.rnk=3"], "--model.layer.mixer.rnk: HouseholderMixer has no option 'rnk'; did you mean"),
        (["--model.layer.solver=Picard"], "--model.layer.solver: no class 'Picard'; did you mean 'PicardSolver'?"),
        (["--model.layer.mixer=DenseRNN"], "--model.layer.mixer: DenseRNN is a class of another kind"),
        (
            ["--model.layer.solver=AutomaticSolver", "--model.layer.solver.iterative.tol=0.01"],
            "--model.layer.solver.iterative: name a class first: AndersonSolver, PicardSolver",
        ),
        (
            ["--model.lr_scheduler.warmup_steps=-1"],
            "--model.lr_scheduler.warmup_steps -1: must be at least 0; 0 is no warm-up",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    sequence_run: SequenceRun, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert sequence_run("fit", *options) == (2, None)
    assert expected in said(capsys)
    assert not Path("runs").exists()


def test_data_of_another_kind_are_refused(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    words = ("fit", "--config", root / "configs" / "fprnn" / "parity.yaml", "--data", "ImageDataModule")
    assert run_main(*words) == 2
    assert "--model.vocab_size null: is not known from the data; give a number" in said(capsys)
    assert not Path("runs").exists()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command complained of, in one line."""
    (expected,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    return expected


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data.task.group=Z4"], "--model.vocab_size 11: the checkpoint was trained with 9; give data of the"),
        (
            ["--model.d_model=10"],
            "--ckpt_path: model.embedding.weight is (9, 8) in the checkpoint and (9, 10) here; set",
        ),
    ],
)
def test_a_model_that_does_not_match_its_checkpoint_is_refused(
    fitted: Path,
    run_main: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
    expected: str,
) -> None:
    place = f"--trainer.default_root_dir={Path('runs').absolute()}"
    assert run_main(command, "--ckpt_path", checkpoint_of(fitted), place, *options) == 2
    assert expected in said(capsys)
    assert not Path("runs").exists()


def test_a_sequence_checkpoint_holds_no_encoder(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import dinopl

    capsys.readouterr()
    assert main(["export", "--ckpt_path", str(checkpoint_of(fitted))]) == 2
    expected = said(capsys)
    for part in (str(checkpoint_of(fitted)), "of SequenceModeling, not of SelfDistillation", "give one"):
        assert part in expected
    assert not list(fitted.rglob("*.safetensors"))
    with pytest.raises(ValueError, match="of SequenceModeling, not of SelfDistillation"):
        dinopl.load_encoder(checkpoint_of(fitted))


def test_the_module_of_a_checkpoint_comes_back_without_arguments(fitted: Path) -> None:
    module = SequenceModeling.load_from_checkpoint(checkpoint_of(fitted))
    state = torch.load(checkpoint_of(fitted), weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in module.model.state_dict(prefix="model.").items()
               if isinstance(value, torch.Tensor))  # fmt: skip
    assert module(torch.zeros(1, 5, dtype=torch.int64)).shape == (1, 5, module.model.num_targets)
    with pytest.raises(ValueError, match="a checkpoint of SequenceModeling, not of SelfDistillation"):
        SelfDistillation.load_from_checkpoint(checkpoint_of(fitted))


def test_a_diverging_solve_stops_the_run(sequence_run: SequenceRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert sequence_run("fit", "--model.layer.solver", "PicardSolver", "--model.layer.mixer.beta=50")[0] == 1
    assert "dinopl: error: PicardSolver diverged in " in capsys.readouterr().err
    (folder,) = Path("runs/parity").iterdir()
    assert Run.load(folder).status == "diverged"
    assert not list(folder.rglob("*.ckpt"))
