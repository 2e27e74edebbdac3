"""Copying, parity with a matrix state, arithmetic, stories and text: fixed-point layers beside their baselines.

Every run is ``dinopl fit`` with a shipped configuration and a variant's options; runs are made, kept and continued as
in ``state_tracking.py``. With ``--rates`` every variant is trained at each of these learning rates with the first seed;
the other seeds have the one with the lowest validation loss. Nothing is selected on the test split.

    python benchmarks/sequence_tasks.py copying --seeds 0 1 2
    python benchmarks/sequence_tasks.py text
    python benchmarks/sequence_tasks.py parity --rates 3e-4 1e-3 3e-3
    python benchmarks/sequence_tasks.py arithmetic --rates 1e-3 3e-3 1e-2
    python benchmarks/sequence_tasks.py catbabi --variants fpmamba diagonal

A variant of ``copying`` is named after what depends on the previous token's output: b and c, Q, the step sizes; a
``conv`` one has the short convolution too. Those of ``text`` have widths at which all have the same number of
parameters, within 3 %. The first CSV has a row for each run and length with everything that a test reports, beside it
``bits_per_character`` for text and, for arithmetic, the scaled accuracy of the constant answer 0. The second has the
course of training: losses, validation and, for iterative layers, the iterations, the share of sequences that did not
converge, and the median and largest residual. With ``--figures FOLDER`` both become figures: scores against length, and
training and validation against steps.
"""

import argparse
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardware import results_file, write_csv
from lightning.pytorch import Callback, LightningModule, Trainer
from state_tracking import Plan, lengths, steps, tuned

from dinopl.reports import Run, framed, report_figure, row_of, save_report_figure, summarize
from fprnn.counting import layer_statistics
from fprnn.tasks import bits_per_character

Row = dict[str, Any]
PAPERS_SOLVER = [
    "--model.layer.solver=PicardSolver",
    "--model.layer.solver.quantile=0.75",
    "--model.layer.solver.damping=0.99",
    "--model.layer.solver.damping_decay=0.9",
]


def dependence(bc: bool, q: bool, step_sizes: bool) -> tuple[str, list[str]]:
    """A cell of the paper's table 1: its name, and options of ``copying``."""
    name = "+".join(part for part, wanted in (("bc", bc), ("q", q), ("lambda", step_sizes)) if wanted) or "none"
    words = [f"--model.layer.b_h_dep={bc}", f"--model.layer.c_h_dep={bc}", f"--model.layer.lambda_h_dep={step_sizes}"]
    words += [] if q else ["--model.layer.mixer.dependence=input"]
    return name, [word.replace("True", "true").replace("False", "false") for word in words]


def swapped(layer: str, **options: object) -> list[str]:
    """Options that replace the layer."""
    return [f"--model.layer={layer}", *(f"--model.layer.{name}={value}" for name, value in options.items())]


def sized(d_model: int, layer: str, **options: object) -> list[str]:
    """Options that replace the layer, in a model of another width."""
    return [f"--model.d_model={d_model}", *swapped(layer, **options)]


MATRIX_STATE = [*swapped("FPMamba", d_state=8), *PAPERS_SOLVER, "--model.layer.solver.max_iterations=32"]
CONTROLLED = {
    "fpmamba": [],
    "diagonal": swapped("DiagonalMamba", conv_width=4),
    "lstm": swapped("LSTMLayer"),
    "delta-product": swapped("DeltaProductLayer", num_householder=4),
}
VARIANTS: dict[str, dict[str, list[str]]] = {
    "copying": {
        **dict(dependence(bc, q, step) for bc in (True, False) for q in (True, False) for step in (False, True)),
        **{
            f"{name}-conv": [*words, "--model.layer.conv_width=4"]
            for name, words in (dependence(bc, True, False) for bc in (True, False))
        },
        "diagonal": swapped("DiagonalMamba"),
        "diagonal-conv": swapped("DiagonalMamba", conv_width=4),
    },
    "parity": {
        "fpmamba": MATRIX_STATE,
        "exact": [*swapped("FPMamba", d_state=8), "--model.layer.solver=SequentialSolver"],
        "implicit": [*MATRIX_STATE, "--model.layer.solver.gradient=ImplicitGradient"],
        "tol=1e-3": [*MATRIX_STATE, "--model.layer.solver.tol=1e-3"],
        "beta=2": [*MATRIX_STATE, "--model.layer.mixer.beta=2"],
        "diagonal": swapped("DiagonalMamba", d_state=8),
    },
    **dict.fromkeys(("arithmetic", "arithmetic_brackets"), CONTROLLED),
    "text": {
        "fpmamba": [],
        "fprnn": [*sized(36, "FPRNN", conv_width=4), *PAPERS_SOLVER, "--model.layer.solver.max_iterations=10"],
        "diagonal": sized(71, "DiagonalMamba", conv_width=4, bc_norm="false", glu_in_loop="true"),
        "mamba": sized(72, "MambaLayer"),
        "lstm": sized(70, "LSTMLayer"),
        "transformer": sized(60, "TransformerLayer", positions="ALiBi", mlp_width=220),
    },
    "catbabi": {
        "fpmamba": [],
        "diagonal": swapped("DiagonalMamba", conv_width=4),
        "mamba": swapped("MambaLayer"),
    },
}

TRAINING = ("train/loss", "train/iterations", "train/capped", "solve/residual_median", "solve/residual_max")
SHOWN = {"sequence_accuracy": 3, "token_accuracy": 3, "scaled_accuracy": 3, "scaled_accuracy_of_0": 3}
SHOWN |= {
    "bits_per_character": 3,
    "iterations": 1,
    "iterations_capped": 3,
    "steps": 0,
    "parameters": 0,
    "duration_s": 0,
}
PANELS = ("sequence_accuracy", "token_accuracy", "scaled_accuracy", "bits_per_character", "iterations")
SCORE = re.compile(r"test/(?P<name>.+)/length=(?P<length>\d+)")


class SolveRecord(Callback):
    """Logs the residuals at which a batch's sequences stopped, over all layers, and the model's size."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Logs median and largest residual, where anything iterates."""
        solved = layer_statistics(pl_module.model).values()  # type: ignore[arg-type]
        for name, summary in (("median", "nanmedian"), ("max", "amax")) if solved else ():
            value = max(float(getattr(layer.residual, summary)()) for layer in solved)
            pl_module.log(f"solve/residual_{name}", value)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the number of parameters."""
        pl_module.log("parameters", float(sum(p.numel() for p in pl_module.parameters())))


class TaskPlan(Plan):
    """A run to make, of a variant that is the configuration's own."""

    def changes(self, options: argparse.Namespace) -> list[str]:
        """What the variant changes of the configuration, and what is recorded of its runs."""
        record = '--trainer.callbacks=[{"class_path": "sequence_tasks.SolveRecord"}]'
        return [*VARIANTS[self.config][self.variant], record]


def validation_loss(run: Run) -> float:
    """What a learning rate is chosen by: the mean over lengths; one that is missing or not finite loses."""
    losses = [value for name, value in run.metrics.items() if name.startswith("val/loss/")]
    return statistics.mean(float("inf") if value is None else value for value in losses or [None])


def measure(config: str, variant: str, options: argparse.Namespace) -> Iterator[tuple[Row, Run]]:
    """A variant's runs with their results: the first seed at each rate, the others at the best one."""
    plan = TaskPlan(config, variant, options.seeds[0])
    for run, chosen in tuned(plan, options.rates, lambda run: -validation_loss(run), options):
        yield facts(config, variant, run) | {"chosen": chosen}, run


def facts(config: str, variant: str, run: Run) -> Row:
    """Facts about a whole run."""
    optimizer, trainer = run.config["model"]["init_args"]["optimizer"], run.config["trainer"]
    row = {"config": config, "variant": variant, "lr": optimizer["init_args"]["lr"], "seed": run.seed}
    row |= {"steps": steps(run), "duration_s": run.duration_s, "threads": run.config["threads"]}
    return row | {"parameters": run.metrics.get("parameters"), "precision": trainer["precision"] or "32-true"}


def results(known: Row, run: Run) -> Iterator[Row]:
    """A row for each length that was tested."""
    for length in lengths(run):
        matches = ((SCORE.fullmatch(name), value) for name, value in run.metrics.items())
        scores = {match["name"]: value for match, value in matches if match and match["length"] == str(length)}
        if known["config"] == "text" and scores["loss"] is not None:
            scores["bits_per_character"] = bits_per_character(scores["loss"])
        yield known | {"length": length, "val_loss": run.metrics.get(f"val/loss/length={length}")} | scores


def course(known: Row, run: Run) -> Iterator[Row]:
    """A row for each step that was logged."""
    columns = run.history.columns
    names = ["epoch", "step", *(name for name in columns if name in TRAINING or name.startswith("val/"))]
    for values in zip(*(columns[name] for name in names), strict=True):
        if any(value is not None for value in values[2:]):
            yield {name: known[name] for name in ("config", "variant", "lr", "seed")} | dict(
                zip(names, values, strict=True)
            )


def print_table(rows: Sequence[Row]) -> None:
    """A line for each variant and length: means over the seeds at the chosen learning rate."""
    kept = [row for row in rows if row["chosen"]]
    columns = [name for name in SHOWN if any(row.get(name) is not None for row in kept)]
    lines = [("config", "variant", "lr", "seeds", "length", *columns)]
    for key in dict.fromkeys((row["config"], row["variant"], row["length"]) for row in kept):
        group = [row for row in kept if (row["config"], row["variant"], row["length"]) == key]
        facts = (key[0], key[1], f"{group[0]['lr']:g}", str(len(group)), str(key[2]))
        lines.append((*facts, *(mean(name, group) for name in columns)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("\n" + "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines))


def mean(name: str, rows: Sequence[Row]) -> str:
    """The mean of a number over runs, or an empty text where there is none."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return f"{statistics.mean(values):,.{SHOWN[name]}f}" if values else ""


def filled(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows with the columns of all of them."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def points_of(rows: Sequence[Row], names: Iterable[str], x: str) -> Iterator[Row]:
    """Mean and spread over runs of each number and variant, at each x; nothing where none was recorded."""
    for name in names:
        for variant in dict.fromkeys(row["variant"] for row in rows):
            same = [row for row in rows if row["variant"] == variant and row.get(name) is not None]
            for place in sorted({row[x] for row in same}):
                yield row_of(name, variant, place, summarize([row[name] for row in same if row[x] == place]))


def draw(folder: Path, name: str, scores: Sequence[Row], steps: Sequence[Row]) -> None:
    """The figures of one configuration, at the learning rates that were chosen."""
    shortest = min(row["length"] for row in scores)
    panels = [panel for panel in PANELS if any(row.get(panel) for row in scores)]  # no whole line of a text is right
    for kind, rows, x in (
        ("scores", points_of(scores, panels, "length"), "length"),
        ("course", points_of(steps, [*TRAINING, f"val/loss/length={shortest}"], "step"), "step"),
    ):
        points = framed(rows)
        if not points.empty:
            path, _ = save_report_figure(report_figure(points, x), folder / f"{name}_{kind}.png", points, x)
            print(f"figure: {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", choices=VARIANTS, metavar="CONFIG", help=", ".join(VARIANTS))
    names = dict.fromkeys(name for variants in VARIANTS.values() for name in variants)
    parser.add_argument("--variants", nargs="+", choices=names, metavar="VARIANT", help="by default all of each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[None], help="to choose from, by validation loss")
    parser.add_argument("--runs", type=Path, default=Path("runs/sequence_tasks"), help="where runs are kept")
    parser.add_argument("--name", help="of the CSV files, by default the configurations' names")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="where figures go; none are made without")
    parser.add_argument(
        "--options", action="append", default=[], help="one of every run, and again for more: --options=--threads=2"
    )
    return parser.parse_args()


def main() -> None:
    """Makes the missing runs, prints the table and writes the rows."""
    options = parse()
    found = [
        (known, run)
        for config in options.configs
        for variant in VARIANTS[config]
        if variant in (options.variants or VARIANTS[config])
        for known, run in measure(config, variant, options)
    ]
    if not found:
        raise SystemExit("no run has finished")
    scores = [row for known, run in found for row in results(known, run)]
    print_table(scores)
    precision = "-".join(sorted({known["precision"] for known, _ in found}))
    name = f"sequence_tasks_{options.name or '-'.join(options.configs)}"
    write_csv(results_file(name, precision), filled(scores))
    courses = [(known, list(course(known, run))) for known, run in found]
    write_csv(results_file(f"{name}_course", precision), filled([row for _, rows in courses for row in rows]))
    for config in options.configs if options.figures else []:
        shown = [row for row in scores if row["config"] == config and row["chosen"]]
        if shown:
            label = options.name if options.name and len(options.configs) == 1 else config
            kept = [rows for known, rows in courses if known["config"] == config and known["chosen"]]
            draw(options.figures, label, shown, [row for rows in kept for row in rows])


if __name__ == "__main__":
    main()
