"""Teachers: frozen networks from wherever they come, with an identity and a test accuracy of their own.

A teacher is no part of the student's module: it is in no optimiser and no checkpoint, is never put into training mode,
and its parameters never change. What identifies it is a hash of its weights and its architecture. Where an accuracy is
recorded for it, that is compared with what it reaches on the data at hand, so that a teacher that was loaded wrongly,
or that sees other data than it was trained on, is found before a student learns from it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dinopl.core.checkpoints import FAMILY as SELF_DISTILLATION
from dinopl.core.checkpoints import first_mismatch, load_checkpoint, load_tensors, network_state
from dinopl.core.types import ImageShape
from dinopl.data.batch import as_batch
from dinopl.data.fingerprint import digest
from dinopl.distillation.network import Network, draw_network
from kd.features.capture import find_module
from kd.features.heads import HeadFit, refit_head
from kd.networks import LibraryClassifier, Shape, build, draw_classifier

FAMILY = "KnowledgeDistillation"
PATH = "--model.teacher.path"
LAST = "last.ckpt"
Batches = Callable[[], Iterable[Any]]


class LoadedTeacher(NamedTuple):
    """A network that is to teach."""

    network: nn.Module
    """Maps what the student sees to logits ``(..., C)``."""
    accuracy: float | None
    """On the test data, as it was recorded; None where nothing was."""
    source: str
    """Where it comes from, for results."""


class Teacher(ABC):
    """Where a teacher comes from.

    Args:
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; null takes the one that its
            source records, if any.
        tolerance: how far the two may be apart, a fraction.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, accuracy: float | None = None, tolerance: float = 0.002) -> None:
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"--model.teacher.accuracy {accuracy}: give a fraction from 0 to 1, or null.")
        if not tolerance >= 0:
            raise ValueError(f"--model.teacher.tolerance {tolerance}: give 0 or more.")
        self.accuracy = accuracy
        self.tolerance = tolerance

    @abstractmethod
    def load(self, shape: Shape, num_classes: int) -> LoadedTeacher:
        """Builds the network and reads its weights, on the CPU.

        Args:
            shape: of the student's samples.
            num_classes: of the student.

        Raises:
            FileNotFoundError: if a file is not there.
            ValueError: if a file cannot serve.
        """

    def finish(self, network: nn.Module, batches: Batches, num_classes: int) -> nn.Module:
        """What the data are needed for; most teachers need nothing.

        Args:
            network: of ``load``.
            batches: gives the teacher's training samples, un-augmented and with their labels, on the network's device.
            num_classes: of the student.
        """
        return network


class RunTeacher(Teacher):
    """The student of an earlier run of ``KnowledgeDistillation``, such as one on the labels of the whole pool.

    Args:
        path: a run's checkpoint, or its folder, whose ``checkpoints/last.ckpt`` then counts. The accuracy recorded is
            that of the run's ``results.json``, which is of its last step; an earlier checkpoint has none.
        network: makes the network; null makes what the run's configuration says.
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; null takes the recorded one.
        tolerance: how far the two may be apart, a fraction.
    """

    def __init__(
        self,
        path: str,
        network: Callable[[Any, int], nn.Module] | None = None,
        accuracy: float | None = None,
        tolerance: float = 0.002,
    ) -> None:
        super().__init__(accuracy, tolerance)
        self.path = path
        self.network = network

    def load(self, shape: Shape, num_classes: int) -> LoadedTeacher:
        """See :class:`Teacher`."""
        path = checkpoint_file(self.path)
        checkpoint = load_checkpoint(path, PATH)
        ours = _of_family(checkpoint, FAMILY, path, hint="SelfDistilledTeacher")
        _check_data(ours, shape, num_classes, path)
        factory = self.network or _recorded_network(ours, path)
        network = draw_classifier(factory, shape, num_classes, seed=0)
        state = {
            name.removeprefix("student."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("student.")
        }
        _fill(network, state, path, "--model.teacher.network")
        return LoadedTeacher(
            network, _first(self.accuracy, recorded_accuracy(path, checkpoint.get("global_step"))), str(path)
        )


class NetworkTeacher(Teacher):
    """Any network by its class, with the weights of a plain state dict, or with those that it brings along.

    Args:
        network: makes the network, such as TorchvisionClassifier or TimmClassifier with pretrained weights.
        path: a state dict, or a checkpoint of any project that holds one; null takes the network as it is made.
        prefix: what stands before the network's own names in the file; null finds it.
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; null compares nothing.
        tolerance: how far the two may be apart, a fraction.
    """

    def __init__(
        self,
        network: Callable[[Any, int], nn.Module],
        path: str | None = None,
        prefix: str | None = None,
        accuracy: float | None = None,
        tolerance: float = 0.002,
    ) -> None:
        super().__init__(accuracy, tolerance)
        self.network = network
        self.path = path
        self.prefix = prefix

    def load(self, shape: Shape, num_classes: int) -> LoadedTeacher:
        """See :class:`Teacher`."""
        network = draw_classifier(self.network, shape, num_classes, seed=0)
        if self.path is not None:
            target = network.network if isinstance(network, LibraryClassifier) else network
            state = stripped(load_tensors(self.path, PATH), target.state_dict(), self.path, self.prefix)
            _fill(target, state, Path(self.path), "--model.teacher.network")
        return LoadedTeacher(network, self.accuracy, self.path or type(network).__name__)


class SelfDistilledTeacher(Teacher):
    """A network of a ``SelfDistillation`` run.

    Args:
        path: the run's checkpoint, or its folder.
        which: its ``student`` or its ``teacher``.
        head: fits a linear head on the encoder, to the labels of the teacher's samples; null keeps the projection head,
            whose outputs then must be as many as there are classes, unless only features are distilled.
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; null compares nothing.
        tolerance: how far the two may be apart, a fraction.
    """

    def __init__(
        self,
        path: str,
        which: Literal["student", "teacher"] = "student",
        head: HeadFit | None = None,
        accuracy: float | None = None,
        tolerance: float = 0.002,
    ) -> None:
        super().__init__(accuracy, tolerance)
        self.path = path
        self.which: Literal["student", "teacher"] = which
        self.head = head

    def load(self, shape: Shape, num_classes: int) -> LoadedTeacher:
        """See :class:`Teacher`."""
        path = checkpoint_file(self.path)
        checkpoint = load_checkpoint(path, PATH)
        ours = _of_family(checkpoint, SELF_DISTILLATION, path, hint="RunTeacher")
        _check_data({"input_shape": ours.get("image_shape")}, shape, num_classes, path)
        parts = _arguments(ours, path)
        image = ImageShape(*shape)
        with _named(path):
            network = draw_network(lambda s: build(parts["encoder"], s), lambda r: build(parts["head"], r), image, 0)
        _fill(network, network_state(checkpoint, self.which), path, PATH)
        if self.head is not None:
            network = Network(network.encoder, nn.Linear(network.embed_dim, num_classes), network.embed_dim)
        return LoadedTeacher(network, self.accuracy, f"{path} ({self.which})")

    def finish(self, network: nn.Module, batches: Batches, num_classes: int) -> nn.Module:
        """Fits the head, if one is asked for."""
        if self.head is None:
            return network
        find_module(network, "head", "--model.teacher.head")
        return refit_head(network, "head", batches(), num_classes, self.head)


class HeldTeacher:
    """A frozen network, held outside the registry of modules.

    Args:
        loaded: the network, with what is known of it.
        tolerance: how far the accuracy measured may be from the one recorded.

    Attributes:
        network: in eval mode; nothing in it requires a gradient.
        recorded: accuracy that is recorded for it, or None.
        measured: accuracy on the test data at hand, once ``check`` was called.
        fingerprint: once ``settle`` was called.
    """

    def __init__(self, loaded: LoadedTeacher, tolerance: float) -> None:
        self.network = loaded.network.requires_grad_(False).eval()
        self.recorded = loaded.accuracy
        self.source = loaded.source
        self.tolerance = tolerance
        self.measured: float | None = None
        self.fingerprint = ""

    def __call__(self, x: Tensor) -> Tensor:
        """Logits, without a graph."""
        with torch.no_grad():
            logits: Tensor = self.network(x)
        return logits

    def check(self, correct: float, total: float) -> None:
        """Compares its accuracy with the one recorded.

        Args:
            correct: how many test samples it gets right.
            total: how many there are.

        Raises:
            ValueError: if the two are too far apart.
        """
        self.measured = correct / total
        if self.recorded is not None and abs(self.measured - self.recorded) > self.tolerance + 1e-9:
            raise ValueError(
                f"--model.teacher: {self.source} gets {self.measured:.4f} of the test samples right, and "
                f"{self.recorded:.4f} is recorded for it; give the data that it was trained on, or another checkpoint "
                "(--model.teacher.tolerance says how far the two may be apart)."
            )

    def settle(self, adapt: Callable[[nn.Module], nn.Module]) -> None:
        """Takes the network that is to be used in its stead, and identifies it.

        Args:
            adapt: gives that network; most often the same.
        """
        self.network = adapt(self.network).requires_grad_(False).eval()
        self.fingerprint = fingerprint(self.network)

    def facts(self) -> dict[str, Any]:
        """What a result must say about it, in plain values."""
        return {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "recorded_accuracy": self.recorded,
            "measured_accuracy": self.measured,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
        }


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's weights, bit by bit, and of its architecture as it prints: 64 hexadecimal digits."""
    tensors = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    return digest(tensors, {"architecture": repr(network)})


def count_correct(network: Callable[[Tensor], Tensor], batches: Iterable[Any]) -> tuple[int, int]:
    """How many samples a classifier gets right, and of how many.

    Args:
        network: maps a view to logits ``(..., C)``.
        batches: with labels ``(...)``, on the network's device.
    """
    correct, total = 0, 0
    with torch.no_grad():
        for batch in map(as_batch, batches):
            right = network(batch["views"][0]).argmax(dim=-1) == batch["label"]
            correct, total = correct + int(right.sum()), total + right.numel()
    return correct, total


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint of a run's folder; any other path as it is."""
    path = Path(path)
    inside = path / "checkpoints" / LAST
    if path.is_dir() and not inside.is_file():
        raise FileNotFoundError(f"{PATH}: '{path}' is a folder without checkpoints/last.ckpt; give a finished run's")
    return inside if path.is_dir() else path


def recorded_accuracy(path: Path, step: int | None = None) -> float | None:
    """The test accuracy that a run recorded of a checkpoint; None where it recorded none of this one.

    A run tests the weights that it ends with, those of ``last.ckpt``. Another checkpoint beside that has the same if it
    is of the same step.

    Args:
        path: the checkpoint.
        step: how many optimiser steps it is after.
    """
    try:
        if path.name != LAST and step != load_checkpoint(path.with_name(LAST))["global_step"]:
            return None
        results = json.loads((path.parent.parent / "results.json").read_text(encoding="utf-8"))
        accuracy = results["metrics"]["test/accuracy"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(accuracy) if isinstance(accuracy, int | float) else None


def stripped(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: str | Path, prefix: str | None = None
) -> dict[str, Tensor]:
    """A state dict under a network's own names: without what others put before them.

    Wrappers put ``module.``, ``model.`` and the like in front, and compilation ``_orig_mod.`` anywhere. The prefix is
    the one under which most of the names are found.

    Args:
        state: as it was read.
        wanted: the network's own.
        path: where it was read from, for messages.
        prefix: of the file's names; None finds it.

    Raises:
        ValueError: if two prefixes fit equally well.
    """
    plain = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    if prefix is None:
        fits = _prefixes(plain, wanted)
        best = [found for found, count in fits.items() if count == max(fits.values())]
        if len(best) > 1:
            raise ValueError(
                f"{PATH}: '{path}' holds several networks, under {' and '.join(map(repr, sorted(best)))}; choose one "
                "with --model.teacher.prefix"
            )
        prefix = best[0] if best else ""
    return {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}


def _prefixes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, int]:
    """How many of the names wanted there are under each prefix that one of them stands behind."""
    first = next(iter(wanted), "")
    found = [name.removesuffix(first) for name in state if name.endswith(first)]
    candidates = [prefix for prefix in found if not prefix or prefix.endswith(".")]
    return {prefix: sum(prefix + name in state for name in wanted) for prefix in candidates}


def _of_family(checkpoint: Mapping[str, Any], family: str, path: Path, hint: str) -> Mapping[str, Any]:
    """What this project wrote into a checkpoint, which must be of the family."""
    ours = checkpoint.get("dinopl")
    found = ours.get("family") if isinstance(ours, Mapping) else None
    if not isinstance(ours, Mapping) or found != family:
        told = f"of {found}" if found else "of another project"
        remedy = f"give one of a {family} run" if found else "for others take NetworkTeacher"
        if found in (FAMILY, SELF_DISTILLATION):
            remedy = f"take {hint} for it"
        raise ValueError(f"{PATH}: '{path}' is a checkpoint {told}, not of {family}; {remedy}")
    return ours


def _check_data(ours: Mapping[str, Any], shape: Shape, num_classes: int, path: Path) -> None:
    """Refuses a teacher of samples of another kind."""
    theirs = ours.get("input_shape")
    if theirs is not None and tuple(theirs) != tuple(shape):
        raise ValueError(
            f"{PATH}: '{path}' was trained on samples of shape {tuple(theirs)}, and these are {tuple(shape)}; give a "
            "teacher of these data"
        )
    check_classes(ours.get("num_classes", num_classes), num_classes, f"'{path}'")


def check_classes(teacher: int, student: int, source: str) -> None:
    """Raises a ValueError unless teacher and student tell as many classes apart."""
    if teacher != student:
        raise ValueError(
            f"--model.teacher: {source} tells {teacher} classes apart, and the student {student}; give a teacher of "
            "the same classes."
        )


def _arguments(ours: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The model's arguments in the configuration that a checkpoint holds."""
    try:
        arguments = ours["config"]["model"]["init_args"]
    except (KeyError, TypeError):
        arguments = None
    if not isinstance(arguments, Mapping):
        raise ValueError(
            f"{PATH}: '{path}' does not say of what architecture it is, since no command made it; say so with "
            "--model.teacher.network"
        )
    return arguments


def _recorded_network(ours: Mapping[str, Any], path: Path) -> Callable[[Any, int], nn.Module]:
    config = _arguments(ours, path).get("student", "kd.networks.EncoderClassifier")
    if isinstance(config, Mapping):  # weights of its own would be fetched, and then overwritten
        own = config.get("init_args") or {}
        config = {**config, "init_args": own | {key: None for key in ("weights",) if key in own}}
        config["init_args"] |= {key: False for key in ("pretrained",) if key in own}

    def make(shape: Any, num_classes: int) -> nn.Module:
        with _named(path):
            network = build(config, shape, num_classes)
            if not isinstance(network, nn.Module):
                raise TypeError(f"it makes a {type(network).__name__}")
        return network

    return make


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says of which checkpoint the configuration is that makes no network."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{PATH}: the configuration in '{path}' makes no network ({error}); say which with --model.teacher.network"
        ) from error


def _fill(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, option: str) -> None:
    if misfit := first_mismatch(state, network.state_dict()):
        raise ValueError(f"{option}: '{path}' is not of this network: {misfit}; give the one that it was trained with")
    network.load_state_dict(dict(state))


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
