"""The entry point: sends the words of the command line to a run or a tool, and turns mistakes into exit codes.

torch and Lightning are imported only for what needs them, so that help, versions and refusals come at once.
"""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dinopl.core.errors import DivergenceError, ProcessDied, UserMistake, did_you_mean

RUNS = ("fit", "validate", "test", "predict")
TOOLS = ("sweep", "configs", "export", "probe", "report", "runs", "cite", "doctor")

HELP = """\
usage: dinopl COMMAND [--config FILE ...] [--OPTION VALUE ...]

Student/teacher self-distillation, fixed-point RNNs and knowledge distillation as Lightning modules.

runs:
  fit        train, and test at the end
  validate   losses and scores on the split held out of the training data
  test       losses and scores on the test split
  predict    what the model answers, with its index, to predictions.npz

tools:
  sweep      many runs from one file, on any number of processes and machines; go on where it stopped
  report     runs or a study as a table over seeds, differences, a figure; or two runs side by side
  runs       ls [FOLDER] | best --metric METRIC [FOLDER]: the runs of a study or folder, one per line; the best ones
  configs    ls | show NAME | cp NAME [DIRECTORY] | schema: the shipped configurations, and their JSON schema
  export     a checkpoint's encoders and heads to safetensors, for dinopl.load_encoder
  probe      probes of a finished run, or of any encoder by name, on any data set
  cite       BibTeX of what a configuration or a run uses
  doctor     versions, devices, threads, data found: what to put into an issue

options of every run (all of them: dinopl fit --help, dinopl fit --model.help SelfDistillation):
  --config FILE            YAML; several are laid over one another, a later one wins, an option wins over all
  --ckpt_path FILE         resume (fit) or use (validate, test, predict) a checkpoint
  --seed_everything N      the run's seed, 0 by default
  --name NAME              the run's folder is DIR/NAME/TIME; by default the first configuration's name
  --trainer.default_root_dir DIR   where run folders go, runs by default
  --threads N              CPU threads of this process
  --print_config           the complete configuration, then stop
  --traceback              show where a mistake was found
  --version                versions of dinopl, torch and lightning

try:
  dinopl fit --config configs/random_teacher.yaml
  dinopl fit --config configs/fprnn/parity.yaml --model.layer DiagonalRNN
  dinopl configs ls
"""


class Output:
    """Standard output that falls silent once it cannot be written to, so that no run is lost for it.

    Its reader may have ended (``dinopl fit | head``), or the disk of its file be full.

    Args:
        stream: where the text goes.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        """All but writing is the stream's own."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes; to nowhere once that has failed. What the stream's encoding lacks is replaced."""
        try:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:  # before any of it was written
                plain, encoding = text.replace("±", "+/-"), self.stream.encoding
                self.stream.write(plain.encode(encoding, errors="replace").decode(encoding))
        except OSError:
            self.fall_silent()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes one after another."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes; likewise."""
        try:
            self.stream.flush()
        except OSError:
            self.fall_silent()

    def fall_silent(self) -> None:
        """Sends what is left in the buffers, and all that follows, to nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: the words after ``dinopl``; by default those of the process.

    Returns:
        0; or 2 after a user's mistake, 1 after a run that diverged or where another process of it has died, 130 after
        Ctrl-C. SIGTERM leaves with 143, SIGHUP with 129, and with 138 a SIGUSR1 that put a SLURM job back into the
        queue. Any other error is raised.
    """
    # A thread that waits for work by spinning takes it from whoever has some: on a busy machine that made steps of a
    # small network 90 times slower. OpenMP reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook's backend need not be installed where we are
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by the shell (>&-); the next file to be opened would take its place
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115 - for the life of the process
    words = list(sys.argv[1:] if args is None else args)
    show_traceback = "--traceback" in words
    try:
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(contextlib.redirect_stdout(Output(sys.stdout)))
            if sys.stderr is sys.__stderr__:  # otherwise it is a notebook's or a test's
                stack.enter_context(contextlib.redirect_stderr(Output(sys.stderr)))
            try:
                return _dispatch([word for word in words if word != "--traceback"])
            finally:
                output.flush()
    except (UserMistake, DivergenceError, ProcessDied) as mistake:
        if show_traceback:
            traceback.print_exc()
        rank = os.environ.get("LOCAL_RANK", "0")
        of = "" if rank == "0" or os.environ.get("WORLD_SIZE", "1") == "1" else f" (process {rank})"
        sys.stderr.write(f"dinopl: error{of}: {mistake}\n")
        return 2 if isinstance(mistake, UserMistake) else 1
    except KeyboardInterrupt:
        sys.stderr.write("dinopl: interrupted\n")
        return 130
    except SystemExit as stop:  # argparse leaves this way after printing help
        if not stop.code:
            return 0
        raise


def _dispatch(words: list[str]) -> int:
    match words:
        case [] | ["--help" | "-h" | "help", *_]:
            sys.stdout.write(HELP)
        case ["--version", *_]:
            for package in ("dinopl", "torch", "lightning"):
                try:
                    found = version(package)
                except PackageNotFoundError:
                    found = "not installed"
                sys.stdout.write(f"{package} {found}\n")
        case [tool, *rest] if tool in TOOLS:
            code: int = getattr(importlib.import_module(f"dinopl.cli.tools.{tool}"), tool)(rest)
            return code
        case [command, *rest] if command in RUNS:
            from dinopl.cli.config import Arguments, read_config

            arguments = Arguments.parse(command, rest)
            for file in arguments.files:  # a missing file is reported before torch is imported
                read_config(file)
            from dinopl.cli.runs import run

            run(command, rest)
        case [command, *_]:
            hint = did_you_mean(command, [*RUNS, *TOOLS, "--help", "--version"])
            raise UserMistake(f"{command}: no such command{hint} `dinopl --help` lists them.")
    return 0
