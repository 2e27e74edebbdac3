"""Features of a network by dotted module name, taken while it runs, without a change to the network.

A name is that of ``named_modules``: ``encoder`` or ``layer4.1.conv2``. With ``:input`` behind it, it means what goes
into the module: ``fc:input`` are the penultimate features of a torchvision ResNet.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor, nn

from dinopl.core.precision import at_least_float32
from dinopl.core.types import ImageBatch, as_batch
from dinopl.encoders.common import evaluation
from kd.networks import output_shape

_INPUT = ":input"


def find_module(network: nn.Module, name: str, argument: str) -> nn.Module:
    """The submodule of a dotted name; ``:input`` behind it is ignored.

    Raises:
        ValueError: if there is none; the message names those that are similar, and ``argument``, which had the name.
    """
    name = name.removesuffix(_INPUT)
    modules = {known: module for known, module in network.named_modules() if known}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3, cutoff=0.5)
        near = near or [known for known in modules if "." not in known]
        raise ValueError(
            f"{argument}={name}: no module of {type(network).__name__}; did you mean {' or '.join(map(repr, near))}?"
        )
    return modules[name]


class FeatureCapture:
    """Keeps what named submodules return, from one forward pass to the next.

    Use it around a pass (``with FeatureCapture(network, names) as capture: ...``), or attach it once and remove it at
    the end. ``take`` hands the features over and forgets them, so that no graph outlives its step.

    Args:
        network: its modules get forward hooks.
        names: dotted names, with ``:input`` behind those whose input is meant.
        argument: what the names were given to, for messages.

    Raises:
        ValueError: if a name is no module of the network.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], argument: str = "name") -> None:
        self.modules = {name: find_module(network, name, argument) for name in names}
        self.argument = argument
        self._features: dict[str, Any] = {}
        self._handles: list[Any] = []

    def attach(self) -> Self:
        """Registers the hooks, once."""
        if not self._handles:
            self._handles = [module.register_forward_hook(self._keep(name)) for name, module in self.modules.items()]
        return self

    def remove(self) -> None:
        """Removes the hooks, and forgets what was captured."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._features.clear()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *error: object) -> None:
        self.remove()

    def take(self) -> dict[str, Tensor]:
        """The features of the last forward pass, by name, in the order of the names.

        Raises:
            ValueError: if a module was not run, or what it returned or got is not a tensor.
        """
        for name in self.modules:
            found = self._features.get(name)
            if not isinstance(found, Tensor):
                what = "was not run" if found is None else f"gives a {type(found).__name__}, not a tensor"
                raise ValueError(f"{self.argument}={name}: {what}; name another module")
        features, self._features = self._features, {}
        return {name: features[name] for name in self.modules}

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._features[name] = (inputs[0] if inputs else ()) if name.endswith(_INPUT) else output

        return hook


def batches_with_features(
    network: nn.Module, name: str, batches: Iterable[Any], argument: str = "name"
) -> Iterator[tuple[ImageBatch, Tensor]]:
    """Batches with the features of one module, in eval mode and without a graph; see :func:`collect_features`."""
    with evaluation(network), FeatureCapture(network, [name], argument) as capture:
        for batch in map(as_batch, batches):
            with torch.no_grad():  # not around the yield, where it would hold for the caller's own code
                network(batch["views"][0])
            yield batch, capture.take()[name]


def collect_features(network: nn.Module, name: str, batches: Iterable[Any], argument: str = "name") -> Tensor:
    """Features of one module on all samples, in eval mode and without a graph; batches are on the network's device.

    Returns:
        ``(n, d)`` of features ``(B, d)``, one row per sample, or of ``(B, T, d)``, one per token.

    Raises:
        ValueError: if the name is no module of the network.
    """
    return torch.cat(
        [features.flatten(0, -2) for _, features in batches_with_features(network, name, batches, argument)]
    )


class FeatureObjective(nn.Module, ABC):
    """``weight`` times the mean distance over pairs of modules, one of the student's and one of the teacher's.

    Args:
        student: dotted names of the student's modules; ``:input`` behind a name means what goes into the module.
        teacher: the teacher's, in the same order; None means the same names.
        weight: what the distance is multiplied by before it is added to the objective.

    Raises:
        ValueError: if there is no name, or not as many on both sides.
    """

    def __init__(self, student: list[str], teacher: list[str] | None = None, weight: float = 1.0) -> None:
        super().__init__()
        teacher = list(student) if teacher is None else teacher
        if not student or len(student) != len(teacher):
            raise ValueError(
                f"student={student}: {len(student)} modules, and {len(teacher)} of the teacher; give as many of each, "
                "at least one"
            )
        self.student_modules = student
        self.teacher_modules = teacher
        self.weight = weight

    needs_teacher = True
    needs_subset = False

    def connect(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
        """Fits itself to the shapes of the features of a batch, by module name, once, before the optimiser is made.

        Raises:
            ValueError: if features cannot be compared.
        """

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """The weighted distance, a scalar in at least float32, of features ``(B, ...)`` by module name.

        The teacher's receive no gradient.
        """
        terms = []
        for number, (of_student, of_teacher) in enumerate(self.pairs()):
            ours, theirs = student[of_student], teacher[of_teacher].detach()
            with torch.autocast(ours.device.type, enabled=False):  # which would round products of features
                terms.append(self.distance(number, at_least_float32(ours), at_least_float32(theirs)))
        return self.weight * torch.stack(terms).mean()

    def pairs(self) -> Sequence[tuple[str, str]]:
        """Names of student's and teacher's module, pair by pair."""
        return list(zip(self.student_modules, self.teacher_modules, strict=True))

    @abstractmethod
    def distance(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance, a scalar, between the features ``(B, ...)`` of the pair number ``pair``."""


class PairedCapture:
    """Features of student and teacher, those that feature objectives compare; ValueError if a name is no module."""

    def __init__(self, student: nn.Module, teacher: nn.Module, objectives: Sequence[FeatureObjective]) -> None:
        self._sides = (
            FeatureCapture(student, [name for part in objectives for name in part.student_modules], "features"),
            FeatureCapture(teacher, [name for part in objectives for name in part.teacher_modules], "features"),
        )
        self._networks, self._objectives = (student, teacher), objectives

    def connect(self, shape: tuple[int, ...]) -> None:
        """Lets the objectives see the shapes of what they compare, once, on a sample of the given shape."""
        found = []
        for side, network in zip(self._sides, self._networks, strict=True):
            with side:
                output_shape(network, shape)
                found.append({name: feature.cpu().float() for name, feature in side.take().items()})
        for part in self._objectives:
            part.connect(*found)

    def attach(self) -> Self:
        """Registers the hooks."""
        for side in self._sides:
            side.attach()
        return self

    def remove(self) -> None:
        """Removes the hooks."""
        for side in self._sides:
            side.remove()

    def loss(self) -> Tensor:
        """Sum of the objectives on the features of both networks' last forward passes, a scalar."""
        ours, theirs = (side.take() for side in self._sides)
        return reduce(torch.add, [part(ours, theirs) for part in self._objectives])
