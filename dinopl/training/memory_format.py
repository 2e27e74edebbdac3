"""Convolution weights with the channels last, the layout in which matrix engines read them."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class ChannelsLast(Callback):
    """Stores the module's convolution weights with the channels last; feature maps then take that layout too.

    No value changes, and neither do checkpoints: only the order of the numbers in memory. Kernels for that order may
    round in another way. It is meant for bfloat16 convolutions on a CPU with AMX (``configs/overlays/cpu-bf16.yaml``)
    and for half precision on GPUs; float32 convolutions on a CPU may become slower.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Converts every four-dimensional parameter before the optimiser is made, so that its state has this order."""
        conversion: Any = {"memory_format": torch.channels_last}
        pl_module.to(**conversion)
