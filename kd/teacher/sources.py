"""Teachers from the three places where networks are kept: runs of this package, files of others, self-distillation."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from dinopl.core.checkpoints import FAMILY as SELF_DISTILLATION
from dinopl.core.checkpoints import load_checkpoint, load_tensors, network_state
from dinopl.core.types import ImageShape
from dinopl.distillation.network import Network, draw_network
from dinopl.encoders.library import LibraryNetwork
from kd.features.capture import find_module
from kd.features.heads import HeadFit, refit_head
from kd.networks import Shape, build, draw_classifier
from kd.teacher.frozen import FAMILY, Batches, Teacher
from kd.teacher.loading import (
    check_data,
    checkpoint_file,
    fill,
    model_arguments,
    named,
    of_family,
    recorded_accuracy,
    recorded_network,
    stripped,
)


class RunTeacher(Teacher):
    """The student of an earlier run of ``KnowledgeDistillation``, such as one on the labels of the whole pool.

    Args:
        path: a run's checkpoint, or its folder, whose ``checkpoints/last.ckpt`` then counts. The accuracy recorded is
            that of the run's ``results.json``, which is of its last step; an earlier checkpoint has none.
        network: makes the network; None makes what the run's configuration says.
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; None takes the recorded one.
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

    def load(self, shape: Shape, num_classes: int) -> tuple[nn.Module, float | None, str]:
        """See :class:`Teacher`."""
        path = checkpoint_file(self.path)
        checkpoint = load_checkpoint(path, f"path={path}")
        ours = of_family(checkpoint, FAMILY, path, hint="SelfDistilledTeacher")
        check_data(ours, shape, num_classes, path)
        factory = self.network or recorded_network(ours, path)
        network = draw_classifier(factory, shape, num_classes, seed=0)
        state = {
            name.removeprefix("student."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("student.")
        }
        fill(network, state, path)
        recorded = self.accuracy
        if recorded is None:
            recorded = recorded_accuracy(path, checkpoint.get("global_step"))
        return network, recorded, str(path)


class NetworkTeacher(Teacher):
    """Any network by its class, with the weights of a plain state dict, or with those that it brings along.

    Args:
        network: makes the network, such as TorchvisionClassifier or TimmClassifier with pretrained weights.
        path: a state dict, or a checkpoint of any project that holds one; None takes the network as it is made.
        prefix: what stands before the network's own names in the file; None finds it.
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; None compares nothing.
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

    def load(self, shape: Shape, num_classes: int) -> tuple[nn.Module, float | None, str]:
        """See :class:`Teacher`."""
        network = draw_classifier(self.network, shape, num_classes, seed=0)
        if self.path is not None:
            target = network.network if isinstance(network, LibraryNetwork) else network
            state = stripped(load_tensors(self.path, f"path={self.path}"), target.state_dict(), self.path, self.prefix)
            fill(target, state, self.path)
        return network, self.accuracy, self.path or type(network).__name__


class SelfDistilledTeacher(Teacher):
    """A network of a ``SelfDistillation`` run.

    Args:
        path: the run's checkpoint, or its folder.
        which: its ``student`` or its ``teacher``.
        head: fits a linear head on the encoder, to the labels of the teacher's samples; None keeps the projection head,
            whose outputs then must be as many as there are classes, unless only features are distilled.
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; None compares nothing.
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

    def load(self, shape: Shape, num_classes: int) -> tuple[nn.Module, float | None, str]:
        """See :class:`Teacher`."""
        path = checkpoint_file(self.path)
        checkpoint = load_checkpoint(path, f"path={path}")
        ours = of_family(checkpoint, SELF_DISTILLATION, path, hint="RunTeacher")
        check_data({"input_shape": ours.get("image_shape")}, shape, num_classes, path)
        parts = model_arguments(ours, path)
        image = ImageShape(*shape)
        with named(path):
            network = draw_network(lambda s: build(parts["encoder"], s), lambda r: build(parts["head"], r), image, 0)
        fill(network, network_state(checkpoint, self.which), path)
        if self.head is not None:
            network = Network(network.encoder, nn.Linear(network.embed_dim, num_classes), network.embed_dim)
        return network, self.accuracy, f"{path} ({self.which})"

    def finish(self, network: nn.Module, batches: Batches, num_classes: int) -> nn.Module:
        """Fits the head, if one is asked for."""
        if self.head is None:
            return network
        find_module(network, "head", "head")
        return refit_head(network, "head", batches(), num_classes, self.head)
