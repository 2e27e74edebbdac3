"""The values that an option takes in a sweep file: a list, or a range that is evenly spread, linearly or in logarithm.

Without a number of values, a range is a distribution for a search.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinopl.core.errors import did_you_mean

RANGE_KEYS = ("from", "to", "number", "step", "scale", "integer")

# YAML 1.1 takes 1e-3 for text, and so does PyYAML; researchers take it for a number.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low: the first value.
        high: the last value; ``step`` may end before it.
        number: of values; None if ``step`` says it, or in a search.
        step: between values; None if ``number`` says it.
        log: spread evenly in logarithm instead of linearly.
        integer: rounded to whole numbers.
    """

    low: float
    high: float
    number: int | None = None
    step: float | None = None
    log: bool = False
    integer: bool = False

    def values(self) -> list[float]:
        """The values in their order, each once; of a distribution its ends and the middle."""
        if self.step is not None:
            count = math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1
            spread = [self.low + position * self.step for position in range(count)]
        else:
            count = self.number or 3
            spread = [self._at(position / (count - 1)) for position in range(count)]
        return list(dict.fromkeys(self._tidy(value) for value in spread))

    def _at(self, share: float) -> float:
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def _tidy(self, value: float) -> float:
        """Rounds to a whole number, or off what floating-point arithmetic left behind."""
        if self.integer:
            return round(value)
        tidy = float(f"{value:.12g}")
        return int(tidy) if tidy.is_integer() and isinstance(self.low, int) and isinstance(self.high, int) else tidy


def read_values(given: Any) -> tuple[Any, ...] | Range:
    """What stands behind an option: a list, or a mapping that describes a range.

    Raises:
        ValueError: if it is neither, or empty.
    """
    if isinstance(given, Mapping):
        return read_range(given)
    if not isinstance(given, list):
        raise ValueError(f"expected a list of values or a range, got {given!r}; a fixed value goes under `set:`")
    if not given:
        raise ValueError("an empty list; give at least one value")
    return tuple(numbers(value) for value in given)


def read_range(given: Mapping[str, Any]) -> Range:
    """Reads ``{from: 1e-4, to: 1e-1, number: 4, scale: log}``.

    Raises:
        ValueError: if a key is unknown or missing, or a value makes no range.
    """
    unknown = next((key for key in given if key not in RANGE_KEYS), None)
    if unknown is not None:
        raise ValueError(f"no key {unknown!r}{did_you_mean(str(unknown), [*RANGE_KEYS, 'values', 'when'])}")
    values = {key: numbers(value) for key, value in given.items()}
    low, high = (_finite(values, key) for key in ("from", "to"))
    made = Range(
        low, high, values.get("number"), values.get("step"), _is_log(values), values.get("integer", False) is True
    )
    _check_spacing(made)
    return made


def _finite(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a range needs the number `{key}`, got {value!r}")
    return value


def _is_log(values: Mapping[str, Any]) -> bool:
    scale = values.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise ValueError(f"`scale` is {scale!r}: give linear or log")
    return bool(scale == "log")


def _check_spacing(made: Range) -> None:
    number, step = made.number, made.step
    if made.high <= made.low:
        raise ValueError(f"`to` ({made.high}) must be greater than `from` ({made.low})")
    if made.log and made.low <= 0:
        raise ValueError(f"a range on a log scale must begin above 0, not at {made.low}")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 2):
        raise ValueError(f"`number` is {number!r}: a range has at least 2 values")
    if step is not None and (not isinstance(step, int | float) or isinstance(step, bool) or step <= 0):
        raise ValueError(f"`step` is {step!r}: it must be above 0")
    if step is not None and (number is not None or made.log):
        raise ValueError("`step` goes neither with `number` nor with a log scale; leave one out")


def numbers(value: Any) -> Any:
    """The value with text such as ``1e-3`` turned into the number that it stands for."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items()}
    return [numbers(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
