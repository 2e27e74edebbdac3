"""Layers of other packages in a sequence model."""

from typing import Protocol

from torch import Tensor, nn


class HiddenSizeFactory(Protocol):
    """Makes a module for a width, which it calls ``hidden_size``."""

    def __call__(self, *, hidden_size: int) -> nn.Module:
        """A module from ``(B, T, hidden_size)`` to the same."""


class ForeignLayer(nn.Module):
    """A layer of another package whose width is called ``hidden_size`` or that returns more than its output.

    A module from ``(B, T, D)`` to ``(B, T, D)`` whose first argument is the width, such as those of mamba-ssm, is a
    layer as it is, by its class path: ``layer: {class_path: mamba_ssm.Mamba, init_args: {d_state: 16}}``. The layers of
    flash-linear-attention take ``hidden_size``, not as their first argument, and return a tuple; they go through this
    one: ``layer: {class_path: ForeignLayer, init_args: {layer: {class_path: fla.layers.GatedDeltaNet, init_args:
    {num_heads: 4}}}}``. So do a user's own. The package must be installed, and on a GPU where its kernels need one.
    Such a layer trains and is evaluated; it does not decode token by token, since each package keeps its own cache.

    Args:
        d_model: number of channels D.
        layer: makes the module for a ``hidden_size``, such as ``fla.layers.GatedDeltaNet``.

    Raises:
        ValueError: if the module's output, at the first call, is not of the input's shape.
    """

    def __init__(self, d_model: int, layer: HiddenSizeFactory) -> None:
        super().__init__()
        self.layer = layer(hidden_size=d_model)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D)`` to the same: the module's output, or the first part of it."""
        output = self.layer(x)
        y = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(y, Tensor) or y.shape != x.shape:
            given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            name = type(self.layer).__name__
            raise ValueError(
                f"--model.layer.layer: {name} makes {given} of {tuple(x.shape)}; use one that keeps the shape"
            )
        return y
