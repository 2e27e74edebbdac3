"""Draws the README's figure: probe accuracy of student and teacher against epochs, mean over seeds with a band.

    for seed in 0 1 2; do dinopl fit --config random_teacher --seed_everything $seed --model.probe_epochs 1; done
    python benchmarks/random_teacher_figure.py runs/random_teacher docs/figures/random_teacher.png

The band is one standard deviation over the runs of the folder. A CSV beside the figure has the values drawn.
"""

import argparse
from pathlib import Path

import matplotlib
import pandas as pd

PROBES = {"linear": "linear probe", "linear_standardized": "linear probe, standardised", "knn": "k-NN, k = 20"}
COLORS = {"student": "#0072B2", "teacher": "#D55E00"}


def courses(folder: Path) -> pd.DataFrame:
    """Mean and standard deviation over the runs of a folder, in percent of the test split, by epoch."""
    runs = [pd.read_csv(path).dropna(subset=["probe/epoch"]) for path in sorted(folder.glob("*/metrics.csv"))]
    columns = [f"probe/{who}/{probe}" for probe in PROBES for who in ("student", "teacher", "input")]
    together = pd.concat(runs).groupby("probe/epoch")[columns]
    found = (100 * together.mean()).join((100 * together.std()).add_suffix(" sd"))
    found.index.name = "epoch"
    found.attrs["runs"] = len(runs)
    return found


def draw(found: pd.DataFrame, target: Path) -> None:
    """One panel per probe: student and teacher with bands, the raw pixels as one thin line."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PROBES), figsize=(9.6, 3.0), sharey=True, layout="constrained")
    for axis, (probe, title) in zip(axes, PROBES.items(), strict=True):
        for who, color in COLORS.items():
            mean, sd = found[f"probe/{who}/{probe}"], found[f"probe/{who}/{probe} sd"]
            axis.plot(found.index, mean, color=color, label=who, linestyle="-" if who == "student" else "--")
            axis.fill_between(found.index, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)
        axis.plot(found.index, found[f"probe/input/{probe}"], color="0.6", linewidth=0.8, label="raw pixels")
        axis.set(title=title, xlabel="epoch", xlim=(0, found.index.max()))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy (% of the test split)")
    axes[-1].legend(frameon=False, loc="lower right")
    figure.savefig(target, dpi=150)


def main() -> None:
    """Reads the runs, writes the CSV and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder with one run per seed")
    parser.add_argument("target", type=Path, help="the figure's file")
    arguments = parser.parse_args()
    found = courses(arguments.runs)
    found.to_csv(arguments.target.with_suffix(".csv"), float_format="%.4g")
    draw(found, arguments.target)
    print(f"{arguments.target}: mean and standard deviation over {found.attrs['runs']} runs")


if __name__ == "__main__":
    main()
