"""Metrics of a sample of the data, kept until all data have been seen: those that no running sum gives.

Which samples are kept follows from their index alone: those whose hashed index is smallest. So the choice is the same
for any batch size and number of processes, a sample that two processes saw counts once, and a data set that is sorted
by class is not cut off after its first classes.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from dinopl.core.random import sample_keys

_KEYS = "keys"


class SampledMetric(Metric):
    """A metric of at most ``limit`` samples of the data.

    Args:
        columns: names of what is kept of each sample.
        limit: how many samples at most.

    Raises:
        ValueError: if the limit is below 2.
    """

    full_state_update = False

    def __init__(self, columns: tuple[str, ...], limit: int, **options: Any) -> None:
        super().__init__(**options)
        if limit < 2:
            raise ValueError(f"limit={limit}: must be at least 2 samples in {type(self).__name__}")
        self.columns = columns
        self.limit = limit
        for name in (_KEYS, *columns):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def keep(self, index: Tensor, **values: Tensor) -> None:
        """Adds samples.

        Args:
            index: of each sample, ``(n,)`` int64.
            **values: one tensor per column, ``(n, ...)``.
        """
        for name, value in {_KEYS: sample_keys(0, 0, index), **values}.items():
            getattr(self, name).append(value.detach())
        if sum(map(len, getattr(self, _KEYS))) > 2 * self.limit:
            for name, value in self._chosen().items():
                setattr(self, name, [value])

    def kept(self) -> dict[str, Tensor]:
        """What was kept, by column, on the CPU; floating-point values in float64."""
        chosen = {name: value.cpu() for name, value in self._chosen().items() if name != _KEYS}
        return {name: value.double() if value.is_floating_point() else value for name, value in chosen.items()}

    def _chosen(self) -> dict[str, Tensor]:
        """The samples of the smallest keys, each once, sorted by key."""
        states = {name: getattr(self, name) for name in (_KEYS, *self.columns)}
        # a list of parts; after processes were joined it is one tensor already
        joined = {name: state if isinstance(state, Tensor) else torch.cat(state) for name, state in states.items()}
        keys, order = joined[_KEYS].sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        order = order[first][: self.limit]
        return {name: value[order] for name, value in joined.items()}
