"""Writes the tables of the cards and of the README, so that no number and no function's place is typed twice.

    python benchmarks/card_tables.py

Each table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` in a page. The function of that name
makes it from the CSV files in ``benchmarks/results``, or from the docstring of the method's package for the tables of
symbols and equations. ``tests/test_cards.py`` fails where a page differs from its sources.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("random_teachers", "fixed_point_rnns", "knowledge_distillation")),
]
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

ROOMS = {
    "random_teachers": "dinopl/distillation",
    "fixed_point_rnns": "fprnn",
    "knowledge_distillation": "kd",
}
"""Card -> the package whose docstring has its symbols and equations."""

Table = Callable[[], str]
TABLES: dict[str, Table] = {}


def table(function: Table) -> Table:
    """Registers a table under its function's name."""
    TABLES[function.__name__] = function
    return function


def rows(stem: str, **equal: object) -> pd.DataFrame:
    """The rows of ``stem_HARDWARE_PRECISION_torchVERSION.csv`` or ``stem.csv`` whose columns have the given values."""
    files = [path for path in RESULTS.glob(f"{stem}*.csv") if re.fullmatch(rf"{stem}(_[^_]*cores.*)?", path.stem)]
    frame = pd.concat([pd.read_csv(path) for path in sorted(files)])
    for column, value in equal.items():
        frame = frame[frame[column] == value]
    assert len(frame), f"no rows of {stem} with {equal}"
    return frame


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    every = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in every).replace("|  |", "| |").replace("|  |", "| |")


def points(share: float) -> str:
    """A difference of accuracies in points, with its sign; what rounds to zero has none."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def interval(low: float, high: float) -> str:
    """The ends of an interval, in points."""
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def each(values: Iterable[float]) -> str:
    """One accuracy per seed."""
    return ", ".join(f"{value:.3f}" for value in values)


# Symbols and equations

PLACE = re.compile(r"(?P<file>\S+\.py):(?P<function>[\w.]+)(?P<note>.*)")


def documented(package: str) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of a package's docstring: ``[symbol, meaning, name in the code]``, and ``[equation, place]``.

    Cells of a row stand two or more spaces apart. A row of two cells whose second begins with ``file.py:function`` is
    an equation's; any other row of three cells is a symbol's.
    """
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))) or ""
    lines = [re.split(r"\s{2,}", line.strip()) for line in docstring.splitlines()]
    equations = [cells for cells in lines if len(cells) == 2 and PLACE.match(cells[1])]
    header = re.compile("=+|symbol")  # of a reStructuredText table
    return [cells for cells in lines if len(cells) == 3 and not header.fullmatch(cells[0])], equations


def coded(names: str) -> str:
    """Names in the code as such: ``a, b.c`` with backticks; other words stay."""
    return ", ".join(f"`{name}`" if re.fullmatch(r"[\w.]+(\([\w=]+\))?", name) else name for name in names.split(", "))


def symbols(package: str) -> str:
    """Symbol, meaning, and name in the code."""
    lines = [[f"`{symbol}`", meaning, coded(name)] for symbol, meaning, name in documented(package)[0]]
    cells = [[cell.replace("``", "`").replace("|", r"\|") for cell in line] for line in lines]
    return markdown(["symbol", "meaning", "name in the code"], cells)


def equations(package: str) -> str:
    """Equation, and the function that computes it with a link to its file."""
    lines = []
    for equation, place in documented(package)[1]:
        found = PLACE.fullmatch(place)
        assert found, f"{package}: {place} is not file.py:function"
        file, function, note = found["file"], found["function"], found["note"]
        lines.append([equation.replace("|", r"\|"), f"`{function}`{note}", f"[`{file}`](../{file})"])
    return markdown(["equation", "function", "file"], lines)


for card, package in ROOMS.items():
    TABLES[f"{card}_symbols"] = partial(symbols, package)
    TABLES[f"{card}_equations"] = partial(equations, package)


# Random teachers

PROBES = {"linear": "linear", "linear_standardized": "standardised", "knn": "k-NN"}


def gains(stem: str) -> dict[str, pd.DataFrame]:
    """Accuracy of input, teacher and student, and the gain, of each seed, by probe."""
    frame = rows(stem)
    found = {}
    for probe in PROBES:
        columns = {who: frame[f"probe/{who}/{probe}"] for who in ("input", "teacher", "student")}
        found[probe] = pd.DataFrame(columns | {"gain": columns["student"] - columns["teacher"]})
    return found


@table
def random_teacher_gains() -> str:
    """Student and teacher over seeds, on all data sets."""
    lines = []
    data = {"random_teacher": "digits", "random_teacher_ddp2": "digits, two processes"}
    for stem, label in (data | {"fashion_mnist": "Fashion-MNIST, 10,000 images"}).items():
        for probe, frame in gains(stem).items():
            levels = [f"{100 * frame[who].mean():.1f}" for who in ("input", "teacher", "student")]
            spread = [f"{100 * frame['gain'].std():.1f}", points(frame["gain"].min())]
            first = label if probe == "linear" else ""
            lines.append([first, PROBES[probe], *levels, points(frame["gain"].mean()), *spread])
    return markdown(["data", "probe", "input", "teacher", "student", "gain", "sd", "smallest"], lines)


@table
def readme_random_teacher() -> str:
    """The same for the README: levels, and gains with their standard deviations."""
    lines = []
    names = {
        "random_teacher": "digits, mini-VGG (`make run`, 10 to 18 s)",
        "fashion_mnist": "10,000 Fashion-MNIST images, mini-VGG",
    }
    for stem, label in names.items():
        found = gains(stem)
        for who in ("input", "teacher", "student"):
            lines.append(
                [label if who == "input" else "", who, *(f"{100 * frame[who].mean():.1f}" for frame in found.values())]
            )
        lines.append(
            [
                "",
                "**student less teacher**",
                *(f"**{points(frame['gain'].mean())}** ({100 * frame['gain'].std():.1f})" for frame in found.values()),
            ]
        )
    return markdown(["data", "features", "linear", "linear, standardised", "k-NN (k = 20)"], lines)


@table
def locality() -> str:
    """The student's linear probe and its gain against the distance of its start from the teacher."""
    frame = rows("locality").rename(columns={"model.student.alpha": "alpha"}).groupby("alpha")
    student, gain = frame["probe/student/linear"], frame["probe/student/linear - probe/teacher/linear"]
    alphas = [f"{alpha:g}" for alpha in student.mean().index]
    return markdown(
        ["alpha", *alphas],
        [
            ["student", *(f"{value:.3f}" for value in student.mean())],
            ["gain, points", *(points(value) for value in gain.mean())],
            ["its sd", *(f"{100 * value:.1f}" for value in gain.std())],
        ],
    )


DISSECTION = {
    "dino": "DINO",
    "dissect1": "1: the teacher is frozen",
    "dissect2": "2: and one whole image",
    "dissect3": "3: and no augmentation",
    "dissect4": "4: and no asymmetry, a random teacher",
}


@table
def dissection() -> str:
    """The student after each step from DINO to a random teacher, and its gain over its start, with the deviation."""
    frame = rows("dissection").set_index("seed_everything")
    start = frame[frame["variant"] == "dissect1"]  # its teacher stays where the student of every step starts
    lines = [["start", *(f"{100 * start[f'probe/teacher/{probe}'].mean():.1f}" for probe in PROBES)]]
    for variant, words in DISSECTION.items():
        cells = []
        for probe in PROBES:
            student = frame[frame["variant"] == variant][f"probe/student/{probe}"]
            gain = student - start[f"probe/teacher/{probe}"]
            cells.append(f"{100 * student.mean():.1f} ({points(gain.mean())}, sd {100 * gain.std():.1f})")
        lines.append([words, *cells])
    return markdown(["student of", *PROBES.values()], lines)


NORMS = {
    "batch": "BatchNorm",
    "instance": "instance (groups of 1 channel)",
    "group of 8": "group (groups of 8 channels)",
    "layer": "layer (one group)",
    "none": "none",
}


def student_and_gain(frame: pd.DataFrame) -> list[str]:
    """Mean of the teacher's and the student's linear probe, and the gain with its standard deviation in brackets."""
    gain = frame["probe/student/linear - probe/teacher/linear"]
    levels = [f"{100 * frame[f'probe/{who}/linear'].mean():.1f}" for who in ("teacher", "student")]
    return [*levels, f"{points(gain.mean())} ({100 * gain.std():.1f})"]


@table
def norms() -> str:
    """The student by the encoder's normalisation, after 2 and after 20 epochs."""
    frame = rows("norms").rename(columns={"trainer.max_epochs": "epochs"})
    lines = []
    for variant, label in NORMS.items():
        early, late = (frame[(frame["variant"] == variant) & (frame["epochs"] == epochs)] for epochs in (2, 20))
        _, student, gain = student_and_gain(early)
        lines.append([label, *student_and_gain(late), student, gain])
    header = ["norm", "teacher", "student, 20 epochs", "gain (sd)", "student, 2 epochs", "gain (sd)"]
    return markdown(header, lines)


@table
def bottleneck() -> str:
    """The student by the parts of the head's bottleneck."""
    frame = rows("bottleneck")
    variants = [  # in the order of the sweep
        *("-/lb/fn/wn/l/-", "wn/lb/-/wn/l/-", "-/lb/fn/-/l/fn", "-/lb/-/-/l/fn", "-/lb/-/-/l/-", "-/-/-/-/l/fn"),
        "-/-/-/-/l/-",
    ]
    lines = [[f"`{variant}`", *student_and_gain(frame[frame["variant"] == variant])] for variant in variants]
    return markdown(["bottleneck", "teacher", "student", "gain (sd)"], lines)


@table
def cifar10_one_epoch() -> str:
    """CIFAR-10 after one epoch, seed 0."""
    lines = [
        [
            PROBES[probe],
            *(f"{100 * frame[who].item():.1f}" for who in ("input", "teacher", "student")),
            points(frame["gain"].item()),
        ]
        for probe, frame in gains("cifar10_vgg11_epoch1").items()
    ]
    return markdown(["CIFAR-10 after one epoch, seed 0", "input", "teacher", "student", "gain"], lines)


@table
def self_distillation_speed() -> str:
    """The training step beside a supervised one, and inside the command beside the bare loop."""
    lines = []
    shapes = {"digits": "digits, mini-VGG", "cifar": "CIFAR, VGG11, 65,536 logits"}
    for setting, shape in shapes.items():
        for precision, label in {"32-true": "float32", "bf16-mixed": "bfloat16"}.items():
            frame = rows(f"self_distillation_step_{setting}", precision=precision).set_index("step")
            shares = [f"{frame.at[step, 'of_supervised']:.2f}" for step in ("uncached", "cached")]
            command = ", ".join(f"{frame.at[step, 'command_of_bare']:.2f}" for step in ("uncached", "cached"))
            lines.append([shape, label, str(frame["threads"].iloc[0]), *shares, command])
    header = ["shapes", "precision", "threads", "uncached / supervised", "cached / supervised"]
    return markdown([*header, "command / bare loop (uncached, cached)"], lines)


@table
def self_distillation_parts() -> str:
    """The parts of a cached step on CIFAR shapes, beside the matrix products of the last layer."""
    frame = rows("self_distillation_parts_cifar")
    # shares only: their measurement took turns on a busy machine, which lengthens all of them alike
    lines = [[part, f"{share:.2f}"] for part, share in zip(frame["part"], frame["of_products"], strict=True)]
    return markdown(["part of a step", "of the last layer's products"], lines)


# Fixed-point RNNs


def accuracies(stem: str, variant: str, length: int, **equal: object) -> "pd.Series[float]":
    """Sequence accuracy of each seed at a length, at the learning rate chosen on validation."""
    found = rows(stem, variant=variant, length=length, chosen=True, **equal).sort_values("seed")
    return found["sequence_accuracy"]


def seconds(stem: str, variant: str) -> "pd.Series[float]":
    """Time of each chosen run."""
    return rows(stem, variant=variant, chosen=True).groupby("seed")["duration_s"].first()


def spell(time: float) -> str:
    """A time in seconds below ten minutes, else in minutes."""
    return f"{time:.0f} s" if time < 600 else f"{time / 60:.0f} min"


def span(times: "pd.Series[float]") -> str:
    """The shortest and the longest time."""
    low, high = f"{times.min():.0f}", f"{times.max():.0f}"
    return spell(times.max()) if low == high else f"{low} to {high} s"


def compact(values: "pd.Series[float]") -> str:
    """One accuracy per seed; one number where all are 0."""
    return "0.000" if (values < 5e-4).all() else each(values)


@table
def parity() -> str:
    """Parity at the trained length and beyond."""
    stem = "state_tracking_parity"
    names = {
        "fprnn": f"FP-RNN, exact solver ({span(seconds(stem, 'fprnn'))} per run)",
        "diagonal-1": "diagonal control",
        "input-only": "FP-RNN without hidden-state dependence",
    }
    lines = [
        [label, "0, 1, 2", *(compact(accuracies(stem, name, length)) for length in (16, 32, 64))]
        for name, label in names.items()
    ]
    return markdown(["layer", "seeds", "at 16", "at 32", "at 64"], lines)


@table
def parity_caps() -> str:
    """Parity by the cap of the paper's iteration in training."""
    lines = [
        [str(cap), *(each(accuracies("state_tracking_parity", f"l_max={cap}", length)) for length in (16, 32, 64))]
        for cap in (2, 4, 8, 16)
    ]
    return markdown(["l_max", "at 16, seeds 0, 1, 2", "at 32", "at 64"], lines)


@table
def s3() -> str:
    """S3 at the trained length and beyond."""
    names = {
        "fprnn": "FP-RNN, exact solver",
        "diagonal-1": "diagonal control",
        "diagonal-1-fixed": "the same at the final length from the start",
    }
    lines = [
        [label, *(compact(accuracies("state_tracking_s3", name, length)) for length in (10, 20, 40))]
        for name, label in names.items()
    ]
    return markdown(["layer, seeds 0, 1, 2", "at 10", "at 20", "at 40"], lines)


A5 = (
    ("a5", "fprnn", "FP-RNN, exact solver, seeds 0, 1, 2"),
    ("a5_long", "fprnn", "the same with `overlays/long.yaml`, seed 0"),
    ("a5_paper", "paper", "the paper's iteration and one-step gradients"),
    ("a5_controls", "lstm", "LSTM"),
    ("a5_controls_fixed", "lstm-fixed", "LSTM, at the final length from the start"),
    ("a5_controls", "delta-product", "DeltaProduct"),
    ("a5_controls", "diagonal-2", "two diagonal layers"),
)


@table
def a5() -> str:
    """A5: steps, time and accuracy of each layer."""
    lines = []
    for name, variant, label in A5:
        stem = f"state_tracking_{name}"
        chosen = rows(stem, variant=variant, chosen=True)
        times = ", ".join(spell(time) for time in seconds(stem, variant))
        accuracy = [each(accuracies(stem, variant, length)) for length in (16, 32, 50)]
        lines.append([label, f"{chosen['steps'].iloc[0]:,}", f"{chosen['lr'].iloc[0]:g}", times, *accuracy])
    return markdown(["layer", "steps", "learning rate", "time", "at 16", "at 32", "at 50"], lines)


@table
def readme_state_tracking() -> str:
    """The README's table: every task at the trained length, at twice that, and at the longest."""

    def line(task: str, label: str, stem: str, variant: str, lengths: Sequence[int], bold: bool = False) -> list[str]:
        means = [accuracies(f"state_tracking_{stem}", variant, length).mean() for length in lengths]
        cells = [f"**{mean:.3f}**" if bold else f"{mean:.3f}" for mean in means]
        cells[-1] += f" (at {lengths[-1]})"
        times = seconds(f"state_tracking_{stem}", variant)
        chosen = rows(f"state_tracking_{stem}", variant=variant, chosen=True)
        trained = f"{chosen['steps'].iloc[0]:,}, {chosen['threads'].iloc[0]}"
        return [task, label, *cells, trained, span(times) if len(times) > 1 else spell(times.item())]

    parity, s3, a5 = (16, 32, 64), (10, 20, 40), (16, 32, 50)
    return markdown(
        ["task, trained at", "layer", "at that length", "at twice the length", "longest", "steps, threads", "time"],
        [
            line("parity, 16", "FP-RNN, exact solver", "parity", "fprnn", parity, bold=True),
            line("", "diagonal control", "parity", "diagonal-1", parity),
            line("S3, 10", "FP-RNN, exact solver", "s3", "fprnn", s3, bold=True),
            line("", "diagonal control", "s3", "diagonal-1", s3),
            line("A5 (60 elements), 16", "FP-RNN, exact solver", "a5", "fprnn", a5, bold=True),
            line("", "four times as many steps, one seed", "a5_long", "fprnn", a5),
            line("", "the paper's iteration and one-step gradients, one seed", "a5_paper", "paper", a5),
            line("", "LSTM, one seed", "a5_controls", "lstm", a5),
            line("", "DeltaProduct, one seed", "a5_controls", "delta-product", a5),
            line("", "two diagonal layers, one seed", "a5_controls", "diagonal-2", a5),
            line(
                "S5 (120 elements), 16",
                "FP-RNN, exact solver, 8,000 steps, one seed",
                "s5_long",
                "fprnn",
                a5,
            ),
        ],
    )


@table
def text() -> str:
    """Bits per character of small models of tiny shakespeare."""
    names = {
        "diagonal": "diagonal Mamba, FP-Mamba's control",
        "mamba": "Mamba",
        "fprnn": "FP-RNN",
        "fpmamba": "FP-Mamba",
        "lstm": "LSTM",
        "transformer": "Transformer, ALiBi",
    }
    lines = []
    for variant, label in names.items():
        found = [rows("sequence_tasks_text", variant=variant, length=length).iloc[0] for length in (64, 256)]
        bits = [f"{row['bits_per_character']:.3f}" for row in found]
        iterated = [
            ", ".join(f"{row[f'iterations/layer={layer}']:.1f}" for layer in (0, 1))
            if pd.notna(row["iterations/layer=0"])
            else ""
            for row in found
        ]
        lines.append([label, *bits, *iterated, spell(found[0]["duration_s"])])
    return markdown(["layer", "context 64", "256", "iterations at 64", "at 256", "time"], lines)


@table
def arithmetic() -> str:
    """Scaled accuracy of arithmetic modulo 5."""
    names = {
        "fpmamba": "FP-Mamba, two layers",
        "diagonal": "diagonal Mamba",
        "lstm": "LSTM",
        "delta-product": "DeltaProduct, four reflections",
    }
    asked = [("arithmetic_brackets", 14), ("arithmetic_brackets", 28), ("arithmetic", 12), ("arithmetic", 24)]
    lines = []
    for variant, label in names.items():
        found = [
            rows(f"sequence_tasks_{name}", variant=variant, length=length, chosen=True).iloc[0]
            for name, length in asked
        ]
        lines.append([label, f"{found[0]['parameters']:,.0f}", *(f"{row['scaled_accuracy']:.3f}" for row in found)])
    constant = [
        rows(f"sequence_tasks_{name}", variant="fpmamba", length=length, chosen=True)["scaled_accuracy_of_0"].iloc[0]
        for name, length in asked
    ]
    lines.append(["always 0", "", *(f"{value:.3f}" for value in constant)])
    return markdown(["layer", "parameters", "with brackets, at 14", "at 28", "without, at 12", "at 24"], lines)


@table
def copying() -> str:
    """Letters right, with and without dependence of b and c on the previous token's output."""

    def spread(variant: str, length: int) -> tuple[str, float]:
        letters = rows("sequence_tasks_copying", variant=variant, length=length)["token_accuracy"]
        return f"{letters.mean():.3f} ± {letters.std():.3f}", letters.mean()

    lines = []
    paper = {
        "nothing": ("bc", "none", "0.70"),
        "step sizes": ("bc+lambda", "lambda", "0.33 to 0.43"),
        "Q": ("bc+q", "q", "0.33 to 0.43"),
        "Q and step sizes": ("bc+q+lambda", "q+lambda", "0.39"),
        "Q, with the short convolution": ("bc+q-conv", "q-conv", ""),
    }
    for label, (dependent, other, theirs) in paper.items():
        found = [spread(variant, length) for variant in (dependent, other) for length in (8, 16)]
        lines.append([label, *(cell for cell, _ in found), f"{found[1][1] - found[3][1]:.2f}", theirs])
    for label, variant in {
        "diagonal control": "diagonal",
        "diagonal control with the short convolution": "diagonal-conv",
    }.items():
        lines.append([label, "", "", *(spread(variant, length)[0] for length in (8, 16)), "", ""])
    header = ["also dependent", "b and c dependent: at 8", "at 16", "b and c independent: at 8", "at 16", "gain at 16"]
    return markdown([*header, "the paper's gain"], lines)


@table
def scan_speed() -> str:
    """Milliseconds of a scan, forward and backward."""
    contenders = ("copy", "linear_scan", "time-major loop", "pscan (B, T, D, 1)", "pscan (B, T, 1, D)")
    lines = []
    for shape in ("4x1024x256", "8x4096x64", "512x16x512"):
        frame = rows("scan", shape=shape).set_index("contender")
        times = [f"{frame.at[name, 'wall_ms']:.1f}" for name in contenders]
        lines.append([shape.replace("x", " x "), *times, f"{frame.at['linear_scan', 'times_copy']:.1f}"])
    header = ["shape (B, T, D)", "copy", "`linear_scan`", "time-major loop", "mamba.py, as (B, T, D, 1)"]
    return markdown([*header, "mamba.py, as (B, T, 1, D)", "times a copy"], lines)


@table
def fprnn_layer_speed() -> str:
    """Milliseconds of an FP-RNN layer by solver."""
    frame = rows("fprnn_layer_d64_r1")
    lines = []
    for weights, tol in (("fresh", 0.1), ("fresh", 0.001), ("trained", 0.1), ("trained", 0.001)):
        for length in (16, 64, 256, 1024):
            of = frame[(frame["weights"] == weights) & (frame["tol"] == tol) & (frame["length"] == length)]
            if of.empty:
                continue
            times = of.groupby("solver")["wall_ms"].first()
            number = of[of["solver"] == "iteration"]["iterations"].iloc[0]
            cells = [f"{times['exact']:.0f}", f"{times['iteration']:.0f} ({number:.0f})"]
            cells += [f"{times[name]:.0f}" for name in ("authors", "authors, hoisted", "automatic")]
            lines.append([f"{weights}, {tol:g}", str(length), *cells])
    header = ["weights, tolerance", "T", "exact", "iteration (number)", "authors' algorithm"]
    return markdown([*header, "the same, input hoisted", "automatic"], lines)


@table
def selective_scan_speed() -> str:
    """Milliseconds and peak memory of FP-Mamba's scan."""
    contenders = ("selective_scan", "recorded loop", "linear_scan of states", "mamba.py pscan")
    lines = []
    for shape in ("32x64x128x16", "8x256x128x16", "2x1024x128x16"):
        frame = rows("selective_scan", shape=shape).set_index("contender")
        cells = [f"{frame.at[name, 'wall_ms']:.0f}, {frame.at[name, 'peak_mib']:.0f}" for name in contenders]
        lines.append([shape.removesuffix("x16").replace("x", " x "), cells[0] + " MiB", *cells[1:]])
    header = ["shape (B, T, d)", "`selective_scan`", "recorded loop", "`linear_scan` of all states"]
    return markdown([*header, "mamba.py's pscan"], lines)


@table
def fpmamba_layer_speed() -> str:
    """Milliseconds of an FP-Mamba layer beside its diagonal control."""
    lines = []
    for length in (64, 256, 1024):
        frame = rows("fpmamba_layer_d128", length=length).set_index("layer")
        iterated = [
            f"{frame.at[name, 'wall_ms']:.0f} ({frame.at[name, 'iterations']:.1f})" for name in ("FPMamba", "FPMamba2")
        ]
        exact = f"{frame.at['FPMamba exact', 'wall_ms']:,.0f}" if "FPMamba exact" in frame.index else ""
        plain = [f"{frame.at[name, 'wall_ms']:.0f}" for name in ("DiagonalMamba", "DiagonalMamba2")]
        lines.append([str(length), *iterated, exact, *plain])
    header = ["T", "FP-Mamba (iterations)", "FP-Mamba-2 (iterations)", "FP-Mamba, exact", "diagonal Mamba"]
    return markdown([*header, "diagonal Mamba-2"], lines)


# Distillation and the size of the data


def point(stem: str, objective: str, fraction: float, **equal: object) -> "pd.Series":
    """The row of an objective at a fraction."""
    return rows(f"kd_{stem}_points", objective=objective, fraction=fraction, **equal).iloc[0]


def gap(row: "pd.Series") -> str:
    """The gap over labels with its interval."""
    return f"{points(row['gap'])} {interval(row['gap_low'], row['gap_high'])}"


FRACTIONS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


@table
def kd_digits() -> str:
    """The headline on digits."""

    def along(label: str, cell: Callable[[float], str]) -> list[str]:
        return [label, *(cell(fraction) for fraction in FRACTIONS)]

    def accuracy(objective: str) -> Callable[[float], str]:
        return lambda fraction: f"{100 * point('digits', objective, fraction)['accuracy']:.1f}"

    def difference(objective: str) -> Callable[[float], str]:
        return lambda fraction: gap(point("digits", objective, fraction))

    def efficiency(fraction: float) -> str:
        return f"{point('digits', 'distilled', fraction)['data_efficiency']} x"

    lines = [
        along("labels", accuracy("labels")),
        along("distilled, T = 20", accuracy("distilled")),
        along("gap", difference("distilled")),
        along("smoothed labels, 0.1, less labels", difference("smoothed")),
        along("permuted wrong classes", difference("permuted")),
        [*along("as good as labels with", efficiency)[:-1], efficiency(1.0) + " the data"],
    ]
    return markdown(["fraction", *(f"{fraction:g}" for fraction in FRACTIONS)], lines)


@table
def readme_kd() -> str:
    """The README's excerpt of it."""
    shown = (0.02, 0.1, 1.0)

    def line(label: str, cell: Callable[[float], str]) -> list[str]:
        return [label, *(cell(fraction) for fraction in shown)]

    return markdown(
        ["fraction", *(f"{fraction:g}" for fraction in shown)],
        [
            line("labels", lambda x: f"{100 * point('digits', 'labels', x)['accuracy']:.1f}"),
            line("distilled, T = 20", lambda x: f"{100 * point('digits', 'distilled', x)['accuracy']:.1f}"),
            line("gap", lambda x: gap(point("digits", "distilled", x))),
            line("smoothed labels less labels", lambda x: gap(point("digits", "smoothed", x))),
        ],
    )


@table
def kd_images() -> str:
    """Fashion-MNIST and CIFAR-10 by fraction and temperature."""
    lines, fractions = [], (0.02, 0.1, 0.25, 1.0)
    for stem, label in {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}.items():
        lines.append(
            [
                f"{label}, labels",
                *(f"{100 * point(stem, 'labels', fraction)['accuracy']:.1f}" for fraction in fractions),
            ]
        )
        for temperature in (20, 4, 1):
            objective = f"distilled, temperature {temperature}"
            known = set(rows(f"kd_{stem}_points", objective=objective)["fraction"])
            cells = [gap(point(stem, objective, fraction)) if fraction in known else "" for fraction in fractions]
            lines.append(["distilled, T = 20, less labels" if temperature == 20 else f"T = {temperature}", *cells])
    return markdown(["fraction", *(f"{fraction:g}" for fraction in fractions)], lines)


@table
def kd_explanations() -> str:
    """What is left of the gap at the smallest fraction when parts of the teacher's outputs are taken away."""
    names = {
        "distilled": "the teacher's outputs, T = 20",
        "rest alone": "the wrong classes alone (decoupled KL), half labels",
        "top 5": "the five largest outputs",
        "top 3": "the three largest",
        "top 2": "the two largest",
        "class mean": "the mean over the class",
        "uniform rest": "its confidence alone, the rest uniform",
        "weighted labels": "labels weighted by its confidence",
        "smoothed .1": "smoothed labels, 0.1",
        "smoothed .4": "smoothed labels, 0.4",
        "entropy matched": "smoothing of matched entropy",
        "confidence matched": "smoothing of matched confidence",
        "virtual .9 T=20": "virtual teacher, the paper's formula",
        "virtual code .9 T=20": "virtual teacher, as its published code computes it",
        "permuted per visit": "wrong classes permuted at each visit",
        "permuted per sample": "wrong classes permuted once per sample",
        "permuted per class": "wrong classes permuted once per class",
        "other samples": "outputs of another sample of the class",
        "random head": "a teacher with a random head",
    }
    lines = [[label, gap(point("digits_explanations", name, 0.02))] for name, label in names.items()]
    return markdown(["trained on", "gap over labels at 0.02"], lines)


@table
def kd_temperature() -> str:
    """The gap on digits by temperature."""
    temperatures = ("0.1", "1", "2", "4", "10", "20", "100")
    lines = [
        [
            f"at {fraction:g}",
            *(
                points(point("digits_temperature", f"distilled, temperature {temperature}", fraction)["gap"])
                for temperature in temperatures
            ),
        ]
        for fraction in (0.02, 0.1)
    ]
    return markdown(["T", *temperatures], lines)


@table
def kd_teacher_size() -> str:
    """The gap on digits by the number of samples that the teacher was trained on."""
    lines = []
    teachers = ((60, "subset", "60"), (120, "subset", "120"), (300, "subset", "300"))
    for size, mode, label in (*teachers, (300, "fresh", "300, students on other samples")):
        of = {"data.teacher_size": size, "data.mode": mode}
        frame = rows("kd_digits_teacher_size_points", objective="distilled", **of).set_index("fraction")
        cells = [points(frame.at[fraction, "gap"]) if fraction in frame.index else "" for fraction in FRACTIONS]
        lines.append([label, f"{100 * frame['teacher_accuracy'].iloc[0]:.1f}", *cells])
    header = ["teacher trained on", "its accuracy", *(f"at {fraction:g}" for fraction in FRACTIONS)]
    header[2] = "gap at 0.02"
    return markdown(header, lines)


@table
def kd_linear() -> str:
    """Excess risk of least squares on labels and on a teacher's outputs, and the ratio that theory predicts."""
    samples, features = 10_000, 500
    mean = rows("kd_linear").groupby("size")[["label", "distilled", "ratio"]].mean()

    def short(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"

    def ratio(size: int) -> str:
        theory = (samples - features - 1) / (size - features - 1) if size > features + 1 else None
        value = mean.at[size, "ratio"]
        return f"{short(value)} ({short(theory)})" if theory else short(value) if size < features else ""

    return markdown(
        ["M", *(f"{size:,}" for size in mean.index)],
        [
            ["excess risk on labels", *(short(value) for value in mean["label"])],
            ["on the teacher's outputs", *(short(value) for value in mean["distilled"])],
            ["ratio, and (N - d - 1) / (M - d - 1)", *(ratio(size) for size in mean.index)],
        ],
    )


@table
def kd_budget() -> str:
    """Longer and shorter training on digits."""
    frame, lines = rows("kd_digits_budget_points"), []
    for (steps, _, epochs), of in frame.groupby(
        ["data.steps_per_epoch", "model.lr_scheduler.warmup_steps", "trainer.max_epochs"], dropna=False
    ):
        passes = f"{epochs:.0f} passes: {epochs:.0f} steps at 0.02"
        label, cells = passes if pd.isna(steps) else f"{steps * epochs:,.0f}", []
        for fraction in (0.02, 0.1, 1.0):
            at = of[of["fraction"] == fraction].set_index("objective")
            cells.append(f"{100 * at.at['labels', 'accuracy']:.1f}, {gap(at.loc['distilled'])}")
        lines.append([label, *cells])
    return markdown(["steps at every fraction", "0.02", "0.1", "1"], lines)


@table
def kd_noise() -> str:
    """Three tenths of all training labels wrong."""

    def line(label: str, cell: Callable[[float], str]) -> list[str]:
        return [label, *(cell(fraction) for fraction in FRACTIONS)]

    def at(objective: str, fraction: float) -> "pd.Series":
        return point("digits_noise", objective, fraction, **{"data.label_noise": 0.3})

    return markdown(
        ["fraction", *(f"{fraction:g}" for fraction in FRACTIONS)],
        [
            line("labels", lambda x: f"{100 * at('labels', x)['accuracy']:.1f}"),
            line("gap, distilled", lambda x: gap(at("distilled", x))),
            line("gap, the teacher's class", lambda x: gap(at("teacher's class", x))),
        ],
    )


@table
def kd_student_size() -> str:
    """Students smaller than, like and larger than the teacher."""
    lines = []
    for hidden, label in {"[64, 64]": "0.1", "[256, 256]": "1", "[512, 512]": "3.5"}.items():
        of = {"model.student.encoder.hidden": hidden}
        lines.append(
            [
                label,
                *(
                    gap(point("digits_student_size", "distilled", fraction, **of))
                    for fraction in (0.02, 0.1, 0.25, 1.0)
                ),
            ]
        )
    return markdown(["size relative to the teacher", "0.02", "0.1", "0.25", "1"], lines)


@table
def kd_fidelity() -> str:
    """Agreement, alignment, collapse and refitted heads by fraction."""
    refitted = rows("kd_digits_refit").groupby(["objective", "fraction"])["refit_accuracy"].mean()
    lines = []
    for label, column, scale in (
        ("agreement with the teacher", "test_agreement", 100),
        ("CKA with the teacher", "test_cka", 1),
        ("neural collapse NC1 of own samples", "subset_nc1", 1),
    ):
        for objective in ("labels", "distilled"):
            values = [scale * point("digits", objective, fraction)[column] for fraction in FRACTIONS]
            form = {"test_agreement": "{:.1f}", "test_cka": "{:.3f}", "subset_nc1": "{:.2f}"}[column]
            lines.append([f"{label}, labels" if objective == "labels" else "distilled", *map(form.format, values)])
    for objective in ("labels", "distilled"):
        label = "accuracy with the head refitted on the whole pool, labels" if objective == "labels" else "distilled"
        lines.append([label, *(f"{100 * refitted[objective, fraction]:.1f}" for fraction in FRACTIONS)])
    return markdown(["fraction", *(f"{fraction:g}" for fraction in FRACTIONS)], lines)


@table
def kd_step_speed() -> str:
    """Milliseconds per training step."""
    names = {
        "labels": "on labels",
        "online": "distilled, the teacher in every step",
        "cached": "distilled, outputs kept",
        "torchdistill": "torchdistill, the teacher in every step",
    }
    frame, lines = rows("kd_step_digits-cifar").set_index(["setting", "step"]), []
    for step, label in names.items():
        cells = []
        for setting, form in (("digits", "{:.2f}"), ("cifar", "{:.0f}")):
            for column in ("ms", "trainer_ms"):
                value = frame.at[(setting, step), column]
                cells.append("" if pd.isna(value) else form.format(value))
        lines.append([label, *cells])
    return markdown(["step", "digits, bare", "in the trainer", "CIFAR, bare", "in the trainer"], lines)


def filled(page: str) -> str:
    """A page's text with every marked table made from its source."""
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], page)


def main() -> int:
    """Rewrites the pages."""
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
