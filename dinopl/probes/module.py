"""An encoder that is probed as it is, drawn at random or pretrained: no run, no teacher, nothing that is trained."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from dinopl.core.random import seeded, stream_seed
from dinopl.core.trust import CheckedLoading
from dinopl.core.types import ImageShape
from dinopl.encoders import MiniVGG, embedding_size
from dinopl.probes.base import Probe
from dinopl.probes.callback import ProbeCallback
from dinopl.probes.knn import KNNProbe
from dinopl.probes.linear import LinearProbe


class EncoderProbing(CheckedLoading, LightningModule):
    """An encoder, probed beside the input by ``trainer.test`` and ``trainer.validate``.

    Metrics are ``probe/{input,encoder}/NAME`` and, of the validation split, ``probe_val/...``; see ``ProbeCallback``.

    Args:
        image_shape: channels, height and width of an image. The command takes it from the data.
        encoder: makes an encoder for an image shape, ``(B, C, H, W) -> (B, embed_dim)``.
        probes: what is trained on the features; None: a linear probe, raw and standardised, and k-NN.
        num_classes: number of classes of the data. The command takes it from the data.
        seed: of the encoder's initial values. None: the stream "teacher" of the run's seed, so that the encoder is that
            of the random teacher of a run with the same seed.

    Raises:
        ValueError: if the image's shape is not known, or the encoder does not return one vector per image.
    """

    family: ClassVar[str] = "EncoderProbing"

    def __init__(
        self,
        image_shape: ImageShape,
        encoder: Callable[[ImageShape], nn.Module] = MiniVGG,
        probes: list[Probe] | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if image_shape is None:
            raise ValueError("image_shape: is not known from the data; give [channels, height, width]")
        shape = ImageShape(*image_shape)
        with seeded(stream_seed("teacher") if seed is None else seed), torch.device("cpu"):
            self.encoder = encoder(shape)
        embedding_size(self.encoder, shape)  # refuses what is no encoder before data are read
        if probes is None:
            probes = [LinearProbe(), LinearProbe("linear_standardized", standardize=True), KNNProbe()]
        self.num_classes = num_classes
        self.probe_callback = ProbeCallback(probes, subjects=("encoder",))

    def configure_callbacks(self) -> list[Callback]:
        """Attaches the probes."""
        return [self.probe_callback]

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(B, embed_dim)`` of ``(B, C, H, W)`` images."""
        features: Tensor = self.encoder(images)
        return features

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: the probes run when the epoch ends."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing, likewise."""
