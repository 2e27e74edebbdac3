"""What each family of modules adds to the reports: a file each, found by the mark of the family in ``results.json``.

A family joins with one more file here that has what :class:`View` lists. Nothing outside this folder names a family.
"""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, cast

from dinopl.reports.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class View(Protocol):
    """A file of this folder.

    Attributes:
        family: the mark of the family's modules.
        x: what stands on the horizontal axes of :meth:`figures`; the name of a column in their CSV files.
        headline: by split, "test" and "val", how the names begin of the metrics that a report shows first, besides
            accuracies.
        panels: optional: from groups, metrics, the option on the horizontal axis and a level to further points of the
            figure of a report, as ``row_of`` has them.
    """

    family: str
    x: str
    headline: Mapping[str, str]

    def applies(self, run: Run, /) -> bool:
        """Whether the run has what this view shows."""

    def table(self, run: Run, /) -> str:
        """Plain text for the terminal."""

    def figures(self, run: Run, /) -> dict[str, "Figure"]:
        """Figures by the name that they are saved under, as far as there is something to draw."""

    def words(self, name: str, /) -> tuple[str, str] | None:
        """The title of an axis and its unit for a metric, an option or a key; None for what is not the family's."""


@functools.cache
def all_views() -> tuple[View, ...]:
    """The views of all families, in the order of their files' names."""
    found = (importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__))
    return tuple(cast("View", view) for view in found)


def views_of(run: Run) -> list[View]:
    """The views of a run's family that it has something for; of a run with no family's mark, those of any family."""
    known = [view for view in all_views() if view.family == run.family] or all_views()
    return [view for view in known if view.applies(run)]
