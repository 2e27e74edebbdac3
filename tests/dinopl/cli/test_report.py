"""``dinopl report`` on true fits and on run folders written by hand; bad input is one line."""

import csv
import io
import statistics
from pathlib import Path

import pytest

from dinopl.cli import main
from dinopl.cli.main import Output
from dinopl.reports import Run
from tests.dinopl.cli.conftest import CUT
from tests.dinopl.cli.test_mistakes import said
from tests.dinopl.reports.run_trees import alpha_config, write_run, write_study, write_trial

KNN = "probe/student/knn"


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[tuple[float, int], Path]:
    """Two alphas, one of them on two seeds, through the real command."""
    folder, made = tmp_path_factory.mktemp("fits"), {}
    for alpha, seed in ((0.1, 0), (1, 0), (1, 1)):
        start = (f"--model.student.alpha={alpha}", f"--seed_everything={seed}", f"--name=alpha{alpha}-{seed}")
        words = ["--model.student=InterpolatedStart", *start, f"--trainer.default_root_dir={folder / 'runs'}"]
        assert main(["fit", "--config", str(root / "configs" / "random_teacher.yaml"), *CUT, *words]) == 0
        made[alpha, seed] = next(folder.glob(f"runs/alpha{alpha}-{seed}/*"))
    return made


def test_a_table_a_csv_and_a_figure_of_fits(
    fits: dict[tuple[float, int], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = fits[1, 0].parent.parent
    files = (
        "--csv",
        "out/runs.csv",
        "--markdown",
        "out/report.md",
        "--latex",
        "out/report.tex",
        "--figure",
        "out/alpha.png",
    )
    assert main(["report", str(runs), "--baseline", "model.student.alpha=0.1", *files]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{runs}: 3 runs: 3 finished\n")
    assert "difference from model.student.alpha=0.1" in out
    assert "(n=1)" in out  # one seed is shared
    values = {key: Run.load(folder).metrics[KNN] for key, folder in fits.items()}
    pair = [values[1, seed] or 0.0 for seed in (0, 1)]
    (row,) = [line.split() for line in out.splitlines() if line.split()[:2] == ["1", "2"]]
    assert float(row[2]) == pytest.approx(statistics.fmean(pair), abs=0.006)
    with Path("out/runs.csv").open(newline="") as file:
        rows = {(float(row["model.student.alpha"]), int(row["seed_everything"])): row for row in csv.DictReader(file)}
    assert {key: float(row[KNN]) for key, row in rows.items()} == values
    with Path("out/alpha.csv").open(newline="") as file:
        drawn = [row for row in csv.DictReader(file) if row["metric"] == KNN]
    assert [(row["model.student.alpha"], row["n"]) for row in drawn] == [("0.1", "1"), ("1", "2")]
    assert float(drawn[1]["mean"]) == pytest.approx(statistics.fmean(pair))
    assert Path("out/alpha.png").read_bytes().startswith(b"\x89PNG")
    assert "| model.student.alpha | n |" in Path("out/report.md").read_text()
    assert "latex: out/report.tex" in out
    latex = Path("out/report.tex").read_text()
    assert latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") == 2
    assert f"model.student.alpha & n & {KNN}" in latex
    assert {Run.load(folder).family for folder in fits.values()} == {"SelfDistillation"}


def test_two_fits_side_by_side(fits: dict[tuple[float, int], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--compare", str(fits[0.1, 0]), str(fits[1, 0])]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model.student.alpha", "0.1", "1"] in lines
    assert not [line for line in lines if line[:1] == ["seed_everything"]]
    (told,) = [line for line in lines if line[:1] == ["train/loss"]]
    expected = [Run.load(fits[alpha, 0]).metrics["train/loss"] or 0.0 for alpha in (0.1, 1)]
    assert [float(value) for value in told[1:3]] == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path / "locality", axes={"model.student.alpha": [0, 1]}, x="model.student.alpha")
    for alpha in (0, 1):
        for seed in (0, 1):
            trial = write_trial(study, f"{alpha}{seed}", {"model.student.alpha": alpha, "seed_everything": seed})
            write_run(trial, {KNN: 0.5 + seed / 10, "test/loss": 1.0}, seed, config=alpha_config(alpha))
    return study


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give a study or a folder of runs, before the options"),
        (["--by", "model.student.alpha", "locality"], "give a study or a folder of runs, before the options"),
        (["nowhere"], "no folder nowhere"),
        (["empty"], "no runs in empty: a run folder holds results.json"),
        (["locality", "--by", "model.studnt.alpha"], "no run has this option; did you mean 'model.student.alpha'?"),
        (["locality", "--by", "alpha"], "no run has this option; did you mean 'model.student.alpha'?"),
        (["locality", "--metric", "probe/student/kn"], f"no finished run has it; did you mean '{KNN}'?"),
        (["locality", "--baseline", "7"], "no row has this value; rows have model.student.alpha=0, 1."),
        (["locality", "--baseline", "model.studnt.alpha=0"], "rows are not by model.studnt.alpha; did you mean"),
        (["locality", "--figure", "a.gif"], "--figure a.gif: must end in one of .png, .pdf, .svg."),
        (["locality", "--figure", "a.png", "--csv", "./a.csv"], "--csv a.csv: the figure's own numbers go there"),
        (["locality", "--figure", "a.png", "--x", "model.student.alph"], "did you mean 'model.student.alpha'?"),
        (["locality", "--figure", "a.png", "--by"], "the runs differ in no option"),
        (["locality", "--x", "length"], "--x length: is of a figure; give --figure FILE too."),
        (["locality", "--level", "95"], "--level 95.0: give a number between 0 and 1"),
        (["locality", "--metrics", "x"], "unrecognized arguments: --metrics"),
        (["locality", "--csv", "empty"], "empty: Is a directory"),
        (["--compare", "locality", "locality"], "--compare locality: holds 4 runs; name the folder of one."),
        (["--compare", "locality"], "expected 2 arguments"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    study: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    Path("empty").mkdir()
    before = sorted(Path().rglob("*"))
    assert main(["report", *words]) == 2
    assert expected in said(capsys)
    assert sorted(Path().rglob("*")) == before


def test_a_damaged_file_is_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = next(study.rglob("results.json"))
    results.write_text("{")
    assert main(["report", str(study)]) == 2
    assert str(results) in said(capsys)


def test_it_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--baseline OPTION=VALUE" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.fixture
def started(study: Path) -> Path:
    """The study, of which one more trial waits and one diverged with the best loss."""
    write_trial(study, "20", {"model.student.alpha": 2, "seed_everything": 0})
    trial = write_trial(study, "21", {"model.student.alpha": 2, "seed_everything": 1})
    write_run(trial, {KNN: 0.9, "test/loss": 0.1, "val/accuracy": 0.5}, 1, "diverged", config=alpha_config(2))
    return study


def rows_of(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_runs_ls_has_a_line_per_run(
    started: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal gets the columns in several blocks
    assert main(["runs", "ls", "locality"]) == 0
    first, _, head, _, *rows = rows_of(capsys.readouterr().out)
    assert " ".join(first) == "6 runs: 4 finished, 1 waiting, 1 diverged"
    assert head == ["run", "status", "seed", "model.student.alpha", KNN]
    assert [row[1:] for row in rows] == [
        *(["finished", str(seed), str(alpha), str(0.5 + seed / 10)] for alpha in (0, 1) for seed in (0, 1)),
        ["waiting", "0", "2", "-"],
        ["diverged", "1", "2", "0.9"],
    ]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert rows[4][0] == "locality/trials/20"
    assert main(["runs", "ls", "locality/trials/00", "--metric", "test/*", KNN]) == 0
    assert rows_of(capsys.readouterr().out)[2] == ["run", "status", "seed", "test/loss", KNN]


def test_runs_ls_fits_the_terminal_and_counts_what_it_leaves_out(
    started: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):  # of another family, with options of its own
        config = {"model": {"init_args": {f"a_rather_long_option_{n}": n + number for n in range(5)}}}
        write_run(started / "others", {"test/loss": 1.0}, number, config=config)
    write_run(started / "others", {"test/loss": 1.0}, command="test")
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["runs", "ls", "locality/others", "locality"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    assert "left out: 1 of validate, test or predict" in out
    assert "more differ (" in out
    assert sum(line.startswith("locality/") for line in out.splitlines()) == 18


@pytest.mark.parametrize(
    ("words", "direction", "seeds", "which"),
    [
        (["--metric", KNN], {}, ["1", "1", "0", "0"], "largest"),
        (["--metric", KNN, "--mode", "min"], {}, ["0", "0", "1", "1"], "smallest"),
        (["--metric", KNN], {"metric": KNN, "direction": "minimize"}, ["0", "0", "1", "1"], "smallest"),
        (["--metric", KNN, "--number", "1"], {"metric": "other", "direction": "minimize"}, ["1"], "largest"),
        (["--metric", "test/l*"], {}, ["0", "1", "0", "1"], "smallest"),
    ],
)
def test_runs_best_sorts_finished_runs(
    started: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    direction: dict[str, str],
    seeds: list[str],
    which: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    write_study(started, axes={"model.student.alpha": [0, 1]}, **direction)
    assert main(["runs", "best", *words, "locality"]) == 0
    title, _, head, _, *rows, _, best = rows_of(capsys.readouterr().out)
    assert title[0] == which
    assert title[2:] == ["of", "4", "finished", "runs"]
    assert head[:3] == ["run", "status", "seed"]
    assert [row[2] for row in rows] == seeds
    assert best == ["best:", rows[0][0]]
    assert (Path(rows[0][0]) / "results.json").is_file()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["lst"], "runs lst: give ls or best; did you mean 'ls'?"),
        (["ls"], "runs ls: no folder runs: give a study, a run folder, or a folder of those"),
        (["ls", "empty"], "runs ls: no runs in empty"),
        (["ls", "locality", "--metric", "probe/student/kn"], f"no finished run has it; did you mean '{KNN}'?"),
        (["ls", "--mode", "min"], "unrecognized arguments: --mode"),
        (["best", "locality"], "the following arguments are required: --metric"),
        (["best", "--metric", "test/los", "locality"], "no finished run has it; did you mean 'test/loss'?"),
        (["best", "--metric", "*", "locality"], "--metric *: stands for 2 metrics; name one, such as"),
        (["best", "--metric", KNN, "locality", "--number", "0"], "--number 0: give 1 or more."),
        (["best", "--metric", KNN, "locality", "--mode", "best"], "invalid choice: 'best'"),
        (["best", "--metric", KNN, "waiting"], "no finished run has a value; `dinopl runs ls` lists the runs."),
    ],
)
def test_a_mistake_about_runs_is_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    Path("empty").mkdir()
    write_trial(write_study(Path("waiting")), "a", {"seed_everything": 0})
    assert main(["runs", *words]) == 2
    assert complaint in said(capsys)


def test_runs_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["ls", "-h"]):
        assert main(["runs", *words]) == 0
        out = capsys.readouterr().out
        assert "dinopl runs best --metric NAME" in out
        assert max(map(len, out.splitlines())) <= 120
    assert main(["run"]) == 2
    assert "did you mean 'runs'?" in said(capsys)


def test_a_report_does_not_replace_a_runs_own_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "runs" / "a", {KNN: 0.5})
    (run / "metrics.csv").write_text("step\n0\n")
    (run / "config.yaml").write_text("seed_everything: 0\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for option, name in (("--figure", "metrics.png"), ("--csv", "metrics.csv"), ("--markdown", "config.yaml")):
        assert main(["report", str(tmp_path / "runs"), option, str(run / name)]) == 2
        assert "a run's own file would be overwritten; name another." in said(capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_terminal_without_the_sign_gets_its_plain_form() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    Output(stream).write("0.5 ± 0.1 ‖ é\n")
    assert stream.buffer.getvalue() == b"0.5 +/- 0.1 ? ?\n"  # type: ignore[attr-defined]
