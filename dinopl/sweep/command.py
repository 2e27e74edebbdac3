"""``dinopl sweep``: reads, hands on, reports.

This process imports neither torch nor Lightning: what needs them happens in others, which share them.
"""

import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from dinopl.cli.config import read_config
from dinopl.core.errors import UserMistake
from dinopl.sweep.commands import commands, job_array
from dinopl.sweep.devices import cores, gpus
from dinopl.sweep.file import Sweep, read_sweep
from dinopl.sweep.folder import LOG
from dinopl.sweep.grid import Point, corners, expand
from dinopl.sweep.processes import apart
from dinopl.sweep.request import HELP, Request
from dinopl.sweep.storage import need_optuna
from dinopl.sweep.words import grouped, plain_name

SHOWN = 10  # failures


def sweep(words: Sequence[str]) -> int:
    """Runs ``dinopl sweep`` with the words after it; 1 if the study is not complete."""
    request = Request.parse(words)
    if "help" in request.flags:
        sys.stdout.write(HELP)
        return 0
    file = read_sweep(request.sweep)
    for each in request.arguments.files or file.config:
        read_config(each)
    if request.prints:
        return _print(request, file, words)
    need_optuna()
    return _run(request, file)


def _points(request: Request, file: Sweep) -> list[Point]:
    """The points of a grid; of a search, some that show what it draws from."""
    try:
        return corners(file) if file.search else expand(file)
    except ValueError as error:
        raise UserMistake(f"--sweep {request.sweep}: {error}.") from error


def _print(request: Request, file: Sweep, words: Sequence[str]) -> int:
    from dinopl.sweep.settle import settle

    if file.search and "print-commands" in request.flags:
        raise UserMistake("--print-commands: a search finds its points as it goes; only a grid has commands to print.")
    settled = settle(request, file, _points(request, file))
    if "print-commands" in request.flags:
        sys.stdout.writelines(f"{each}\n" for each in commands(settled.study.folder, settled.study.runs))
        return 0
    config = settled.example.config
    own = [each for group in grouped(words) if plain_name(group[0]) not in ("slurm", "workers") for each in group]
    gpu = config["trainer"].get("accelerator") in ("gpu", "cuda") or bool(gpus(os.environ))
    threads = config.get("threads") or 1
    sys.stdout.write(job_array(settled.study.sweep.name, own, request.workers or 1, threads, gpu, Path.cwd()))
    return 0


def _run(request: Request, file: Sweep) -> int:
    from dinopl.sweep.settle import settle_and_prepare
    from dinopl.sweep.supervisor import Supervisor

    if request.workers is not None:  # libraries that torch's number of threads does not reach read it when they load
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // request.workers)))
    settled, environments = apart(settle_and_prepare, request, file, _points(request, file))
    study = settled.study
    for note in settled.notes:
        sys.stderr.write(f"{study.sweep.name}: {note}\n")
    supervisor = Supervisor(study, environments)
    progress = supervisor.run()
    for failure in islice(supervisor.failures(), SHOWN):
        sys.stderr.write(f"failed: {failure}\n")
    if missing := supervisor.missing_metric():
        sys.stderr.write(f"{study.sweep.name}: {missing}\n")
    if progress.failed:
        more = f"{progress.failed - SHOWN} more failed; " if progress.failed > SHOWN else ""
        sys.stderr.write(f"{more}their output is in {LOG} of their folders; --retry-failed tries them again\n")
    if progress.running:
        sys.stderr.write(f"{progress.running} runs go on elsewhere\n")
    shown = os.path.relpath(study.folder.path)
    sys.stdout.write(f"study: {shown}\ntable and figure: dinopl report {shown}\n")
    return int(progress.failed + progress.left > 0)
