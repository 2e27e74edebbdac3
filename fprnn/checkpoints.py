"""What a checkpoint must have in common with the model that loads it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fprnn.solvers import FixedPointSolver

FAMILY = "SequenceModeling"


def check_vocabulary(ours: Mapping[str, Any], **options: int) -> None:
    """Refuses the checkpoint of a model with other tokens or targets.

    Args:
        ours: the checkpoint's entry ``dinopl``, with the numbers that it was trained with.
        options: this model's numbers, by option.

    Raises:
        ValueError: naming option, both values and the remedy.
    """
    for name, value in options.items():
        theirs = ours.get(name, value)
        if theirs != value:
            raise ValueError(
                f"{name}={value}: the checkpoint was trained with {theirs}; give data of the task of its training"
            )


def check_shapes(theirs: Mapping[str, Any], model: nn.Module) -> None:
    """Refuses tensors of another shape.

    Args:
        theirs: the checkpoint's ``state_dict``.
        model: that loads it.

    Raises:
        ValueError: naming the first one.
    """
    for name, tensor in model.state_dict().items():
        found = theirs.get(name)
        if isinstance(tensor, Tensor) and isinstance(found, Tensor) and found.shape != tensor.shape:
            raise ValueError(
                f"ckpt_path: {name} is {tuple(found.shape)} in the checkpoint and {tuple(tensor.shape)} here; set "
                "layer, d_model and pad_vocab_to to what it was trained with"
            )


def adopt_solvers(state: dict[str, Any], model: nn.Module) -> None:
    """Makes a state fit a model whose layers are solved by another solver than the one that trained it.

    Weights are the same for every solver, but some solvers remember what training found. A memory without its solver is
    dropped; a solver without its memory keeps what it has.

    Args:
        state: the checkpoint's ``state_dict``; changed in place.
        model: that loads it.
    """
    kept = model.state_dict()
    suffix = "._extra_state"
    ours = {
        f"{name}{suffix}" for name, module in model.named_modules() if isinstance(module, FixedPointSolver)
    } & kept.keys()
    for name in [name for name in state if name.endswith(f"solver{suffix}") and name not in ours]:
        del state[name]
    state.update({name: kept[name] for name in ours - state.keys()})
