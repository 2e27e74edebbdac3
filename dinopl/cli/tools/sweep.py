"""``dinopl sweep``: many runs from one file."""

import contextlib
import importlib.util
import os
import shlex
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from dinopl.cli.config import Arguments, Config, parse_value, read_config
from dinopl.core.errors import UserMistake, did_you_mean
from dinopl.core.files import cannot_write, why_not_writable
from dinopl.sweep.file import Sweep, check_name, read_sweep
from dinopl.sweep.grid import REFERENCE, Point, corners, expand
from dinopl.sweep.plan import Job, Planner, grouped, plain_name
from dinopl.sweep.study import LOG, Study, cores, read_json, write

HELP = """\
usage: dinopl sweep --config BASE.yaml --sweep SWEEP.yaml [--workers N] [--OPTION VALUE ...]

Runs every point of a sweep file, on this machine or on a Dask cluster.
Stop it and start it again: what is finished stays, the rest goes on.

  --sweep FILE        what is swept; docs/sweeps.md describes the file
  --config FILE       the base configuration, as of dinopl fit
  --workers N         runs at a time on this machine; by default one a GPU, or one
  --scheduler ADDRESS make the runs on the Dask cluster of this scheduler, such as tcp://HOST:8786
  --retries N         further attempts of a run that fails, 2 by default
  --retry-failed      give runs another round whose attempts are used up
  --print-commands    print the runs' own commands instead
  --name NAME         of the study, by default the sweep file's; it lies in DIR/NAME
  --trainer.default_root_dir DIR
  and every other option of dinopl fit, for all runs
"""
VALUES = ("sweep", "workers", "scheduler", "retries")
FLAGS = ("print-commands", "retry-failed", "help")
GONE = ("slurm", "storage")
PLACE = ("name", "trainer.default_root_dir")
SHOWN = 10  # failures


def sweep(words: Sequence[str]) -> int:
    """Runs ``dinopl sweep`` with the words after it; 1 if the study is not complete."""
    own, flags, arguments = separate(words)
    if "help" in flags:
        sys.stdout.write(HELP)
        return 0
    prints, workers = "print-commands" in flags, int(own["workers"]) if "workers" in own else None
    try:
        file = read_sweep(
            read_config(own["sweep"], "--sweep"), Path(own["sweep"]).name.removesuffix(".yaml").removesuffix(".sweep")
        )
        points = corners(file) if file.search else expand(file)
    except ValueError as error:
        raise UserMistake(f"--sweep {own['sweep']}: {error}.") from error
    arguments.files = arguments.files or list(file.config)
    for each in arguments.files:
        read_config(each)
    if file.search and prints:
        raise UserMistake("--print-commands: a search finds its points as it goes; only a grid has commands to print.")
    for package in ("distributed", *(["optuna"] if file.search else [])) if not prints else ():
        if sys.modules.get(package, package) is None or importlib.util.find_spec(package) is None:
            raise UserMistake(f"dinopl sweep needs {package}: pip install 'dinopl[sweep]'")
    if workers is not None:  # libraries that torch's number of threads does not reach read it when they load
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // workers)))
    if not prints and "scheduler" not in own:
        from dinopl.sweep.engine import prepare_workers

        prepare_workers(["dinopl.cli.runs"])

    here = prints or "scheduler" in own or bool(file.search) or sys.platform != "linux"
    if here or "dinopl.cli.runs" in sys.modules:
        study, planner, jobs = plan(file, points, arguments)
        environments = [] if prints or "scheduler" in own else places(workers, next(iter(jobs.values())).config)
    else:  # in a fork of the process that imports everything for the workers, so that this one need not import it too
        receive, send = Pipe(duplex=False)
        context = get_context("forkserver")
        process = context.Process(target=plan_grid, args=(send, file, points, arguments, workers), daemon=True)
        process.start()
        send.close()
        try:
            planned = receive.recv()
        except EOFError:  # it has said on the terminal what happened to it
            raise SystemExit(1) from None
        if isinstance(planned, UserMistake):
            raise planned
        (study, jobs, environments), planner = planned, None
    if prints:
        sys.stdout.writelines(f"{each}\n" for each in commands(study.path, jobs))
        return 0
    if doubles := 0 if file.search else len(points) - sum(job.kind == "trials" for job in jobs.values()):
        sys.stderr.write(f"{study.sweep.name}: {doubles} points come to the same run as another, and are run once\n")
    study = replace(study, retries=int(own.get("retries", 2)), threads=cores() // (len(environments) or 1))
    study = replace(study, session=uuid.uuid4().hex, threads=max(study.threads, 1) if environments else 0)
    return run(study, planner, jobs, own.get("scheduler"), environments, "retry-failed" in flags)


def separate(words: Sequence[str]) -> tuple[dict[str, str], set[str], Arguments]:
    """The sweep's own options and flags, and the options of the runs.

    Raises:
        UserMistake: if an own option is wrong or missing.
    """
    own: dict[str, str] = {}
    flags: set[str] = set()
    rest: list[str] = []
    for group in grouped(words):
        name = group[0].removeprefix("--").partition("=")[0].replace("_", "-")
        if name in FLAGS or group[0] == "-h":
            flags.add("help" if group[0] == "-h" else name)
        elif name in VALUES:
            own[name] = group[0].partition("=")[2] or " ".join(group[1:])
        elif name in GONE:
            raise UserMistake(f"--{name}: is gone; docs/sweeps.md says how to share a study with --scheduler ADDRESS.")
        else:
            rest += group
    for name, value in own.items():
        if not value:
            raise UserMistake(f"--{name} needs a value.")
    for name, least in (("workers", 1), ("retries", 0)):
        text = own.get(name, str(least))
        if not text.isdigit() or int(text) < least:
            raise UserMistake(f"--{name} {text}: must be a whole number of at least {least}.")
    if "workers" in own and "scheduler" in own:
        raise UserMistake("--workers: a cluster has its own workers; leave it out beside --scheduler.")
    if "sweep" not in own and "help" not in flags:
        raise UserMistake("sweep: needs --sweep FILE; `dinopl sweep --help` says more.")
    return own, flags, Arguments.parse("fit", rest)


def plan(file: Sweep, points: Sequence[Point], arguments: Arguments) -> tuple[Study, Planner, dict[str, Job]]:
    """Puts every run's options through the parser; nothing is written.

    Args:
        file: the sweep file.
        points: of the grid; of a search, some that show what it draws from.
        arguments: base configurations and the options given beside.

    Returns:
        The study, what makes runs of points, and the runs by id, each after those that it needs.

    Raises:
        UserMistake: for whatever is wrong with the options, or what they come to.
    """
    from dinopl.cli.resolve import compose
    from dinopl.cli.runs import OPTIONS

    swept = {plain_name(option) for option in file.swept()}
    for group in grouped(arguments.options):
        option = plain_name(group[0])
        if option in swept:
            raise UserMistake(f"--{option}: is swept by the sweep file; leave it out here, or there.")
        if "." not in option and option not in OPTIONS:
            raise UserMistake(f"--{option}: no such option{did_you_mean(option, [*VALUES, *FLAGS, *OPTIONS])}")
    if arguments.print_config:
        raise UserMistake("--print_config: of which run? --print-commands prints them all, to add it to one.")
    values = {".".join(path): value for path, value in arguments.pairs()}
    beside = [each for group in grouped(arguments.options) if plain_name(group[0]) not in PLACE for each in group]
    beside = [*(f"--trusted-modules={name}" for name in arguments.trusted_modules), *beside]
    plain = {plain_name(option): value for option, value in values.items()}
    given = {option: parse_value(value, option.split(".")) for option, value in plain.items() if option not in PLACE}
    file = replace(file, name=values.get("name", file.name))
    try:
        check_name(file.name)
    except ValueError as error:
        raise UserMistake(f"--name: {error}.") from error
    trainers = [read_config(each).get("trainer") or {} for each in reversed(arguments.files)]
    root = next((each["default_root_dir"] for each in trainers if "default_root_dir" in each), "runs")
    path = Path(values.get("trainer.default_root_dir") or root) / file.name
    study = Study(file, path.absolute(), Path.cwd())
    planner = Planner(file, arguments.files, beside, given, compose, read_config, *study.known())
    jobs = planner.jobs(points)
    for job in jobs.values():
        refuse_several_devices(job.config)
    return study, planner, jobs


def plan_grid(
    send: Connection, file: Sweep, points: Sequence[Point], arguments: Arguments, workers: int | None
) -> None:
    """Sends to another process what :func:`plan` gives of a grid, and the environments of its workers."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends with the driver, without a word
    try:
        study, _, jobs = plan(file, points, arguments)
        send.send((study, jobs, places(workers, next(iter(jobs.values())).config)))
    except UserMistake as mistake:
        send.send(mistake)


def refuse_several_devices(config: Config) -> None:
    """Raises ``UserMistake`` for a run of several processes, which a worker cannot be."""
    trainer = config["trainer"]
    devices = trainer.get("devices", 1)
    several = len(devices) > 1 if isinstance(devices, list) else str(devices) not in ("1", "auto")
    for option, refused in (("devices", several), ("num_nodes", trainer.get("num_nodes", 1) != 1)):
        if refused:
            raise UserMistake(
                f"--trainer.{option} {trainer[option]}: a sweep gives each run one device and makes several at a time "
                "(--workers); for runs on several devices let --print-commands print them."
            )


def places(workers: int | None, config: Config) -> list[dict[str, str]]:
    """The environment of each worker of this machine, with a GPU of its own where there are some.

    Args:
        workers: how many; None for one a GPU, or one where there are none.
        config: of a run.
    """
    gpus: list[str] = []
    if config["trainer"].get("accelerator", "auto") != "cpu":
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = list(map(str, range(torch.cuda.device_count()))) if visible is None else visible.split(",")
        gpus = [name.strip() for name in gpus if name.strip()]
    number = workers if workers is not None else max(len(gpus), 1)
    own = [{"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {} for index in range(number)]
    return [os.environ | each for each in own]


def commands(path: Path, jobs: Mapping[str, Job]) -> Iterator[str]:
    """A line of shell for each run, those that others depend on before these.

    Args:
        path: the study's folder.
        jobs: its runs, in this order.
    """
    for job in jobs.values():
        line = ["dinopl", "fit"]
        for each in [*job.words, f"--trainer.default_root_dir={path / job.kind}", f"--name={job.id}"]:
            pieces = REFERENCE.split(each)  # text, reference, text, ...
            for position in range(0, len(pieces), 2):
                pieces[position] = pieces[position] and shlex.quote(pieces[position])
            for position in range(1, len(pieces), 2):  # looked up by the shell, when it comes to this line
                _, run, what = pieces[position].split(".")
                folder = shlex.quote(str(path / jobs[run].kind / run))
                below = "*/checkpoints/last.ckpt" if what == "checkpoint" else "*/"
                pieces[position] = f'"$(ls -td {folder}/{below} | head -n 1)"'
            line.append("".join(pieces) or "''")
        yield " ".join(line)


def run(
    study: Study,
    planner: Planner | None,
    jobs: dict[str, Job],
    scheduler: str | None,
    environments: Sequence[Mapping[str, str]],
    retry_failed: bool,
) -> int:
    """Writes what the study is, and makes its runs; one driver at a time.

    Args:
        study: the study.
        planner: makes runs of the points that a search draws; a grid needs none.
        jobs: the runs of a grid; of a search, some that it might draw.
        scheduler: address of a Dask scheduler; None for workers of this machine.
        environments: of these.
        retry_failed: whether to give runs that failed another round.
    """
    from filelock import FileLock, Timeout

    from dinopl.sweep.engine import Driver, cluster
    from dinopl.sweep.search import conflict

    name, path, file = study.sweep.name, study.path, study.sweep
    if file.search and (changed := conflict(file, study.facts())):
        raise UserMistake(
            f"--sweep: {changed} is not what the search {name!r} began with, and its choices cannot change; give it "
            "another name with --name."
        )
    if problem := why_not_writable(path):
        raise UserMistake(problem)
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _stop) if main else None
    try:
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(cluster(scheduler, ())) if scheduler else None
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path / ".driver.lock", timeout=0))
            write(path / ".driver.json", f'{{"host": "{socket.gethostname()}", "pid": {os.getpid()}}}\n')
            jobs, note = study.begin(jobs)
            if note:
                sys.stderr.write(f"{name}: {note}\n")
            if retry_failed:
                study.retry_failed()
            driver = Driver(study, fit, file.trials if file.search else len(jobs))
            if file.search or not all(study.outcome(job) for job in jobs.values()):
                client = client or stack.enter_context(cluster(None, environments))
                stack.enter_context(driver.using(client))
            driver.search(planner) if planner is not None and file.search else driver.grid(jobs)
            driver.show(last=True)
    except Timeout:
        holder = read_json(path / ".driver.json")
        raise UserMistake(
            f"{path}: process {holder.get('pid')} on {holder.get('host')} makes this study's runs; wait for it, or "
            f"stop it there with `kill {holder.get('pid')}`."
        ) from None
    except OSError as error:
        raise UserMistake(cannot_write(path, error.strerror or str(error))) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
    failures = driver.failures()
    sys.stderr.writelines(f"failed: {failure}\n" for failure in failures[:SHOWN])
    if missing := driver.missing_metric():
        sys.stderr.write(f"{name}: {missing}\n")
    if failures:
        more = f"{len(failures) - SHOWN} more failed; " if len(failures) > SHOWN else ""
        sys.stderr.write(f"{more}their output is in {LOG} of their folders; --retry-failed tries them again\n")
    shown = os.path.relpath(path)
    sys.stdout.write(f"study: {shown}\ntable and figure: dinopl report {shown}\n")
    return int(bool(failures))


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def fit(words: Sequence[str]) -> None:
    """``dinopl fit`` with these words, in a worker."""
    from dinopl.cli.runs import run

    run("fit", words)
