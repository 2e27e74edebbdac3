"""The nearest name that exists."""

import difflib
import re
from collections.abc import Iterable


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of ``names``; a full stop where none is near.

    Where no whole name is near, one whose last part is: ``model.student.alpha`` for ``alpha``.
    """
    known = list(names)
    near = [name for name in known if name.lower() == word.lower()][:1]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near:
        by_last = {re.split("[./]", name)[-1]: name for name in reversed(known)}
        near = [by_last[last] for last in difflib.get_close_matches(word, by_last, n=1, cutoff=0.8)]
    return f"; did you mean {near[0]!r}?" if near else "."
