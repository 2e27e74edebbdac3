"""The claim of the random-teacher paper over the runs of a folder: how much better students probe than teachers.

    for seed in 0 1 2; do dinopl fit --config configs/random_teacher.yaml --seed_everything $seed; done
    python benchmarks/probe_gains.py runs/random_teacher

Prints the mean and standard deviation over the runs, and writes a CSV with one row per run. It reads the finished runs
of ``dinopl fit``, which must have different seeds and one precision and version of torch; the hardware in the CSV's
name is this machine's.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from hardware import RESULTS, hardware, write_csv

from dinopl.reports import Run

SUBJECTS = ("input", "teacher", "student")


def row(run: Run) -> dict[str, object]:
    """The last probe accuracies of a run on the test and validation splits."""
    probes = {name: value for name, value in run.metrics.items() if name.startswith(("probe/", "probe_val/"))}
    return {"seed": run.seed, "status": run.status, "duration_s": facts(run).get("duration_s"), **probes}


def facts(run: Run) -> dict[str, object]:
    """The run's command, and the wall time of fit and test together."""
    return json.loads((run.path / "results.json").read_text(encoding="utf-8"))


def finished_fits(folder: Path) -> list[Run]:
    """The finished runs of ``fit`` by seed; exits where there is none, or a seed has several."""
    runs = [Run.load(path.parent) for path in sorted(folder.glob("**/results.json"))]
    runs = [run for run in runs if run.status == "finished" and facts(run).get("command") == "fit"]
    if not runs:
        raise SystemExit(f"{folder}: no finished run of `dinopl fit` below it")
    seeds = [run.seed for run in runs]
    if repeated := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise SystemExit(f"{folder}: {seeds.count(repeated[0])} runs have the seed {repeated[0]}; keep one per seed")
    return sorted(runs, key=lambda run: str(run.seed))


def common(what: str, values: Sequence[object]) -> str:
    """The value that all runs share; exits where they differ."""
    if len(found := sorted({str(value) for value in values})) > 1:
        raise SystemExit(f"the runs differ in {what}: {', '.join(found)}; give runs that agree in it")
    return found[0]


def print_gains(rows: list[dict[str, object]]) -> None:
    """One line per probe: means over the runs, and the gain with its standard deviation, in points."""
    names = [str(key).rsplit("/", 1)[1] for key in rows[0] if str(key).startswith("probe/student/")]
    print(f"{'probe':<20}" + "".join(f"{subject:>9}" for subject in SUBJECTS) + f"{'gain':>9}{'sd':>7}{'least':>8}")
    for name in names:
        values = {s: [100 * float(str(r[f"probe/{s}/{name}"])) for r in rows] for s in SUBJECTS}
        gains = [student - teacher for student, teacher in zip(values["student"], values["teacher"], strict=True)]
        spread = f"{statistics.stdev(gains):.1f}" if len(gains) > 1 else "-"
        means = "".join(f"{statistics.mean(values[subject]):>9.1f}" for subject in SUBJECTS)
        print(f"{name:<20}{means}{statistics.mean(gains):>+9.1f}{spread:>7}{min(gains):>+8.1f}")


def main() -> None:
    """Reads the runs below a folder, prints the table and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder of run folders, such as runs/random_teacher")
    parser.add_argument("--name", help="first part of the CSV's name; by default the folder's")
    options = parser.parse_args()
    runs = finished_fits(options.runs)
    precision = common("precision", [run.config.get("trainer", {}).get("precision") or "32-true" for run in runs])
    torch = common("the version of torch", [run.versions.get("torch") for run in runs]).split("+")[0]
    rows = [row(run) for run in runs]
    print_gains(rows)
    write_csv(RESULTS / f"{options.name or options.runs.name}_{hardware()}_{precision}_torch{torch}.csv", rows)


if __name__ == "__main__":
    main()
