"""Cycle navigation: steps forwards, backwards or none on a cycle; where do they lead.

Bit for bit the sequences of the authors of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix E.4; see
``FormalLanguage``. Their code's cycle has 6 places, while its header and the Chomsky-hierarchy suite say 5.
"""

import numpy as np

from dinopl.core.checks import MOST_NAMES, check_sizes
from fprnn.tasks.formal import FormalLanguage, end_labelled
from fprnn.tasks.streams import Streams, Words
from fprnn.tasks.task import LengthRange, SequenceBatch

STEPS = np.array([0, 1, -1])
"""What the tokens 1, 2 and 3 stand for."""


class CycleNavigation(FormalLanguage):
    """Place on a cycle after a walk from place 0, asked for at the last step; a length counts steps.

    Token 0 is blank, 1 stays, 2 goes forwards, 3 backwards, and 4 + p is the place p, which only targets name.

    Args:
        places: length of the cycle.
        context: the authors' context, a fixed number of draws a sequence; a batch is ``context - 1`` wide. By default
            one more than the longest sequence. It sets which walks a seed stands for.
        eval_shortest: evaluate on lengths between this and the one asked for; by default on that alone.

    Raises:
        ValueError: if there is one place only, there are more than 10**7, or the context leaves no room for a step.
    """

    def __init__(self, places: int = 6, context: int | None = None, eval_shortest: int | None = None) -> None:
        if places < 2:
            raise ValueError(f"--data.task.places: {places} leaves nowhere to go; use 2 or more.")
        check_sizes(MOST_NAMES, **{"--data.task.places": places})
        super().__init__(("<blank>", "stay", "+", "-", *map(str, range(places))), places, context, eval_shortest)
        self.places = places

    def sample(self, seeds: Words, lengths: LengthRange) -> SequenceBatch:
        """Walks of uniform steps; first as many steps as the context has are drawn, then the length."""
        streams = Streams(seeds)
        width = self.num_tokens(lengths.longest)
        steps = streams.integers(0, len(STEPS), width + 1)[:, :width]
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        walked = np.where(np.arange(width) < length, STEPS[steps], 0).sum(axis=1, keepdims=True)
        return end_labelled(steps + 1, length, walked % self.places + 4)
