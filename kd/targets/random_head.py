"""The teacher's features under an untrained head: features without the meaning of the classes.

From the authors' early code, which mixes it with the labels.
"""

import copy

import torch
from torch import Tensor, nn

from dinopl.core.random import seeded, stream_seed
from kd.features.capture import find_module
from kd.targets.base import TargetTransform, Visit


def with_random_head(teacher: nn.Module, head: str | None, seed: int) -> nn.Module:
    """A copy of a network whose head, by default the last ``nn.Linear``, is drawn again by its layers' own rule.

    Raises:
        ValueError: if there is no such module, or no layer of it can be drawn again.
    """
    if head is None:
        linear = [name for name, module in teacher.named_modules() if isinstance(module, nn.Linear)]
        head = linear[-1] if linear else "head"
    find_module(teacher, head, "head")
    teacher = copy.deepcopy(teacher)
    layers = teacher.get_submodule(head).modules()
    draws = [draw for layer in layers if callable(draw := getattr(layer, "reset_parameters", None))]
    if not draws:
        raise ValueError(f"head={head}: has no layer that can be drawn again; name the last linear layer")
    with seeded(seed), torch.no_grad():
        for draw in draws:
            draw()
    return teacher


class RandomHead(TargetTransform):
    """The logits of the teacher with its head drawn again.

    Args:
        head: dotted name of the teacher's head; None is its last linear layer.
        seed: of the draw; None takes the stream "target/head" of the run's seed.
    """

    def __init__(self, head: str | None = None, seed: int | None = None) -> None:
        self.head = head
        self.seed = stream_seed("target/head") if seed is None else seed

    def adapt_teacher(self, teacher: nn.Module) -> nn.Module:
        """See :func:`with_random_head`."""
        return with_random_head(teacher, self.head, self.seed)

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """``teacher`` itself: its head is already random."""
        return teacher
