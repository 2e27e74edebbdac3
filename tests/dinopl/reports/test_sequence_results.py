"""Sequence runs: the table's cells, the figures' lines, and which runs beside a run are its controls."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dinopl.reports
from dinopl.reports import (
    History,
    Run,
    accuracy_figure,
    all_views,
    iterations_figure,
    other_layers,
    save_figure,
    sequence_table,
    views_of,
)

METRICS = {
    "train/loss": 0.1,
    "test/loss/length=64": 0.2,
    "test/token_accuracy/length=64": 0.875,
    "test/token_accuracy/length=8": 1.0,
    "test/sequence_accuracy/length=64": 0.25,
    "test/sequence_accuracy/length=8": 0.9996,
    "test/iterations/length=64": 47.26,
    "test/iterations/length=8": 7.0,
    "test/iterated_sequence_accuracy/length=64": None,
    "test/iterated_sequence_accuracy/length=8": 1.0,
    "test/iterations_capped/length=64": 0.0,
    "test/iterations_capped/length=8": 0.0,
    "val/token_accuracy/length=8": 0.5,
    "val/sequence_accuracy/length=8": 0.0,
}


def config(layer: str = "FPRNN", n_layers: int = 1, group: str = "Z2", epochs: int = 3) -> dict[str, Any]:
    model = {"init_args": {"layer": {"class_path": f"fprnn.layers.{layer}"}, "n_layers": n_layers}}
    data = {"init_args": {"task": group, "train_length": [4, 8]}}
    return {"model": model, "data": data, "trainer": {"max_epochs": epochs, "devices": n_layers}}


def make_run(metrics: dict[str, float | None], path: Path = Path(), **options: Any) -> Run:
    return Run(path, "finished", metrics, 0, {}, config(**options), None, History({}), command="fit")


def write_run(root: Path, name: str, token_accuracy: float = 0.5, *, status: str = "finished", **options: Any) -> Path:
    """A run folder with a test and a validation accuracy."""
    metrics = {"test/sequence_accuracy/length=8": 0.0, "val/token_accuracy/length=8": token_accuracy}
    command = options.pop("command", "fit")
    results = {"status": status, "command": command, "metrics": metrics, "config": config(**options)}
    (root / name).mkdir(parents=True)
    (root / name / "results.json").write_text(json.dumps(results))
    return root / name


def cells(table: str) -> list[list[str]]:
    """Each line of a table, cut where two blanks stand."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]


def test_the_table_has_a_row_a_length_and_a_block_a_split() -> None:
    test, val = sequence_table(METRICS).split("\n\n")
    assert cells(test) == [
        ["Accuracy by length, test split"],
        ["length", "token accuracy", "sequence accuracy", "iterations", "iterated accuracy"],
        ["-" * 72],
        ["8", "1.000", "1.000", "7.0", "1.000"],
        ["64", "0.875", "0.250", "47.3", "-"],
    ]
    assert cells(val)[1:] == [["length", "token accuracy", "sequence accuracy"], ["-" * 41], ["8", "0.500", "0.000"]]
    assert sequence_table({"train/loss": 1.0}) == "no sequence results"


def test_a_column_comes_with_its_reason() -> None:
    more = METRICS | {"test/iterations_capped/length=64": 0.125, "test/scaled_accuracy/length=8": 0.75}
    head, _, short, long = cells(sequence_table(more).split("\n\n")[0])[1:]
    assert head[-2:] == ["not converged", "scaled accuracy"]
    assert short[-2:] == ["0.000", "0.750"]
    assert long[-2:] == ["0.125", "-"]
    lstm = {name: value for name, value in METRICS.items() if "iterat" not in name}
    assert cells(sequence_table(lstm))[1] == ["length", "token accuracy", "sequence accuracy"]


def lines(axes: Any) -> dict[str, list[list[float]]]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def test_the_accuracy_figure_shows_the_run_solid_and_others_dashed(tmp_path: Path) -> None:
    control = make_run({"test/sequence_accuracy/length=8": 0.1}, layer="DiagonalRNN", n_layers=2)
    figure = accuracy_figure(make_run(METRICS), [control])
    left, right = figure.axes
    assert lines(left) == {
        "test/sequence_accuracy": [[8, 0.9996], [64, 0.25]],
        "DiagonalRNN, 2 layers: test/sequence_accuracy": [[8, 0.1]],
    }
    assert lines(right) == {"test/token_accuracy": [[8, 1.0], [64, 0.875]]}
    assert [line.get_linestyle() for line in left.get_lines()] == ["-", "--"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["FPRNN", "DiagonalRNN, 2 layers"]
    path = save_figure(figure, tmp_path / "accuracy.png", "length")
    assert path.read_bytes().startswith(b"\x89PNG")
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [["metric", "length", "value"], ["test/sequence_accuracy", "8.0", "0.9996"]]
    assert len(rows) == 1 + 2 + 1 + 2


def test_the_iterations_figure_has_each_layer_and_a_line_that_is_no_data(tmp_path: Path) -> None:
    layers = {f"test/iterations/layer={i}/length={n}": float(n + i) for i in (0, 1) for n in (8, 64)}
    figure = iterations_figure(make_run(METRICS | layers))
    drawn = lines(figure.axes[0])
    assert drawn.pop("_as many as tokens") == [[8, 8], [64, 64]]
    assert drawn == {
        "test/iterations": [[8, 7.0], [64, 47.26]],
        "test/iterations/layer=0": [[8, 8.0], [64, 64.0]],
        "test/iterations/layer=1": [[8, 9.0], [64, 65.0]],
    }
    path = save_figure(figure, tmp_path / "iterations.png", "length")
    assert "_as many" not in path.with_suffix(".csv").read_text()


def test_controls_are_finished_fits_of_another_layer_on_the_same_data(tmp_path: Path) -> None:
    run = write_run(tmp_path, "mine")
    write_run(tmp_path, "my other seed")
    write_run(tmp_path, "worse", 0.3, layer="DiagonalRNN")
    best = write_run(tmp_path, "best", 0.7, layer="DiagonalRNN")
    deep = write_run(tmp_path, "deep", 0.1, n_layers=2)
    for name, options in {
        "other data": {"group": "S3"},
        "longer": {"epochs": 4},
        "stopped": {"status": "interrupted"},
        "tested": {"command": "test"},
    }.items():
        write_run(tmp_path, name, 0.9, layer="LSTMLayer", **options)
    (tmp_path / "no run").mkdir()
    assert [other.path for other in other_layers(Run.load(run))] == [best, deep]
    assert other_layers(Run.load(write_run(tmp_path, "a test", command="test"))) == []


@pytest.mark.parametrize(
    ("metrics", "figures"),
    [
        (METRICS, ["accuracy", "iterations"]),
        ({"test/sequence_accuracy/length=4": 1.0}, ["accuracy"]),
        ({"val/sequence_accuracy/length=4": 1.0}, []),
    ],
)
def test_the_view_of_a_sequence_run(tmp_path: Path, metrics: dict[str, float | None], figures: list[str]) -> None:
    run = make_run(metrics, tmp_path / "mine")
    run.path.mkdir()
    (view,) = views_of(run)
    assert view.table(run) == sequence_table(metrics)
    assert list(view.figures(run)) == figures
    assert view.x == "length"


def test_other_runs_have_other_views() -> None:
    (view,) = views_of(make_run({"probe/student/knn": 0.5}))
    assert view.table(make_run({"probe/student/knn": 0.5})).startswith("Probe accuracy")
    assert views_of(make_run({"train/loss": 1.0})) == []


def test_the_mark_of_the_family_chooses_the_view() -> None:
    """Its file of the folder ``views``; runs without a mark, such as another project's, are shown by their metrics."""
    metrics = METRICS | {"probe/student/knn": 0.5}

    def families(mark: str | None) -> list[str]:
        return [view.family for view in views_of(replace(make_run(metrics), family=mark))]

    assert families("SequenceModeling") == ["SequenceModeling"]
    assert families("SelfDistillation") == ["SelfDistillation"]
    assert families("KnowledgeDistillation") == []
    assert families(None) == families("MyModule") == ["SelfDistillation", "SequenceModeling"]


def test_the_general_code_names_no_family() -> None:
    folder = Path(dinopl.reports.__file__).parent
    general = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "__init__.py")
    assert {view.family for view in all_views()} == {"KnowledgeDistillation", "SelfDistillation", "SequenceModeling"}
    assert not [view.family for view in all_views() if view.family in general]
