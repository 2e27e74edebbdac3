"""The claim of the random-teacher paper, over the runs of a folder: how much better students probe than their teachers.

    for seed in 0 1 2; do dinopl fit --config configs/random_teacher.yaml --seed_everything $seed; done
    python benchmarks/probe_gains.py runs/random_teacher

Prints the mean and standard deviation over the runs, and writes a row a run.
"""

import argparse
import statistics
from pathlib import Path

from hardware import results_file, write_csv

from dinopl.results import Run

SUBJECTS = ("input", "teacher", "student")


def row(run: Run) -> dict[str, object]:
    """The last figures of a run: the test split, and the validation split beside it."""
    probes = {name: value for name, value in run.metrics.items() if name.startswith(("probe/", "probe_val/"))}
    return {"seed": run.seed, "status": run.status, "duration_s": duration(run), **probes}


def duration(run: Run) -> object:
    """Wall time of fit and test together, as the run's own file has it."""
    import json

    return json.loads((run.path / "results.json").read_text()).get("duration_s")


def print_gains(rows: list[dict[str, object]]) -> None:
    """A line a probe: means over the runs, and the gain with its standard deviation, in points."""
    names = [str(key).rsplit("/", 1)[1] for key in rows[0] if str(key).startswith("probe/student/")]
    print(f"{'probe':<20}" + "".join(f"{subject:>9}" for subject in SUBJECTS) + f"{'gain':>9}{'sd':>7}{'least':>8}")
    for name in names:
        values = {s: [100 * float(str(r[f"probe/{s}/{name}"])) for r in rows] for s in SUBJECTS}
        gains = [student - teacher for student, teacher in zip(values["student"], values["teacher"], strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
        means = "".join(f"{statistics.mean(values[subject]):>9.1f}" for subject in SUBJECTS)
        print(f"{name:<20}{means}{statistics.mean(gains):>+9.1f}{spread:>7.1f}{min(gains):>+8.1f}")


def main() -> None:
    """Reads every finished run below a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder of run folders, such as runs/random_teacher")
    parser.add_argument("--name", help="first part of the CSV's name; by default the folder's")
    options = parser.parse_args()
    runs = [Run.load(path.parent) for path in sorted(options.runs.glob("**/results.json"))]
    if not runs:
        raise SystemExit(f"{options.runs}: no finished run below it")
    rows = sorted(map(row, runs), key=lambda r: str(r["seed"]))
    print_gains(rows)
    precision = str(runs[0].config.get("trainer", {}).get("precision") or "32-true")
    write_csv(results_file(options.name or options.runs.name, precision), rows)


if __name__ == "__main__":
    main()
