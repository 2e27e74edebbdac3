"""The long trials of docs/trust.md: runs that are killed again and again, and many runs in one process.

``python -m tests.soak kills --trials 20`` kills runs of each family at random moments, every second time while a
checkpoint is written; ``long --minutes 20`` does so with one run of each family; ``fits --count 200`` trains in one
process and measures what each run leaves behind; ``ranks --trials 2`` kills either of two processes, and is lost if
the other is there a minute later, or leaves no word and no status. A run that was killed goes on as a SLURM job does
that is put back into the queue, in its own folder. A trial is lost if a weight or a row of ``metrics.csv`` differs
from the run without interruption in one bit, or a file in the folder cannot be read. The exit code is 1 if any is
lost.
"""

import argparse
import contextlib
import csv
import gc
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FAST = "--trainer.enable_model_summary=false --trainer.accelerator=cpu --trainer.num_sanity_val_steps=0 --name=run"
SAVING = {  # beside the checkpoint of each epoch, into the same file
    "class_path": "ModelCheckpoint",
    "init_args": {"filename": "last", "enable_version_counter": False, "every_n_train_steps": 3},
}
FAMILIES = {
    "self-distillation": "random_teacher.yaml --model.encoder.widths=[4,4] --model.head.hidden=[8] "
    "--model.head.bottleneck_dim=4 --model.head.out_dim=16 --trainer.limit_train_batches=8 --data.batch_size=16 "
    '--model.probes=[{"class_path":"KNNProbe"}]',
    "sequence model": "fprnn/parity.yaml --model.d_model=8 --data.steps_per_epoch=8 --data.train_length=8 "
    "--data.batch_size=8 --data.eval_lengths=[8] --data.val_size=24 --data.test_size=8 --data.eval_batch_size=8 "
    "--trainer.val_check_interval=5 --trainer.accumulate_grad_batches=3",
    "knowledge distillation": "kd/digits.yaml --data.steps_per_epoch=8 --data.data.batch_size=16 "
    "--trainer.val_check_interval=5 --data.data.val_size=24",
}


def words(family: str, root: Path, epochs: int) -> list[str]:
    """The command line of a family's run."""
    config, *options = FAMILIES[family].split()
    if family == "knowledge distillation":
        options += ["--model.objective=KLDistillation", "--model.teacher=RunTeacher"]
        options += [f"--model.teacher.path={teacher(root.parent)}"]
    options += [*FAST.split(), "--trainer.log_every_n_steps=1", f"--trainer.max_epochs={epochs}"]
    options += [f"--trainer.callbacks=[{json.dumps(SAVING)}]", f"--trainer.default_root_dir={root}"]
    return ["fit", "--config", str(ROOT / "configs" / config), *options]


def teacher(root: Path) -> Path:
    """The run folder of a classifier that teaches, trained at the first call."""
    place = root / "teacher"
    if not place.exists():
        options = ["--trainer.enable_model_summary=false", "--data.steps_per_epoch=30", "--name=run"]
        config = str(ROOT / "configs/kd/digits.yaml")
        assert wait(start(["fit", "--config", config, *options, f"--trainer.default_root_dir={place}"], 0)) == 0
    return next(place.glob("run/*"))


def start(command: list[str], number: int, output: str = os.devnull) -> int:
    """Runs the command in a forked process, as the start ``number`` of a SLURM job; its process id."""
    process = os.fork()  # a fork has all imports done, which take longer than a run
    if process:
        return process
    code = 1
    try:
        os.environ |= {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": str(number), "SLURM_JOB_NAME": "soak"}
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        from dinopl.cli import main

        code = main(command)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int) -> int:
    """The exit code of a process; negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill(process: int, root: Path, seconds: float, writing: bool) -> bool:
    """Kills a run after some time, or with the first checkpoint it writes after that; false if it has ended before."""
    deadline = time.monotonic() + seconds
    while True:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        late = time.monotonic() >= deadline
        if late and (not writing or any(root.glob("run/*/checkpoints/.last.ckpt*.tmp"))):
            os.kill(process, signal.SIGKILL)
            return True
        time.sleep(0.0005 if late else 0.01)


def outcome(root: Path) -> tuple[Any, Any]:
    """Weights and rows of metrics of the one run below a folder."""
    import torch

    (folder,) = (job.parent for job in root.glob("run/*/job.json"))
    assert json.loads((folder / "results.json").read_text())["status"] == "finished"
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return [state["state_dict"], state["optimizer_states"], state["lr_schedulers"]], rows


def difference(root: Path, whole: Path) -> str | None:
    """How a run that was killed differs from the one without interruption; None if in nothing."""
    from tests.test_resumption import same

    try:
        (state, rows), (expected, logged) = outcome(root), outcome(whole)
    except (AssertionError, ValueError, OSError, RuntimeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    if not same(state, expected):
        return "another end"
    return None if rows == logged else f"{len(rows)} rows of metrics, other than the {len(logged)}"


def survive(family: str, root: Path, epochs: int, kills: int, span: float, draw: random.Random) -> tuple[int, int]:
    """One run that is killed up to so many times, each within ``span`` seconds; kills, and exit code of the last start.

    Raises:
        AssertionError: if a kill leaves a checkpoint that cannot be read.
    """
    import torch

    done = 0
    command = words(family, root, epochs)
    while True:
        process = start(command, done, str(root) + ".log")
        if done >= kills or not kill(process, root, draw.uniform(0, span), writing=bool(draw.randrange(2))):
            return done, wait(process)
        wait(process)
        done += 1
        for checkpoint in root.glob("run/*/checkpoints/last.ckpt"):
            assert torch.load(checkpoint, weights_only=True)["state_dict"]


def kills(arguments: argparse.Namespace, root: Path) -> int:
    """The trials of ``kills`` and ``long``; how many are lost."""
    lost_in_all = 0
    draw = random.Random(arguments.seed)
    for number, family in enumerate(FAMILIES):
        if arguments.family not in (None, family):
            continue
        whole = root / f"whole-{number}"
        epochs = arguments.epochs
        begun = time.monotonic()
        assert wait(start(words(family, whole, epochs), 0, str(whole) + ".log")) == 0, (
            root / f"{whole}.log"
        ).read_text()
        seconds = time.monotonic() - begun
        if arguments.minutes:  # as many epochs as take about that long
            few = seconds
            begun = time.monotonic()
            shutil.rmtree(whole)
            assert wait(start(words(family, whole, 4 * epochs), 0)) == 0
            seconds = time.monotonic() - begun
            pace = max((seconds - few) / (3 * epochs), 1e-3)
            epochs = max(epochs, int(60 * arguments.minutes / pace))
            shutil.rmtree(whole)
            begun = time.monotonic()
            lines = watched(start(words(family, whole, epochs), 0, str(whole) + ".log"))
            seconds = time.monotonic() - begun
            print(f"{family}: one run of {epochs} epochs, {seconds:.0f} s without interruption; {lines}", flush=True)
        killed = lost = 0
        for trial in range(arguments.trials):
            place = root / f"trial-{number}-{trial}"
            most, span = (arguments.kills, seconds) if not arguments.minutes else (10**6, arguments.span)
            try:
                count, code = survive(family, place, epochs, most, span, draw)
                wrong = f"exit code {code}" if code else difference(place, whole)
            except AssertionError as error:
                count, wrong = 0, f"a checkpoint that cannot be read: {error}"
            killed += count
            if wrong:
                lost += 1
                print(f"{family}, trial {trial}: {wrong}; see {place}", flush=True)
            elif not arguments.keep:
                shutil.rmtree(place)
        print(f"{family}: {arguments.trials} trials, {killed} kills, {lost} lost", flush=True)
        lost_in_all += lost
    return lost_in_all


def measures(process: int | str = "self") -> tuple[float, int]:
    """Memory in MB, and open files, of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{process}/fd"))


def watched(process: int) -> str:
    """Memory and open files of a run at a fifth of its time and at its end; waits for it."""
    seen = []
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        with contextlib.suppress(OSError):
            seen.append(measures(process))
        time.sleep(0.2)
    assert wait(process) == 0
    early, late = seen[len(seen) // 5], seen[-len(seen) // 20 - 1]
    return f"{early[0]:.0f} MB and {early[1]} files at a fifth of it, {late[0]:.0f} MB and {late[1]} files near its end"


def fits(arguments: argparse.Namespace, root: Path) -> int:
    """Fits in this process, the families in turn; 1 if memory or open files grow."""
    from dinopl.cli import main

    count, warm, names = arguments.count, max(arguments.count // 4, 3), list(FAMILIES)
    known = {family: words(family, root / "fits", 1) for family in names}
    points = []
    for number in range(count):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(known[names[number % len(names)]]) == 0
        if number + 1 in (warm, count):
            gc.collect()
            points.append((*measures(), len(gc.get_objects())))
    folders = list((root / "fits").glob("run/*"))
    whole = sum(json.loads((folder / "results.json").read_text())["status"] == "finished" for folder in folders)
    (memory, files, objects), (memory_, files_, objects_) = points
    print(
        f"{count} fits in one process: {memory:.0f} MB, {files} files, {objects} objects after {warm}; "
        f"{memory_:.0f} MB, {files_} files, {objects_} objects at the end; {whole} of {len(folders)} folders whole"
    )
    return int(memory_ > arguments.slack * memory or files_ > files or whole != count)


def ranks(arguments: argparse.Namespace, root: Path) -> int:
    """Kills one of two processes of a run, and waits for the other; how many trials are lost."""
    lost = 0
    for trial in range(2 * arguments.trials):
        rank, place, report = trial % 2, root / f"rank-{trial}", root / f"rank-{trial}.log"
        command = [*words("sequence model", place, 10**6), "--trainer.devices=2", "--trainer.strategy=ddp"]
        with report.open("w") as file:
            first = subprocess.Popen([sys.executable, "-m", "dinopl", *command], cwd=ROOT, stdout=file, stderr=file)
        deadline = time.monotonic() + 300
        while not any(place.glob("run/*/checkpoints/last.ckpt")):
            assert first.poll() is None, report.read_text()
            assert time.monotonic() < deadline, report.read_text()
            time.sleep(0.1)
        (second,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        begun = time.monotonic()
        os.kill(int(second) if rank else first.pid, signal.SIGKILL)
        code = first.wait()
        while (stat := Path(f"/proc/{second}/stat")).exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.1)
            if time.monotonic() > begun + 120:
                os.kill(int(second), signal.SIGKILL)
        seconds = time.monotonic() - begun
        said = [line for line in report.read_text().splitlines() if line.startswith("dinopl: error: ")]
        (folder,) = place.glob("run/*")
        results = folder / "results.json"
        status = json.loads(results.read_text())["status"] if results.exists() else None
        lost += seconds > 60 or len(said) != 1 or status != "failed" or code != (1 if rank else -signal.SIGKILL)
        print(f"process {rank} killed: {seconds:.0f} s, exit code {code}, status {status}, {said}", flush=True)
    return lost


def main_(given: list[str] | None = None) -> int:
    """Reads the options, and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("what", nargs="+", choices=("kills", "long", "fits", "ranks"))
    parser.add_argument("--trials", type=int, help="of each family, or process: 20 of kills, 1 of long")
    parser.add_argument("--kills", type=int, default=4, help="of one trial, at most")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=0.0, help="of the long run without interruption")
    parser.add_argument("--span", type=float, default=20.0, help="seconds between two kills of the long run, at most")
    parser.add_argument("--count", type=int, default=200, help="of fits")
    parser.add_argument("--slack", type=float, default=1.05, help="by which memory may grow after the first quarter")
    parser.add_argument("--family", choices=tuple(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the folders of trials that were not lost")
    arguments = parser.parse_args(given)
    if "long" in arguments.what:
        arguments.minutes = arguments.minutes or 20.0
    arguments.trials = arguments.trials or (1 if arguments.minutes else 20)
    import torch

    import dinopl.cli.runs  # noqa: F401  (before the forks)

    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    lost = sum({"fits": fits, "ranks": ranks}.get(what, kills)(arguments, root) for what in arguments.what)
    if not lost:
        shutil.rmtree(root)
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main_())
