"""Results of the distillation study: gaps, their amplification, what controls recover, fidelity, heads, theory.

Reads studies of ``dinopl sweep``, finished or not, whose variants are ``labels``, ``distilled`` and others. Differences
are taken seed by seed to label training with the same data and networks; intervals have a level of 95 %.

    dinopl sweep --sweep configs/kd/digits.sweep.yaml --workers 2
    python benchmarks/kd_study.py runs/kd_digits runs/kd_digits_explanations --out runs/kd
    python benchmarks/kd_study.py runs/kd_digits --refit --alignment --theory --out runs/kd

``--refit`` fits new heads on the whole pool to the features of label-trained and distilled students: where their
accuracies become equal, the gain of distillation was in the head. ``--alignment`` compares the features of students by
CKA on the test split: of one variant over seeds, of two variants with equal and with different seeds, and of each with
its own start. ``--risk`` compares how well a study's teacher and the labels estimate its students' risk, by bias and
variance at several temperatures. ``--theory`` needs no runs: least squares on labels and on a teacher's outputs, and
the variance of the objective. All runs with all metrics are printed by ``dinopl report --csv``.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import write_csv
from kd_students import featured, logits_of, pair_rows, refitted, risk_rows
from numpy.typing import NDArray

from dinopl.core.statistics import Summary
from dinopl.reports import Group, Report, Run, framed, report_figure, row_of, save_report_figure, summarize
from dinopl.reports.options import shown
from kd import study
from kd.theory import (
    GaussianClasses,
    LinearStudent,
    RiskMoments,
    draw_regression,
    draw_risks,
    expected_ratio,
    fit_linear,
    linear_outcomes,
    risk_moments,
)

FRACTION = "data.fraction"
ACCURACY = "test/accuracy"
TEACHER = "teacher/accuracy"
GAP = "gap over labels"
MEANS = {
    "test_agreement": "test/agreement",
    "subset_agreement": "subset/agreement",
    "subset_accuracy": "subset/accuracy",
    "test_kl": "test/kl",
    "test_hellinger": "test/hellinger",
    "test_ece": "test/ece",
    "test_cka": "test/cka",
    "subset_cka": "subset/cka",
    "test_feature_alignment": "test/feature_alignment",
    **{f"subset_{name}": f"subset/{name}" for name in ("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4")},
}
SMALL = 0.25  # up to here the slope of the fidelity gap is fitted once more
Row = dict[str, Any]
Array = NDArray[np.float64]


class Curve:
    """One variant along the fractions, at the same values of all other options.

    Args:
        panel: options of data and networks, which a curve shares with the label training that it is compared with.
        name: the variant, with the options of the objective that have several values.
        groups: one per fraction, with all its seeds.
    """

    def __init__(self, panel: Mapping[str, Any], name: str, groups: Iterable[Group]) -> None:
        self.panel = dict(panel)
        self.name = name
        self.groups = {fraction_of(group): group for group in groups}

    @property
    def is_labels(self) -> bool:
        """Whether it is label training, with which others are compared."""
        return self.name.split(",")[0] == "labels"

    @property
    def is_plain(self) -> bool:
        """Whether it is label training or plain distillation, not a control."""
        return self.name.split(",")[0] in ("labels", "distilled")

    @cached_property
    def keys(self) -> dict[float, set[Any]]:
        """Seeds that have finished, by fraction."""
        return {fraction: set(group.samples(ACCURACY).index) for fraction, group in self.groups.items()}

    def table(self, metric: str, keys: Sequence[Any], fractions: Sequence[float]) -> Array:
        """Values of a metric, ``(S, K)``; NaN where a run has none."""
        columns = [self.groups[fraction].samples(metric).to_dict() for fraction in fractions]
        return np.array([[column.get(key, np.nan) for column in columns] for key in keys])


def fraction_of(group: Group) -> float:
    """The fraction of a group, also where a study has only one, which then distinguishes no groups."""
    return float(group.runs[FRACTION].iloc[0])


def finished(group: Group) -> list[Run]:
    """The finished runs of a group, one per seed."""
    return [Run.load(folder, history=False) for folder in group.finished["run"]]


def curves_of(groups: Iterable[Group]) -> list[Curve]:
    """The curves of a study, labels first."""
    found: dict[tuple[str, ...], list[Group]] = {}
    groups = list(groups)
    for group in groups:
        others = [name for name in group.values if name != FRACTION]
        found.setdefault(tuple(shown(group.values[name]) for name in others), []).append(group)
    return [_curve(members, groups) for members in found.values()]


def _curve(members: Sequence[Group], groups: Sequence[Group]) -> Curve:
    values = {name: value for name, value in members[0].values.items() if name not in (FRACTION, "variant")}
    ours = [name for name in values if name.startswith(("model.objective", "model.target"))]
    panel = {name: value for name, value in values.items() if name not in ours}
    same = [group for group in groups if group.values.get("variant") == members[0].values.get("variant")]
    several = [name for name in ours if len({shown(group.values[name]) for group in same}) > 1]
    options = [f"{name.rpartition('.')[2]} {shown(values[name])}" for name in several]
    return Curve(panel, ", ".join([str(members[0].values.get("variant")), *options]), members)


class Comparison:
    """A curve and its label training, at the fractions and seeds that both have.

    Args:
        labels: label training.
        curve: anything else, of the same panel.
    """

    def __init__(self, labels: Curve, curve: Curve) -> None:
        self.curve = curve
        common = {
            f: labels.keys[f] & curve.keys[f] for f in sorted(labels.groups) if f in curve.groups and labels.keys[f]
        }
        common = {fraction: keys for fraction, keys in common.items() if keys}
        self.fractions = list(common)
        self.keys = sorted(set.intersection(*common.values()), key=str) if common else []
        self.labels = labels.table(ACCURACY, self.keys, self.fractions)
        self.accuracy = curve.table(ACCURACY, self.keys, self.fractions)

    @property
    def is_labels(self) -> bool:
        """Whether the curve is the labels' own."""
        return self.curve.is_labels

    @property
    def per_teacher_sample(self) -> float:
        """The factor from fractions to numbers of samples relative to the teacher's."""
        return float(self._results["data"]["fraction_of_teacher"]) / self.fractions[-1]

    @property
    def parameter_ratio(self) -> float:
        """The student's number of parameters relative to the teacher's; NaN without a teacher."""
        facts = self._results.get("model") or {}
        counts = [(facts.get(who) or {}).get("parameters") for who in ("student", "teacher")]
        return counts[0] / counts[1] if all(counts) else float("nan")

    @cached_property
    def _results(self) -> dict[str, Any]:
        """The results of one of the runs."""
        (run, *_) = finished(self.curve.groups[self.fractions[-1]])
        return dict(json.loads((run.path / "results.json").read_text(encoding="utf-8")))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def values(self, metric: str) -> Array:
        """Another metric of the curve, ``(S, K)``."""
        return self.curve.table(metric, self.keys, self.fractions)

    @property
    def gaps(self) -> list[Summary]:
        """Over labels, at each fraction."""
        return study.gap_summaries(self.labels, self.accuracy)

    def rows(self, whole: "Comparison | None") -> Iterator[Row]:
        """The results at each fraction.

        Args:
            whole: the plain distillation of the same panel, whose gap the curve's is a share of.
        """
        factors = study.data_efficiency(self.fractions, self.labels, self.accuracy)
        lows_highs = study.data_efficiency_intervals(self.fractions, self.labels, self.accuracy)
        teacher = self.values(TEACHER)
        recovered = study.recovered_gap(self.labels.mean(axis=0), self.accuracy.mean(axis=0), teacher.mean(axis=0))
        for k, (fraction, gap) in enumerate(zip(self.fractions, self.gaps, strict=True)):
            row = self.curve.panel | {"objective": self.curve.name, "fraction": fraction, "n": len(self.keys)}
            row |= {"accuracy": self.accuracy[:, k].mean(), "accuracy_sd": _sd(self.accuracy[:, k])}
            row |= {"gap": gap.mean, **_ends("gap", gap), "share_of_distilled": self._share(whole, fraction)}
            errors = study.relative_error_reduction(1 - self.labels[:, k].mean(), 1 - self.accuracy[:, k].mean())
            row |= {"error_reduction": float(errors), "recovered_gap": recovered[k], "data_efficiency": str(factors[k])}
            row |= {"data_efficiency_low": str(lows_highs[k][0]), "data_efficiency_high": str(lows_highs[k][1])}
            row |= {name: self.values(metric)[:, k].mean() for name, metric in MEANS.items()}
            yield row | {"teacher_accuracy": teacher[:, k].mean()}

    def _share(self, whole: "Comparison | None", fraction: float) -> float:
        """Share of distillation's mean gap; each mean is over the seeds that the curve has."""
        if whole is None or fraction not in whole.fractions:
            return float("nan")
        ours, theirs = self.gaps[self.fractions.index(fraction)], whole.gaps[whole.fractions.index(fraction)]
        return ours.mean / theirs.mean if ours.mean is not None and theirs.mean and theirs.mean > 0 else float("nan")

    def verdict(self, whole: "Comparison | None") -> Row:
        """Results over the whole curve; without amplification if there is only one fraction."""
        row: Row = self.curve.panel | {"objective": self.curve.name, "n": len(self.keys)}
        row["parameter_ratio"] = self.parameter_ratio
        row |= {"smallest": self.fractions[0], "gap_at_smallest": self.gaps[0].mean, **_ends("gap", self.gaps[0])}
        row |= {"largest": self.fractions[-1], "gap_at_largest": self.gaps[-1].mean}
        row["every_seed_positive"] = bool((self.accuracy[:, 0] > self.labels[:, 0]).all())
        row["share_of_distilled"] = self._share(whole, self.fractions[0])
        return row | (self._along() if len(self.fractions) > 1 else dict.fromkeys(ALONG))

    def _along(self) -> Row:
        found = study.amplification(self.fractions, self.labels, self.accuracy)
        area = summarize(study.area_between(self.fractions, self.labels, self.accuracy).tolist())
        crossing = study.overtaken_at(self.fractions, self.labels, self.accuracy)
        row: Row = {"rank_correlation": found.rank_correlation, "difference": found.difference.mean}
        row |= _ends("difference", found.difference) | {"amplified": found.amplified, "largest_at": found.largest_at}
        row |= {"area": area.mean, **_ends("area", area), "overtaken_at": crossing}
        row["overtaken_at_teachers"] = crossing * self.per_teacher_sample
        fidelity = self.values("subset/agreement") - self.values("test/agreement")
        small = np.array(self.fractions) <= SMALL
        for name, chosen in (("fidelity_slope", small | True), ("small_fidelity_slope", small)):
            slope, (low, high, _) = study.power_law_slope(np.array(self.fractions)[chosen], fidelity[:, chosen])
            row |= {name: slope, f"{name}_low": low, f"{name}_high": high}
        return row


ALONG: tuple[str, ...] = (
    "rank_correlation",
    "difference",
    "difference_low",
    "difference_high",
    "amplified",
    "largest_at",
)
ALONG += ("area", "area_low", "area_high", "overtaken_at", "overtaken_at_teachers")
ALONG += tuple(f"{size}fidelity_slope{end}" for size in ("", "small_") for end in ("", "_low", "_high"))


def _sd(values: Array) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _ends(name: str, summary: Summary) -> Row:
    low, high = summary.interval[:2] if summary.interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def panels_of(curves: Iterable[Curve]) -> list[list[Curve]]:
    """Curves that are compared with the same labels."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(_title(curve.panel), []).append(curve)
    return list(found.values())


def _title(panel: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {shown(value)}" for name, value in panel.items())


def compared(panel: Sequence[Curve]) -> dict[str, Comparison]:
    """Every curve beside the panel's labels, by name, the labels themselves included; nothing without labels."""
    labels = next((curve for curve in panel if curve.is_labels), None)
    pairs = [] if labels is None else [Comparison(labels, curve) for curve in panel]
    return {pair.curve.name: pair for pair in pairs if pair}


def analyse(path: Path, out: Path) -> None:
    """Tables, CSVs and figures of one study."""
    points, verdicts = [], []
    for panel in panels_of(curves_of(Report.of([path]).groups)):
        pairs = compared(panel)
        if not pairs:
            continue
        whole = pairs.get("distilled") or pairs.get("distilled, temperature 20")
        name = "-".join([path.name, *_title(panel[0].panel).replace(",", "").split()])
        points += [row for pair in pairs.values() for row in pair.rows(whole)]
        verdicts += [pair.verdict(whole) for pair in pairs.values() if not pair.is_labels]
        draw(pairs, out / name)
    if not points:
        raise SystemExit(f"{path}: no labels among its finished runs to compare with")
    print_rows(f"{path.name}, points", points, POINTS)
    print_rows(f"{path.name}, verdicts", verdicts, VERDICTS)
    write_csv(out / f"{path.name}_points.csv", points)
    write_csv(out / f"{path.name}_verdicts.csv", verdicts)


POINTS: tuple[str, ...] = (
    "objective",
    "fraction",
    "n",
    "accuracy",
    "accuracy_sd",
    "gap",
    "gap_low",
    "gap_high",
    "share_of_distilled",
)
POINTS += ("data_efficiency", "test_agreement", "subset_agreement", "test_cka", "subset_nc1", "teacher_accuracy")
VERDICTS: tuple[str, ...] = (
    "objective",
    "n",
    "parameter_ratio",
    "gap_at_smallest",
    "gap_low",
    "gap_high",
    "gap_at_largest",
    "every_seed_positive",
)
VERDICTS += ("share_of_distilled", "rank_correlation", "difference", "difference_low", "difference_high", "amplified")
VERDICTS += ("largest_at", "overtaken_at", "fidelity_slope", "fidelity_slope_low", "fidelity_slope_high")


def draw(pairs: Mapping[str, Comparison], path: Path) -> None:
    """Accuracy against fraction, with the teacher; gaps against fraction, with their intervals."""
    reached = [float(value) for pair in pairs.values() for value in pair.values(TEACHER).flatten()]
    accuracy = [
        row_of(ACCURACY, name, fraction, pair.curve.groups[fraction].summary(ACCURACY))
        for name, pair in pairs.items()
        for fraction in pair.fractions
    ]
    known = sorted({value for value in reached if value == value})
    accuracy += [row_of(ACCURACY, "teacher", None, summarize([statistics.mean(known)]))] if known else []
    gaps = [
        row_of(GAP, name, fraction, gap)
        for name, pair in pairs.items()
        if not pair.is_labels
        for fraction, gap in zip(pair.fractions, pair.gaps, strict=True)
    ]
    for kind, rows, band in (("accuracy", accuracy, "sd"), ("gap", gaps, "interval")):
        points = framed(rows)
        if not points.empty:
            figure = report_figure(points, FRACTION, band=band, log=True)  # type: ignore[arg-type]
            made, _ = save_report_figure(figure, path.parent / f"{path.name}_{kind}.png", points, FRACTION)
            print(f"figure: {made}")


def print_rows(title: str, rows: Sequence[Row], names: Sequence[str] | None = None) -> None:
    """An aligned table of some columns; columns without a value are left out."""
    names = [name for name in rows[0] if names is None or name in names or "." in name]
    names = [name for name in names if any(row[name] is not None for row in rows)]
    lines = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}\n" + "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines))


def alike(rows: Sequence[Row], but: Sequence[str]) -> Iterator[tuple[Row, list[Row]]]:
    """Groups of rows that are equal except in some columns, in order of their first rows, each with its equal part."""
    found: dict[tuple[str, ...], tuple[Row, list[Row]]] = {}
    for row in rows:
        facts = {name: value for name, value in row.items() if name not in but}
        found.setdefault(tuple(map(shown, facts.values())), (facts, []))[1].append(row)
    yield from found.values()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return "-" if value is None else shown(value)


def refit(path: Path, out: Path) -> None:
    """Accuracy of students with heads refitted on the whole pool, for labels and distillation, at each fraction."""
    rows = []
    for curve in curves_of(Report.of([path]).groups):
        if not curve.is_plain:
            continue
        for fraction, group in curve.groups.items():
            facts = curve.panel | {"objective": curve.name, "fraction": fraction}
            rows += [facts | {"seed": run.seed} | refitted(run) for run in finished(group)]
    print_rows(f"{path.name}, heads refitted on the whole pool", _refit_means(rows))
    write_csv(out / f"{path.name}_refit.csv", rows)


def _refit_means(rows: Sequence[Row]) -> list[Row]:
    """Means over seeds, and the gap of distillation over labels with either head."""
    measured = ("seed", "accuracy", "refit_accuracy")
    return [
        facts
        | {
            f"{of['objective']}{kind}": statistics.mean(row[f"{kind.strip() or 'accuracy'}"] for row in same)
            for of, same in alike(both, measured)
            for kind in ("", " refit_accuracy")
        }
        for facts, both in alike(rows, ("objective", *measured))
    ]


def alignment(path: Path, out: Path) -> None:
    """CKA of the features of students trained on the same fraction: every pair, and means."""
    rows: list[Row] = []
    for panel in panels_of(curve for curve in curves_of(Report.of([path]).groups) if curve.is_plain):
        for fraction in sorted({fraction for curve in panel for fraction in curve.groups}):
            curves = [curve for curve in panel if fraction in curve.groups]
            students = [
                featured(curve.name, run)
                for curve in curves
                for run in sorted(finished(curve.groups[fraction]), key=lambda run: run.seed or 0)
            ]
            rows += [panel[0].panel | {"fraction": fraction} | row for row in pair_rows(students) if students]
    if not rows:
        raise SystemExit(f"{path}: no finished run of label training or distillation to align")
    print_rows(f"{path.name}, alignment of features between students", _alignment_means(rows))
    write_csv(out / f"{path.name}_alignment.csv", rows)


def _alignment_means(rows: Sequence[Row]) -> list[Row]:
    """Means over pairs of two variants, separately for pairs of one seed and of two."""
    measured = ("first_seed", "second_seed", "cka", "feature_alignment")
    labelled = [row | {"seed": "same" if row["first_seed"] == row["second_seed"] else "other"} for row in rows]
    means = []
    for facts, pairs in alike(labelled, measured):
        cka = np.array([row["cka"] for row in pairs])
        mean = facts | {"pairs": len(pairs), "cka": float(cka.mean()), "cka_sd": _sd(cka)}
        means.append(mean | {"feature_alignment": statistics.mean(row["feature_alignment"] for row in pairs)})
    return means


def risk(path: Path, out: Path) -> None:
    """Bias and variance of a study's teacher as an estimate of its label-trained students' risk."""
    rows: list[Row] = []
    for curve in curves_of(Report.of([path]).groups):
        for fraction, group in curve.groups.items() if curve.is_labels else ():
            facts = curve.panel | {"fraction": fraction}
            rows += [
                facts | {"seed": run.seed} | row
                for run in finished(group)
                if run.config["model"]["init_args"].get("teacher")
                for row in risk_rows(*logits_of(run))
            ]
    if not rows:
        raise SystemExit(f"{path}: no finished run of label training that names a teacher")
    print_rows(f"{path.name}, estimates of the risk of students on labels, means over seeds", _risk_means(rows))
    write_csv(out / f"{path.name}_risk.csv", rows)


def _risk_means(rows: Sequence[Row]) -> list[Row]:
    """Means over seeds, of ``better_below`` too."""
    measured = ("risk", "bias", "label_variance", "teacher_variance", "better_below")
    return [
        facts | {"n": len(same)} | {name: statistics.mean(row[name] for row in same) for name in measured}
        for facts, same in alike(rows, (*measured, "seed"))
    ]


def theory(out: Path) -> None:
    """Least squares with labels and with a teacher's outputs; the variance of the objective."""
    outcomes = linear_outcomes(draw_regression(), [100, 475, 500, 525, 600, 1000, 2000, 4000], range(5))
    rows: list[Row] = [outcome._asdict() | {"ratio": outcome.ratio} for outcome in outcomes]
    means = []
    for size in dict.fromkeys(row["size"] for row in rows):
        same = [row for row in rows if row["size"] == size]
        mean = {name: statistics.mean(row[name] for row in same) for name in ("label", "distilled", "teacher", "ratio")}
        expected = expected_ratio(10_000, size, 500) if size > 501 else None
        worst = max(row["projection_error"] for row in same)
        means.append({"size": size} | mean | {"expected_ratio": expected, "projection_error": worst})
    print_rows("least squares on 10,000 samples of 500 features: excess risk over 5 subsets", means)
    write_csv(out / "kd_linear.csv", rows)
    variances = list(variance_rows())
    print_rows("variance of a fixed predictor's empirical risk, 2,000 draws", variances)
    write_csv(out / "kd_variance.csv", variances)


def variance_rows() -> Iterator[Row]:
    """Labels against the posterior as a teacher, on ten Gaussian classes."""
    from kd.losses import LabelCrossEntropy

    problem = GaussianClasses.drawn()
    x, y = problem.draw(400, torch.Generator().manual_seed(1))
    student = fit_linear(problem, x, y, LabelCrossEntropy(), decay=0.01)
    exact = exact_moments(problem, student)
    drawn = draw_risks(problem, student, [25, 100, 400, 1600], draws=2000, seed=5)
    for size, (by_label, by_posterior) in drawn.items():
        label, bayes = float(by_label.var()), float(by_posterior.var())
        row = {"size": size, "label_mean": float(by_label.mean()), "bayes_mean": float(by_posterior.mean())}
        row |= {"label_variance": label, "bayes_variance": bayes, "ratio": label / bayes}
        yield row | {"difference_times_size": (label - bayes) * size, "expected": exact.within_variance}


def exact_moments(problem: GaussianClasses, student: LinearStudent) -> RiskMoments:
    """What the variances come to, from 200,000 samples."""
    x, _ = problem.draw(200_000, torch.Generator().manual_seed(6))
    posterior = torch.softmax(problem.logits(x), 1)
    return risk_moments(-torch.log_softmax(student(x), 1), posterior, posterior)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, help="folders that dinopl sweep has made")
    parser.add_argument("--out", type=Path, default=Path("runs/kd"), help="folder of CSVs and figures")
    parser.add_argument("--refit", action="store_true", help="refit the students' heads on the whole pool")
    parser.add_argument("--alignment", action="store_true", help="compare the features of students with one another")
    parser.add_argument("--risk", action="store_true", help="bias and variance of the teacher's estimate of the risk")
    parser.add_argument("--theory", action="store_true", help="linear models and the variance of the objective")
    return parser.parse_args()


def main() -> None:
    """Prints tables and writes CSVs and figures."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.studies:
        analyse(path, options.out)
        if options.refit:
            refit(path, options.out)
        if options.alignment:
            alignment(path, options.out)
        if options.risk:
            risk(path, options.out)
    if options.theory:
        theory(options.out)


if __name__ == "__main__":
    main()
