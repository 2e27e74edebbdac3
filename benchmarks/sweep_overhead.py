"""What a run costs under `dinopl sweep` beside the same `dinopl fit` in a process that has imported everything.

A sweep's worker takes a run from the queue, writes what it is, makes it, and tells what came of it; Optuna's journal is
written to the disk at each of these. Our aim: at most 10 %, and at most half a second, more than the run alone.

    python benchmarks/sweep_overhead.py [--config configs/random_teacher.yaml] [--runs 5] [--OPTION VALUE ...]

Both take turns in one process, with the same seeds, so that a busy machine slows both alike; the median over the turns
is reported, of wall-clock time and of this process's CPU time. The first run of each is left out.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hardware import hardware, results_file, write_csv

from dinopl.cli.runs import run
from dinopl.sweep.file import read_sweep
from dinopl.sweep.grid import expand
from dinopl.sweep.request import Request
from dinopl.sweep.settle import settle_and_prepare
from dinopl.sweep.signals import Stopping
from dinopl.sweep.worker import Worker

AIM_SHARE, AIM_SECONDS = 0.10, 0.5


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of this process's CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        call()
    return time.perf_counter() - wall, time.process_time() - cpu


def take_turns(config: str, runs: int, words: Sequence[str], folder: Path) -> list[tuple[str, int, float, float]]:
    """Times (kind, seed, seconds, CPU seconds) of runs alone and of the same runs under a sweep."""
    (folder / "overhead.sweep.yaml").write_text(f"seeds: {runs + 1}\n")
    common = ["--config", config, *words, f"--trainer.default_root_dir={folder}"]
    request = Request.parse([*common, "--sweep", str(folder / "overhead.sweep.yaml"), "--workers", "1"])
    file = read_sweep(request.sweep)
    settled, _ = settle_and_prepare(request, file, expand(file))
    worker = Worker(settled.study, Stopping())
    rows = []
    for seed in range(runs + 1):
        rows.append(("alone", seed, *timed(lambda seed=seed: run("fit", [*common, f"--seed_everything={seed}"]))))
        rows.append(("sweep", seed, *timed(worker.step)))
    assert not worker.step(), "the sweep has runs left"
    return [row for row in rows if row[1] > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="configs/random_teacher.yaml")
    parser.add_argument("--runs", type=int, default=5)
    options, words = parser.parse_known_args()
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
