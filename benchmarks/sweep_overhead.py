"""What a run costs under `dinopl sweep` beside the same `dinopl fit` in a process that has imported everything.

A task of a sweep looks into the run's folder, notes there that it begins, writes the run's configuration, makes the run
and reads what came of it; before it and after it, Dask passes messages. Our aim: at most 10 %, and at most half a
second, more than the run alone.

    python benchmarks/sweep_overhead.py [--config configs/random_teacher.yaml] [--runs 5] [--OPTION VALUE ...]

Both take turns in one worker's process with one thread, each as a task of its own with the same seeds, so that a busy
machine slows both alike; the median over the turns is reported, of the time until the driver has the answer and of the
worker's CPU time. The first run of each is left out.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hardware import hardware, results_file, write_csv

from dinopl.cli.config import Arguments
from dinopl.cli.tools.sweep import fit, plan
from dinopl.sweep.engine import cluster, make, prepare_workers
from dinopl.sweep.file import read_sweep
from dinopl.sweep.grid import expand

AIM_SHARE, AIM_SECONDS = 0.10, 0.5


def alone(words: list[str]) -> None:
    """A run as ``dinopl fit`` makes it, with its output put aside."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        fit(words)


def measured(call: Callable[..., object], *arguments: object) -> float:
    """CPU seconds of this process during a call."""
    cpu = time.process_time()
    call(*arguments)
    return time.process_time() - cpu


def take_turns(config: str, runs: int, words: Sequence[str], folder: Path) -> list[tuple[str, int, float, float]]:
    """Times (kind, seed, seconds, CPU seconds) of runs alone and of the same runs under a sweep."""
    sweep = read_sweep({"seeds": runs + 1}, "overhead")
    common = [*words, f"--trainer.default_root_dir={folder}"]
    study, _, jobs = plan(sweep, expand(sweep), Arguments.parse("fit", [f"--config={config}", *common]))
    study = replace(study, threads=1, session="benchmark")
    study.path.mkdir(parents=True)
    jobs, _ = study.begin(jobs)
    rows = []
    prepare_workers(["dinopl.cli.runs"])
    with cluster(None, [dict(os.environ)]) as client:
        for job in jobs.values():
            seed = job.config["seed_everything"]
            given = [f"--config={config}", *common, "--threads=1", f"--seed_everything={seed}"]
            for kind, call in (("alone", (alone, given)), ("sweep", (make, study, job, fit))):
                start = time.perf_counter()
                cpu = client.submit(measured, *call, pure=False).result()
                rows.append((kind, seed, time.perf_counter() - start, cpu))
    assert all(study.outcome(job) for job in jobs.values()), "the sweep has runs left"
    return [row for row in rows if row[1] > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="configs/random_teacher.yaml")
    parser.add_argument("--runs", type=int, default=5)
    options, words = parser.parse_known_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
    with tempfile.TemporaryDirectory() as folder:
        rows = take_turns(options.config, options.runs, words, Path(folder))
    print(f"{hardware()}, torch {torch.__version__}, {options.runs} runs of {options.config} {' '.join(words)}")
    print(f"{'':6} {'seconds':>8} {'CPU seconds':>12}")
    medians = {}
    for kind in ("alone", "sweep"):
        medians[kind] = [statistics.median(row[place] for row in rows if row[0] == kind) for place in (2, 3)]
        print(f"{kind:6} {medians[kind][0]:8.2f} {medians[kind][1]:12.2f}")
    for name, before, after in zip(("seconds", "CPU seconds"), *medians.values(), strict=True):
        more = after - before
        verdict = "within" if more <= min(AIM_SHARE * before, AIM_SECONDS) else "beyond"
        print(f"{name}: {more:+.2f} ({more / before:+.1%}), {verdict} the aim")
    columns = ("kind", "seed", "seconds", "cpu_seconds")
    write_csv(results_file("sweep_overhead", "32-true"), [dict(zip(columns, row, strict=True)) for row in rows])


if __name__ == "__main__":
    main()
