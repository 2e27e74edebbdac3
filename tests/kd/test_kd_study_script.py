"""The study's script on a study whose numbers are known: pairs, verdicts, files; and heads refitted on the pool."""

import csv
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dinopl.encoders import MiniMLP
from kd import EncoderClassifier, KnowledgeDistillation

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
LABELS = {0.02: 0.70, 0.1: 0.90, 1.0: 0.97}
GAPS = {"labels": {}, "distilled": {0.02: 0.16, 0.1: 0.05, 1.0: -0.01}, "smoothed": {0.02: -0.04, 0.1: 0.0, 1.0: 0.01}}
SEEDS = (0, 1, 2)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kd_study

    return kd_study


@pytest.fixture
def students(script: ModuleType) -> ModuleType:
    """What the script reads networks with; importable once the script is."""
    return sys.modules[script.featured.__module__]


def accuracy(variant: str, fraction: float, seed: int) -> float:
    """Seeds differ by a point, and the gap at the smallest fraction by one more."""
    gap = GAPS[variant].get(fraction, 0.0)
    return LABELS[fraction] + 0.01 * seed + gap + (0.01 * (seed - 1) if gap > 0.1 else 0.0)


def write_trial(folder: Path, variant: str, fraction: float, seed: int, status: str = "finished") -> None:
    metrics: dict[str, float | None] = {"test/accuracy": accuracy(variant, fraction, seed), "teacher/accuracy": 0.98}
    metrics |= {"subset/agreement": 1.0, "test/agreement": 1 - 0.05 / fraction**0.5, "subset/nc1": None}
    options = {"data.fraction": fraction, "seed_everything": seed}
    trial = folder / "trials" / f"{variant}-{fraction}-{seed}"
    run = trial / "20261122-120000-abcd"
    run.mkdir(parents=True)
    facts = {"id": trial.name, "variant": variant, "options": options, "config": {"data": {"fraction": fraction}}}
    (trial / "trial.json").write_text(json.dumps(facts))
    results = {"status": status, "command": "fit", "seed": seed, "metrics": metrics, "stages": ["fit", "test"]}
    results |= {"data": {"fraction_of_teacher": 4 * fraction}}
    (run / "results.json").write_text(json.dumps(results))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A study in which one run of a control has diverged."""
    folder = tmp_path / "made"
    for variant in GAPS:
        for fraction in LABELS:
            for seed in SEEDS:
                diverged = (variant, fraction, seed) == ("smoothed", 1.0, 2)
                write_trial(folder, variant, fraction, seed, "diverged" if diverged else "finished")
    study = {"name": "made", "axes": {"data.fraction": list(LABELS)}, "variants": list(GAPS), "x": "data.fraction"}
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def written(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_verdicts_are_paired_and_leave_out_seeds_that_lack_a_run(
    script: ModuleType, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["kd_study.py", str(made), "--out", str(out)])
    script.main()
    assert "made, verdicts" in capsys.readouterr().out
    points = {(row["objective"], float(row["fraction"])): row for row in written(out / "made_points.csv")}
    assert float(points["distilled", 0.02]["gap"]) == pytest.approx(0.16)
    half = 4.3027 * 0.01 / 3**0.5  # Student's t with two degrees of freedom; the deviation of the gap is 0.01
    assert float(points["distilled", 0.02]["gap_low"]) == pytest.approx(0.16 - half, abs=1e-5)
    assert float(points["smoothed", 0.02]["share_of_distilled"]) == pytest.approx(-0.04 / 0.16)
    assert float(points["distilled", 0.1]["recovered_gap"]) == pytest.approx(0.05 / (0.98 - 0.91))
    assert points["distilled", 1.0]["data_efficiency"] == points["distilled", 1.0]["data_efficiency"].lstrip("<>")
    assert {row["n"] for row in points.values() if row["objective"] == "smoothed"} == {"2"}
    assert points["labels", 0.1]["subset_nc1"] == "nan"

    distilled, smoothed = written(out / "made_verdicts.csv")
    assert (distilled["objective"], smoothed["objective"]) == ("distilled", "smoothed")
    assert (distilled["amplified"], smoothed["amplified"]) == ("True", "False")
    assert float(distilled["rank_correlation"]) == pytest.approx(1)
    assert float(distilled["fidelity_slope"]) == pytest.approx(-0.5)
    crossing = np.exp(np.interp(0.0, [-0.05, 0.01], np.log([0.1, 1.0])))
    assert float(distilled["overtaken_at"]) == pytest.approx(crossing)
    assert float(distilled["overtaken_at_teachers"]) == pytest.approx(4 * crossing)
    for kind in ("accuracy", "gap"):
        assert (out / f"made_{kind}.png").stat().st_size > 10_000
    lines = {row["line"] for row in written(out / "made_accuracy.csv")}
    assert lines == {*GAPS, "teacher"}


def test_a_study_of_one_fraction_has_gaps_and_no_amplification(script: ModuleType, tmp_path: Path) -> None:
    for variant in ("labels", "distilled"):
        write_trial(tmp_path / "one", variant, 0.1, seed=0)
    (tmp_path / "one" / "study.json").write_text(json.dumps({"name": "one", "variants": ["labels", "distilled"]}))
    script.analyse(tmp_path / "one", tmp_path)
    (verdict,) = written(tmp_path / "one_verdicts.csv")
    assert float(verdict["gap_at_smallest"]) == float(verdict["gap_at_largest"]) == pytest.approx(0.05)
    assert (verdict["n"], verdict["rank_correlation"], verdict["amplified"]) == ("1", "", "")


def test_the_variances_of_the_theory_are_those_expected(script: ModuleType) -> None:
    rows = list(script.variance_rows())
    assert [row["size"] for row in rows] == [25, 100, 400, 1600]
    for row in rows:
        assert row["difference_times_size"] == pytest.approx(row["expected"], rel=0.05)
        assert row["label_mean"] == pytest.approx(row["bayes_mean"], abs=3 * (row["label_variance"] / 2000) ** 0.5)


def test_a_study_without_labels_has_nothing_to_compare_with(script: ModuleType, made: Path, tmp_path: Path) -> None:
    for path in (made / "trials").glob("labels-*"):
        for file in path.rglob("results.json"):
            file.write_text(file.read_text().replace("finished", "failed"))
    with pytest.raises(SystemExit, match="no labels among its finished runs"):
        script.analyse(made, tmp_path)


def test_alignment_is_of_every_pair_of_one_fraction(
    script: ModuleType, students: ModuleType, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distilled students of all seeds have one set of features, turned; those of label training each their own."""
    draw = torch.Generator().manual_seed(99)
    common, turn = torch.randn(30, 4, generator=draw).double(), torch.tensor([1.0, -1, 1, -1]).double().diag()

    def featured(name: str, run: Any) -> Any:
        own = torch.randn(30, 4, generator=torch.Generator().manual_seed(run.seed)).double()
        return students.Featured(name, run.seed, common @ turn * (1 + run.seed) if name == "distilled" else own, own)

    monkeypatch.setattr(script, "featured", featured)
    script.alignment(made, tmp_path)
    rows = written(tmp_path / "made_alignment.csv")
    assert len(rows) == len(LABELS) * (6 + 6 * 5 // 2)  # six students a fraction, their starts, their pairs
    assert {row["first"] for row in rows} == {"labels", "distilled"}
    for row in rows:
        kind = row["first"], row["second"]
        alone = kind == ("labels", "own start") or kind == ("distilled", "distilled")
        assert float(row["cka"]) == pytest.approx(1) if alone else float(row["cka"]) < 0.6
        assert (row["feature_alignment"] == "nan") == (row["second"] != "own start")
    means = script._alignment_means([{**row, "cka": float(row["cka"]), "feature_alignment": 0.0} for row in rows])
    told = {(row["fraction"], row["first"], row["second"], row["seed"]): row for row in means}
    assert len(told) == len(means) == len(LABELS) * 6
    across = [float(row["cka"]) for row in rows if (row["fraction"], row["second"]) == ("0.1", "distilled")]
    across = [value for value in across if value < 0.99]
    same, other = told["0.1", "labels", "distilled", "same"], told["0.1", "labels", "distilled", "other"]
    assert (same["pairs"], other["pairs"]) == (3, 6)
    assert 3 * same["cka"] + 6 * other["cka"] == pytest.approx(sum(across))


def test_a_teacher_estimates_the_risk_with_bias_and_less_variance(script: ModuleType) -> None:
    """By enumeration; the labels themselves as a teacher at temperature 1 are right and save nothing."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(50, 4, generator=draw).double() for _ in range(2))
    label = torch.arange(50) % 4
    rows = list(script.risk_rows(student, teacher, label))
    losses = -student.log_softmax(1).numpy()
    by_label = losses[np.arange(50), label]
    for row in rows:
        estimate = (losses * (teacher / row["temperature"]).softmax(1).numpy()).sum(1)
        assert row["risk"] == pytest.approx(by_label.mean())
        assert row["bias"] == pytest.approx(estimate.mean() - by_label.mean())
        assert row["label_variance"] == pytest.approx(by_label.var())
        assert row["teacher_variance"] == pytest.approx(estimate.var())
        size = row["better_below"]
        assert row["bias"] ** 2 + row["teacher_variance"] / size == pytest.approx(row["label_variance"] / size)
    assert [row["temperature"] for row in rows] == [1, 2, 4, 20]
    seeds = [{"fraction": 0.1, "seed": seed, **row, "bias": row["bias"] + seed} for seed in (0, 1) for row in rows]
    means = script._risk_means(seeds)
    assert [(mean["temperature"], mean["n"]) for mean in means] == [(1, 2), (2, 2), (4, 2), (20, 2)]
    assert [mean["bias"] - row["bias"] for mean, row in zip(means, rows, strict=True)] == pytest.approx([0.5] * 4)
    certain = next(script.risk_rows(student, 1e4 * torch.nn.functional.one_hot(label, 4), label))
    assert certain["bias"] == pytest.approx(0, abs=1e-12)
    assert certain["teacher_variance"] == pytest.approx(certain["label_variance"])


def test_what_is_read_off_a_student_is_its_own(
    script: ModuleType, students: ModuleType, run_main: Any, tmp_path: Path
) -> None:
    """A student of 24 digits and hardly any steps is bad; its features are not. Its start is that of its seed."""
    config = Path(__file__).parent.parent.parent / "configs" / "kd" / "digits.yaml"
    quick = ("--model.lr_scheduler.warmup_steps=2", "--data.steps_per_epoch=6", "--data.fraction=0.02")
    assert run_main("fit", "--config", config, *quick) == 0
    (folder,) = tmp_path.glob("runs/*/*")
    run = script.Run.load(folder)
    found = script.refitted(run)
    assert found["accuracy"] == pytest.approx(run.metrics["test/accuracy"], abs=1e-6)
    assert found["refit_accuracy"] > 0.85 > found["accuracy"] + 0.2
    told = script.featured("labels", run)
    encoder = partial(MiniMLP, hidden=(32,))
    torch.manual_seed(run.seed)
    fresh = KnowledgeDistillation((1, 8, 8), 10, partial(EncoderClassifier, encoder=encoder)).student
    student, data = students.student_of(run)
    for network, features in ((fresh, told.start), (student, told.features)):
        (first, *_) = data.test_dataloader()
        torch.testing.assert_close(features[:256].float(), network.encoder(first["views"][0]))
    assert told.features.shape == (596, 32)
