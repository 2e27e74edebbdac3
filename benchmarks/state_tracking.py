"""State tracking with fixed-point RNNs: accuracy and iterations by length, beside baselines.

Every run is ``dinopl fit`` with a shipped configuration and a variant's options, in its own folder. A finished run is
not repeated, so a measurement can be stopped and continued. The learning rate of a control is the best of ``--rates``
on validation with the first seed; nothing is selected on the test split.

    python benchmarks/state_tracking.py parity --variants fprnn diagonal-1 input-only l_max=2 l_max=4 l_max=8 l_max=16
    python benchmarks/state_tracking.py a5 --variants fprnn diagonal-2 lstm delta-product --options=--threads=2
    python benchmarks/state_tracking.py a5 --variants paper --seeds 0 --minutes 60

``paper`` trains as the paper does: iteration until nine sequences in ten reach a tolerance of 0.1, and one-step
gradients, until the time is up. ``l_max=N`` iterates N times at most in training and until convergence in tests. A
control with ``-fixed`` trains at the final length from the start, since with a curriculum one that never masters a
short length never gets beyond it. The table gives means over seeds, the CSV a row for each run and length. Speeds are
tokens per second in training: of the steps, and of the generator of their batches.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hardware import results_file, write_csv
from lightning.pytorch import Callback, LightningModule, Trainer

from dinopl.reports import Run

CONFIGS = Path(__file__).parent.parent / "configs" / "fprnn"
FIXED = "--data.curriculum=null"
CONTROLS = {
    "diagonal-1": ["--model.layer=DiagonalRNN"],
    "diagonal-2": ["--model.layer=DiagonalRNN", "--model.n_layers=2"],
    "lstm": ["--model.layer=LSTMLayer"],
    "delta-product": ["--model.layer=DeltaProductLayer"],
}
CONTROLS |= {f"{name}-fixed": [*words, FIXED] for name, words in CONTROLS.items()}
VARIANTS = {
    "fprnn": [],
    "input-only": ["--model.layer.mixer.dependence=input"],
    "paper": ["--model.layer.solver=PicardSolver", "--model.layer.solver.quantile=0.9", "--trainer.max_epochs=100000"],
}
for l_max in (2, 4, 8, 16):
    iterating = ["--model.layer.solver=PicardSolver", f"--model.layer.solver.max_iterations={l_max}"]
    VARIANTS[f"l_max={l_max}"] = iterating
VARIANTS |= CONTROLS
SCORES = (
    "loss",
    "token_accuracy",
    "sequence_accuracy",
    "iterations",
    "iterations_capped",
    "iterated_sequence_accuracy",
)
SPEEDS = ("training_tokens_per_s", "generated_tokens_per_s")
Row = Mapping[str, Any]


class TokenClock(Callback):
    """Logs the tokens per second of an epoch: of training steps, and of the generator between them."""

    def __init__(self) -> None:
        self.tokens, self.stepping, self.waiting, self.now = 0, 0.0, 0.0, 0.0

    def _elapsed(self) -> float:
        before, self.now = self.now, time.perf_counter()
        return self.now - before

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the times."""
        self.tokens, self.stepping, self.waiting, self.now = 0, 0.0, 0.0, time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the generator's time."""
        self.waiting += self._elapsed()
        self.tokens += batch["tokens"].numel()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Ends the step's time."""
        self.stepping += self._elapsed()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs both."""
        for name, seconds in zip(SPEEDS, (self.stepping, self.waiting), strict=True):
            pl_module.log(f"speed/{name}", self.tokens / seconds)


class Plan(NamedTuple):
    """A run to make: a configuration, a variant of it, and a learning rate if not the configuration's."""

    config: str
    variant: str
    seed: int
    rate: float | None = None

    @property
    def name(self) -> str:
        """Where its run folders lie, below that of all runs."""
        rate = [] if self.rate is None else [f"lr={self.rate:g}"]
        return "/".join([self.config, self.variant, *rate, f"seed={self.seed}"])

    def words(self, options: argparse.Namespace) -> list[str]:
        """The command's options, the user's own last."""
        words = [f"--config={CONFIGS / self.config}.yaml", *self.changes(options)]
        if self.rate is not None:
            words.append(f"--model.optimizer.lr={self.rate}")
        folder = f"--trainer.default_root_dir={options.runs / self.name}"
        return [*words, f"--seed_everything={self.seed}", folder, *options.options]

    def changes(self, options: argparse.Namespace) -> list[str]:
        """What the variant changes of the configuration, and what is recorded of its runs."""
        clock = '--trainer.callbacks=[{"class_path": "state_tracking.TokenClock"}]'
        limit = f"--trainer.max_time=00:{options.minutes // 60:02}:{options.minutes % 60:02}:00"
        return [*VARIANTS[self.variant], clock, *([limit] if self.variant == "paper" else [])]


def finished(folder: Path) -> Run | None:
    """The finished run below a folder, if there is one."""
    runs = (Run.load(path.parent) for path in sorted(folder.glob("**/results.json")))
    return next((run for run in runs if run.status == "finished"), None)


def obtain(plan: Plan, options: argparse.Namespace) -> Run | None:
    """The plan's run, made now if it is missing; None if it fails, for example by too high a learning rate."""
    folder = options.runs / plan.name
    run = finished(folder)
    if run is None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{plan.name} ...", flush=True)
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        with (folder / "output.txt").open("w", encoding="utf-8") as output:
            command = [sys.executable, "-m", "dinopl", "fit", *plan.words(options)]
            subprocess.run(command, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": path}, check=False)
        run = finished(folder)
    print(f"{plan.name}: {summary(run) if run else f'did not finish, see {folder}/output.txt'}", flush=True)
    return run


def summary(run: Run) -> str:
    """Time and accuracies of a run."""
    scores = [f"{run.metrics[f'test/sequence_accuracy/length={length}']:.3f} at {length}" for length in lengths(run)]
    return f"{steps(run)} steps, {run.duration_s:.0f} s, sequence accuracy {', '.join(scores)}"


def lengths(run: Run) -> list[int]:
    """Lengths that were tested."""
    prefix = "test/sequence_accuracy/length="
    return sorted(int(name.removeprefix(prefix)) for name in run.metrics if name.startswith(prefix))


def steps(run: Run) -> int:
    """Optimiser steps taken: the last test is logged at that number."""
    return max((int(step) for (step,) in run.history.rows("step")), default=0)


def validation(run: Run) -> tuple[float, float]:
    """What a learning rate is chosen by: mean sequence accuracy over lengths, then the negative mean loss."""
    means = [
        statistics.mean(v for name, v in run.metrics.items() if v is not None and name.startswith(f"val/{score}/"))
        for score in ("sequence_accuracy", "loss")
    ]
    return means[0], -means[1]


def tuned(
    plan: Plan, rates: Sequence[float | None], score: Callable[[Run], Any], options: argparse.Namespace
) -> Iterator[tuple[Run, bool]]:
    """The runs of a plan: its seed at each learning rate, the further seeds at the one whose score is highest.

    Yields:
        Each run that finished, and whether it is at that rate.
    """
    tried = {rate: obtain(plan._replace(rate=rate), options) for rate in rates}
    good = {rate: run for rate, run in tried.items() if run is not None}
    best = max(good, key=lambda rate: score(good[rate]), default=None)
    others = [obtain(plan._replace(seed=seed, rate=best), options) for seed in options.seeds[1:] if good]
    for run in (*good.values(), *others):
        if run is not None:
            yield run, run in (*others, good[best])


def measure(config: str, variant: str, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of a variant; the learning rates of a control are tried, others have their configuration's."""
    rates = options.rates if variant in CONTROLS else [None]
    for run, chosen in tuned(Plan(config, variant, options.seeds[0]), rates, validation, options):
        yield from rows(config, variant, run, chosen=chosen)


def rows(config: str, variant: str, run: Run, *, chosen: bool) -> Iterator[Row]:
    """A row for each length."""
    optimizer, trainer = run.config["model"]["init_args"]["optimizer"], run.config["trainer"]
    facts = {"config": config, "variant": variant, "lr": optimizer["init_args"]["lr"], "chosen": chosen}
    facts |= {"seed": run.seed, "steps": steps(run), "duration_s": run.duration_s, "threads": run.config["threads"]}
    facts |= {"precision": trainer["precision"] or "32-true"} | {s: run.metrics.get(f"speed/{s}") for s in SPEEDS}
    for length in lengths(run):
        validated = {"val_sequence_accuracy": run.metrics.get(f"val/sequence_accuracy/length={length}")}
        tested = {score: run.metrics.get(f"test/{score}/length={length}") for score in SCORES}
        yield facts | {"length": length} | validated | tested


DIGITS = {"token_accuracy": 3, "sequence_accuracy": 3, "least": 3, "iterations": 1, "iterated_sequence_accuracy": 3}
DIGITS |= dict.fromkeys(("steps", "duration_s", *SPEEDS), 0)
COLUMNS = ("config", "variant", "lr", "seeds", "length", *DIGITS)


def print_table(rows: Sequence[Row]) -> None:
    """A line for each variant and length: means over the seeds at the chosen learning rate, and the least accuracy."""
    kept, lines = [row for row in rows if row["chosen"]], [COLUMNS]
    for key in dict.fromkeys((row["config"], row["variant"], row["length"]) for row in kept):
        group = [row for row in kept if (row["config"], row["variant"], row["length"]) == key]
        least = min(row["sequence_accuracy"] for row in group)
        lines.append(
            tuple(cell(name, [{**row, "seeds": len(group), "least": least} for row in group]) for name in COLUMNS)
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("\n" + "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines))


def cell(name: str, rows: Sequence[Row]) -> str:
    """The mean of a number, the common value of anything else, or an empty text without a value."""
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return ""
    return f"{statistics.mean(values):,.{DIGITS[name]}f}" if name in DIGITS else str(values[0])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="names of files in configs/fprnn, such as a5")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["fprnn"], metavar="VARIANT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="tried for each control")
    parser.add_argument("--minutes", type=int, default=60, help="minutes that the variant paper may train")
    parser.add_argument("--runs", type=Path, default=Path("runs/state_tracking"), help="where runs are kept")
    parser.add_argument("--name", help="of the CSV file, by default the configurations' names")
    parser.add_argument(
        "--options", action="append", default=[], help="one of every run, and again for more: --options=--threads=2"
    )
    return parser.parse_args()


def main() -> None:
    """Makes the missing runs, prints the table and writes the rows."""
    options = parse()
    found = [
        row for config in options.configs for variant in options.variants for row in measure(config, variant, options)
    ]
    if not found:
        raise SystemExit("no run has finished")
    print_table(found)
    precision = "-".join(sorted({row["precision"] for row in found}))
    write_csv(results_file(f"state_tracking_{options.name or '-'.join(options.configs)}", precision), found)


if __name__ == "__main__":
    main()
