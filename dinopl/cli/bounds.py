"""Numbers that the parser and the Trainer take, and that fail later, or are passed over in silence."""

import math
from typing import Any, NamedTuple

from dinopl.core.errors import UserMistake


class Bound(NamedTuple):
    """What an option's value must be."""

    low: float
    high: float
    told: str
    """What it must be in words, with the remedy."""


BOUNDS = {
    "seed_everything": Bound(0, 2**32 - 1, "must be from 0 to 4294967295; give another seed."),
    "threads": Bound(1, 4096, "must be at least 1 and at most 4096; leave it out for torch's choice."),
    "trainer.accumulate_grad_batches": Bound(1, math.inf, "must be at least 1; 1 accumulates nothing."),
    "trainer.check_val_every_n_epoch": Bound(
        1, math.inf, "must be at least 1; --trainer.limit_val_batches 0 switches validation off."
    ),
    "trainer.gradient_clip_val": Bound(0, math.inf, "must be at least 0; leave it out for no clipping."),
    "trainer.max_epochs": Bound(-1, math.inf, "must be at least 0, or -1 for no limit."),
    "trainer.max_steps": Bound(-1, math.inf, "must be at least 0, or -1 for no limit."),
}


def check_bounds(config: Any) -> None:
    """Refuses a number out of its bounds.

    Args:
        config: what was parsed of a run's options.

    Raises:
        UserMistake: if there is one, NaN included.
    """
    for option, bound in BOUNDS.items():
        value = config.get(option)
        if isinstance(value, int | float) and not bound.low <= value <= bound.high:
            shown = f"{value:g}" if isinstance(value, float) else value  # the parser made -1 to -1.0
            raise UserMistake(f"--{option} {shown}: {bound.told}")
