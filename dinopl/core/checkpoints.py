"""Reading checkpoints: data only, never code, and a one-line refusal of what is not one of ours."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

FAMILY = "SelfDistillation"


def load_checkpoint(path: str | Path, option: str = "--ckpt_path") -> dict[str, Any]:
    """Reads a Lightning checkpoint onto the CPU.

    Always with ``weights_only=True``: a file that asks for code to be run is refused, and the code is not run.

    Args:
        path: the file.
        option: what the user gave the path to, for the message of an error.

    Returns:
        The checkpoint, a dict with at least ``state_dict``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, truncated, unsafe, or anything else than a Lightning checkpoint.
    """
    path = _file(path, option)
    return _checked(_read(path, option), path, option)


def load_tensors(path: str | Path, option: str) -> dict[str, Tensor]:
    """Reads a state dict of any project onto the CPU: a file of tensors alone, or one entry of a checkpoint.

    Args:
        path: a safetensors file, or one that ``torch.save`` wrote; of a dict that holds state dicts under "state_dict",
            "model" or "model_state_dict", that one counts.
        option: what the user gave the path to, for the message of an error.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no state dict, or cannot be read.
    """
    path = _file(path, option)
    content = _read_safetensors(path, option) if path.suffix == ".safetensors" else _read(path, option)
    if isinstance(content, Mapping):
        inner = [content[key] for key in ("state_dict", "model", "model_state_dict") if key in content]
        content = next((entry for entry in inner if isinstance(entry, Mapping)), content)
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise ValueError(f"{option}: '{path}' holds no state dict; give a file that maps names to tensors")


def _file(path: str | Path, option: str) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{option}: no file '{path}'; give the path of a checkpoint, such as last.ckpt of a run"
        )
    if path.is_dir():
        raise ValueError(f"{option}: '{path}' is a folder; give a file in it, such as checkpoints/last.ckpt")
    return path


def _read_safetensors(path: Path, option: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{option}: '{path}' is truncated or no safetensors file; give a complete one") from error


def _read(path: Path, option: str) -> object:
    if path.stat().st_size == 0:
        raise ValueError(f"{option}: '{path}' is empty; give a complete checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch's guesses at what a strange file might be: ours is the one line below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{option}: '{path}' is no checkpoint, or asks for code to be run, which is refused; "
            "give a checkpoint of plain tensors and values"
        ) from error
    except OSError as error:
        raise ValueError(f"{option}: '{path}' cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # arbitrary bytes end in arbitrary exceptions
        raise ValueError(
            f"{option}: '{path}' is truncated or no checkpoint at all; give a complete checkpoint"
        ) from error


def _checked(content: object, path: Path, option: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        found = f"a {type(content).__name__}"
    elif isinstance(content.get("state_dict"), Mapping):
        return content
    elif content and all(isinstance(value, Tensor) for value in content.values()):
        found = "a bare state dict"
    else:
        found = "a dict without 'state_dict'"
    raise ValueError(f"{option}: '{path}' holds {found}, not a Lightning checkpoint; give a checkpoint of a run")


def network_state(checkpoint: Mapping[str, Any], which: Literal["student", "teacher"]) -> dict[str, Tensor]:
    """State dict of one of the two networks in a checkpoint of ``SelfDistillation``.

    Args:
        checkpoint: what ``load_checkpoint`` returned.
        which: the trained ``student`` or the ``teacher``.

    Returns:
        Names, as ``Network.state_dict`` has them, to tensors.

    Raises:
        ValueError: if the checkpoint is of another family or lacks that network.
    """
    ours = checkpoint.get("dinopl")
    family = ours.get("family") if isinstance(ours, Mapping) else None
    if family != FAMILY:
        found = f"of {family}" if family else "of another project"
        raise ValueError(f"the checkpoint is {found}, not of {FAMILY}; give one that `--model {FAMILY}` has written")
    prefix = f"{which}."
    weights = checkpoint["state_dict"]
    state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not state:
        raise ValueError(f"the checkpoint of {FAMILY} holds no {which}; it is incomplete, use another one")
    return state


def load_network(
    network: nn.Module, path: str | Path, which: Literal["student", "teacher"], option: str = "--ckpt_path"
) -> None:
    """Writes one of the two networks of a ``SelfDistillation`` checkpoint into ``network``.

    Args:
        network: is overwritten, parameters and buffers.
        path: the checkpoint.
        which: the ``student`` or the ``teacher``.
        option: what the user gave the path to, for the message of an error.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of this family, or names and shapes are not those of ``network``.
    """
    checkpoint = load_checkpoint(path, option)
    try:
        state = network_state(checkpoint, which)
    except ValueError as error:
        raise ValueError(f"{option}: '{path}': {error}") from None
    mismatch = first_mismatch(state, network.state_dict())
    if mismatch:
        raise ValueError(
            f"{option}: '{path}' is not of this network: {mismatch}; "
            "set --model.encoder, --model.head and the image shape to what it was trained with"
        )
    network.load_state_dict(state)


def first_mismatch(theirs: Mapping[str, Any], ours: Mapping[str, Tensor]) -> str | None:
    """The first difference in names or shapes, in words; None if there is none."""
    for name, tensor in ours.items():
        if not isinstance(theirs.get(name), Tensor):
            return f"it has no tensor {name}"
        if theirs[name].shape != tensor.shape:
            return f"{name} is {tuple(theirs[name].shape)} there and {tuple(tensor.shape)} here"
    surplus = next((name for name in theirs if name not in ours), None)
    return f"it has a tensor {surplus} more" if surplus else None
