"""Options of runs by their dotted names, as the command line has them, and which of them vary."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dinopl.core.moved import flatten

if TYPE_CHECKING:
    from pandas import DataFrame

SEED = "seed_everything"

# Where a run goes and how it is shown: no part of what is compared. A name ends here or goes on with a dot.
BOOKKEEPING = (
    *("name", "threads", "ckpt_path", "weights_only", "test_after_fit"),
    *("data.root", "data.num_workers", "data.download"),
    *("trainer.default_root_dir", "trainer.logger", "trainer.profiler", "trainer.log_every_n_steps"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.enable_checkpointing"),
)


def flatten_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name: ``init_args`` left out, a class by its last name under the name of its option.

    Objects in a list are numbered: ``model.probes.0``, ``model.probes.0.k``. Other lists are one value.

    Args:
        config: nested, or with dotted names already, or both.
    """
    found: dict[str, Any] = {}
    for path, value in flatten(config) if config else ():
        name = option_name(".".join(path))
        if f".{path[-1]}".endswith(".class_path"):
            found[name] = value.rsplit(".", 1)[-1] if isinstance(value, str) else value
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            found |= flatten_options({f"{name}.{position}": item for position, item in enumerate(value)})
        elif value is None or value == {}:  # no arguments: the class is the option's value
            found.setdefault(name, value)
        else:
            found[name] = number(value)
    return found


def option_name(name: str) -> str:
    """A dotted name as the command line has it at its shortest: without ``init_args`` and a last ``class_path``."""
    return ".".join(part for part in name.removesuffix(".class_path").split(".") if part != "init_args")


def number(value: Any) -> Any:
    """The value, but for text that reads as a number: YAML takes ``1e-3`` for text, the command for a number."""
    value = value.item() if hasattr(value, "item") else value  # of a column of numbers
    if isinstance(value, str):
        try:
            read = float(value)
        except ValueError:
            return value
        value = read if math.isfinite(read) else value
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def canonical(value: Any) -> str:
    """Text that is equal for equal values, also for lists; a whole number of a column of fractions is the integer."""
    return json.dumps(number(value), sort_keys=True, default=str)


def shown(value: Any) -> str:
    """A value for people; "-" for one that is absent."""
    value = value.item() if hasattr(value, "item") else value
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def is_bookkeeping(option: str) -> bool:
    """Whether an option says where a run goes or how it is shown, and nothing of what is compared."""
    return any(option == name or option.startswith(f"{name}.") for name in BOOKKEEPING)


def varying(runs: "DataFrame", names: Iterable[str]) -> list[str]:
    """Columns with more than one value; bookkeeping is left out."""
    found = []
    for name in names:
        column = runs[name]
        texts = column.map(canonical) if column.dtype == object else column  # True is not 1, and lists have no hash
        if not is_bookkeeping(name) and texts.nunique() > 1:
            found.append(name)
    return found


def without_implied(runs: "DataFrame", names: Iterable[str]) -> list[str]:
    """Leaves out options that follow from the class that their object has, or from the variant.

    With ``model.optimizer`` in SGD and AdamW, ``model.optimizer.momentum`` says nothing more if it has one value for
    each of the two.

    Args:
        runs: with the options as columns.
        names: of options that vary, "variant" being one that everything may follow from.
    """
    names = list(names)
    texts = runs[names].map(canonical)
    kept: list[str] = []
    for name in sorted(names, key=lambda name: (name != "variant", name.count("."))):
        above = [other for other in kept if other == "variant" or name.startswith(f"{other}.")]
        if not any((texts.groupby(other)[name].nunique() == 1).all() for other in above):
            kept.append(name)
    return [name for name in names if name in kept]
