"""What every encoder family shares: the initialisation, normalisation layers and the size of the embedding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from dinopl.core.types import ImageShape

NormFactory = Callable[[int], nn.Module]
"""Makes a normalisation layer for a number of channels, as ``torch.nn.BatchNorm2d`` does."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""The layers that normalise by the statistics of a batch in training, and by running averages in evaluation."""


class GroupedNorm(nn.GroupNorm):
    """Group normalisation in groups of a fixed number of channels, with a weight and a bias per channel.

    "Random Teachers are Good Teachers", appendix B.1, compares BatchNorm with three norms that do not look at the rest
    of the batch, and with none. All three are this one: in groups of 8 channels ("GroupNorm8"), of one channel
    ("InstanceNorm"), and of all channels ("LayerNorm").

    Args:
        channels: number of channels.
        group_size: channels of a group: 1 for instance normalisation; "all" for layer normalisation.

    Raises:
        ValueError: if the groups do not divide the channels.

    Example:
        >>> [GroupedNorm(64, size).num_groups for size in (8, 1, "all")]
        [8, 64, 1]
    """

    def __init__(self, channels: int, group_size: int | Literal["all"] = 8) -> None:
        size = channels if group_size == "all" else group_size
        if size < 1 or channels % size:
            raise ValueError(f"group_size={group_size}: must divide the {channels} channels of each layer; try 1")
        super().__init__(channels // size, channels)


def normalization(
    norm: NormFactory | None, channels: int, known: str = "torch.nn.BatchNorm2d, GroupedNorm"
) -> nn.Module:
    """A normalisation layer for ``channels``, or the identity where ``norm`` is None or makes one.

    Args:
        norm: makes the layer.
        channels: number of channels.
        known: classes that a message suggests.

    Raises:
        ValueError: if ``norm`` makes none: ``torch.nn.ReLU(channels)``, for one, is a layer and not a norm.
    """
    if norm is None:
        return nn.Identity()
    try:
        layer = norm(channels)
    except TypeError as error:
        made = getattr(getattr(norm, "func", norm), "__name__", "norm")
        raise ValueError(
            f"norm={made}: cannot be made of a number of channels alone; give {known} or torch.nn.Identity"
        ) from error
    # what torch's norms have, or one of another's by its name
    sizes = ("num_features", "num_channels", "normalized_shape")
    if isinstance(layer, nn.Identity):
        return layer
    if not any(hasattr(layer, size) for size in sizes) and "norm" not in type(layer).__name__.lower():
        raise ValueError(f"norm={type(layer).__name__}: is no normalisation layer; give {known} or torch.nn.Identity")
    return layer


def init_convolutions(module: nn.Module) -> None:
    """Draws every convolution of ``module`` from the global generator.

    "Random Teachers are Good Teachers" uses the initialisation of the torchvision models: Kaiming normal with
    ``fan_out`` and the gain of ReLU, that is a standard deviation of ``sqrt(2 / (out_channels * kh * kw))``; biases 0.
    Norm layers need no call: torch starts them at weight 1 and bias 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def embedding_size(encoder: nn.Module, shape: ImageShape) -> int:
    """Width r of the embeddings ``(B, r)`` that ``encoder`` makes of images of ``shape``.

    Reads ``encoder.embed_dim``; an encoder without it is asked with one image of zeros, in eval mode and without
    gradient, so that any module can serve as an encoder.

    Args:
        encoder: maps ``(B, C, H, W)`` to ``(B, r)``.
        shape: shape of one image.

    Raises:
        ValueError: if the encoder does not return one vector per image.
    """
    size = getattr(encoder, "embed_dim", None)
    if isinstance(size, int):
        return size
    anchor = next((p for p in encoder.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        with torch.no_grad(), evaluation(encoder):
            embedding = encoder(torch.zeros(1, *shape, dtype=anchor.dtype, device=anchor.device))
    except Exception as error:
        raise ValueError(
            f"encoder: {type(encoder).__name__} fails at one image {tuple(shape)} ({type(error).__name__}: {error}); "
            "give a network of images"
        ) from error
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        found = tuple(embedding.shape) if isinstance(embedding, torch.Tensor) else type(embedding).__name__
        raise ValueError(
            f"encoder: {type(encoder).__name__} returns {found} for one image, not (1, embed_dim); "
            "end it with a pooling and nn.Flatten()"
        )
    return embedding.shape[1]


def check_smallest_batch(network: nn.Module, shape: tuple[int, ...], trainer: Any) -> None:
    """Refuses a training whose data have a last batch of one sample, where the network's BatchNorm cannot use one.

    BatchNorm needs more than one value per channel: of one sample, more than one pixel. What reaches each such layer is
    seen in eval mode, with one sample of zeros.

    Args:
        network: what is trained; maps ``(B, *shape)``.
        shape: of one sample.
        trainer: about to train; data without the method ``train_sampler`` are not looked at.

    Raises:
        ValueError: if the training would come to that batch.
    """
    data: Any = getattr(trainer, "datamodule", None)
    layers = [layer for layer in network.modules() if isinstance(layer, BATCH_NORMS)]
    if not layers or not hasattr(data, "train_sampler") or (sampler := data.train_sampler()).smallest != 1:
        return
    limit, batches = trainer.limit_train_batches, len(sampler)
    taken = limit if isinstance(limit, int) else int(limit * batches)
    last_step = trainer.max_steps * trainer.accumulate_grad_batches
    if data.batch_size > 1 and (taken < batches or 0 < last_step < batches):
        return
    single: list[bool] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: single.append(inputs[0].numel() == inputs[0].shape[1]))
        for layer in layers
    ]
    anchor = next(network.parameters())
    try:
        with torch.no_grad(), evaluation(network):
            network(torch.zeros(1, *shape, dtype=anchor.dtype, device=anchor.device))
    finally:
        for hook in hooks:
            hook.remove()
    if any(single):
        raise ValueError(
            f"batch_size={data.batch_size}: leaves one sample for a batch, of which BatchNorm has no statistics; set "
            "drop_last to true, or change this or the number of samples"
        )


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Puts a module in eval mode for a block; afterwards every submodule has the training flag that it had before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
