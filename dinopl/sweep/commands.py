"""A sweep as text: the commands of its runs, and a job array that joins the study."""

import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dinopl.sweep.folder import StudyFolder
from dinopl.sweep.plan import Runs
from dinopl.sweep.references import REFERENCE


def commands(folder: StudyFolder, runs: Runs) -> Iterator[str]:
    """A line of shell for each run, those that others depend on before these."""
    for job in runs.ordered():
        words = [*job.words, f"--trainer.default_root_dir={folder.path / job.kind}", f"--name={job.id}"]
        yield " ".join(["dinopl", "fit", *(quoted(each, folder, runs.trials) for each in words)])


def quoted(word: str, folder: StudyFolder, trials: Collection[str]) -> str:
    """A word for the shell, which looks up the files of other runs when it comes to them."""
    parts = REFERENCE.split(word)  # text, reference, text, ...
    pieces = [_newest(part, folder, trials) if i % 2 else part and shlex.quote(part) for i, part in enumerate(parts)]
    return "".join(pieces) or "''"


def _newest(reference: str, folder: StudyFolder, trials: Collection[str]) -> str:
    _, run, what = reference.split(".")
    path = folder.of("trials" if run in trials else "shared", run)
    below = "*/checkpoints/last.ckpt" if what == "checkpoint" else "*/"
    return f'"$(ls -td {shlex.quote(str(path))}/{below} | head -n 1)"'


def job_array(name: str, words: Sequence[str], tasks: int, cores: int, gpu: bool, directory: Path) -> str:
    """A script for ``sbatch`` of which every task is one worker of the same study.

    Args:
        name: of the study.
        words: of the sweep's command line.
        tasks: size of the array.
        cores: of each task.
        gpu: whether each task asks for a GPU.
        directory: where the sweep was started.
    """
    own = [*words, "--workers=1"]
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={shlex.quote(name.replace('/', '-'))}",
        "# as many tasks as you like, now or later: all work on the same study",
        f"#SBATCH --array=0-{tasks - 1}",
        "#SBATCH --ntasks=1",
        f"#SBATCH --cpus-per-task={cores}",
        *(["#SBATCH --gres=gpu:1"] if gpu else []),
        "#SBATCH --time=04:00:00",
        "# two minutes before the end, the run in hand goes back to the queue",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --requeue",
        f"cd {shlex.quote(str(directory))} || exit 1",
        shlex.join(["exec", sys.executable, "-m", "dinopl", "sweep", *own]),
    ]
    return "\n".join(lines) + "\n"
