"""The table of a distillation run: how well input, teacher and student probe, in percent."""

from collections.abc import Mapping, Sequence

SUBJECTS = ("input", "teacher", "student")
SPLITS = {"probe": "test split", "probe_val": "validation split"}


def distillation_table(metrics: Mapping[str, float | None]) -> str:
    """Rows are probes, columns are input, teacher, student and the student's gain over the teacher in points.

    Args:
        metrics: fractions named ``probe/SUBJECT/NAME`` (test split) and ``probe_val/SUBJECT/NAME`` (validation split);
            other names are passed over.

    Returns:
        Aligned plain text, one block a split that has metrics; one line that says so if none has. A value that is
        missing or not a number is shown as "-".
    """
    blocks = [_block(title, found) for prefix, title in SPLITS.items() if (found := by_probe(metrics, prefix))]
    return "\n\n".join(blocks) or "no probe results"


def by_probe(metrics: Mapping[str, float | None], prefix: str) -> dict[str, dict[str, float | None]]:
    """``{probe: {subject: fraction}}`` of the metrics under a prefix, in their order."""
    found: dict[str, dict[str, float | None]] = {}
    for name, value in metrics.items():
        match name.split("/"):
            case [first, subject, probe] if first == prefix and subject in SUBJECTS:
                found.setdefault(probe, {})[subject] = value
    return found


def _block(title: str, found: Mapping[str, Mapping[str, float | None]]) -> str:
    rows = [["probe", *SUBJECTS, "gain"]]
    for probe, values in found.items():
        teacher, student = values.get("teacher"), values.get("student")
        gain = None if teacher is None or student is None else student - teacher
        rows.append([probe, *(percent(values.get(subject)) for subject in SUBJECTS), percent(gain, "+")])
    return f"Probe accuracy, {title} (percent; gain in points)\n" + aligned(rows)


def percent(fraction: float | None, sign: str = "") -> str:
    """A fraction in percent with one decimal, "-" for none; ``sign="+"`` shows a plus too."""
    if fraction is None or fraction != fraction:
        return "-"
    text = f"{100 * fraction:{sign}.1f}"
    return "+0.0" if text == "-0.0" else text


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain text: the first column to the left, the others to the right, with a rule under the first row."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
