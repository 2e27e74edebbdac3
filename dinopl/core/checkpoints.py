"""Reading checkpoints: data only, never code; what is not one of ours is refused in one line."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

FAMILY = "SelfDistillation"
# What Lightning writes, as far as it is there; it takes it up unseen.
KINDS: dict[str, type] = {
    **dict.fromkeys(("callbacks", "loops", "hyper_parameters"), Mapping),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("epoch", "global_step"), int),
    "pytorch-lightning_version": str,
}
PARTS = ("optimizer_states", "lr_schedulers")  # lists of mappings


def load_checkpoint(path: str | Path, label: str = "") -> dict[str, Any]:
    """Reads a Lightning checkpoint onto the CPU.

    Always with ``weights_only=True``: a file that asks for code to be run is refused, and the code is not run.

    Args:
        path: the file.
        label: what messages begin with, such as ``path=FILE``; by default the path.

    Returns:
        The checkpoint, a dict with at least ``state_dict``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, truncated, changed by a single bit, unsafe, or anything else than a
            Lightning checkpoint.
    """
    content = _read(Path(path), label)
    if not isinstance(content, dict):
        found = f"a {type(content).__name__}"
    elif isinstance(content.get("state_dict"), Mapping):
        wrong = [key for key, kind in KINDS.items() if key in content and not isinstance(content[key], kind)]
        lists = [key for key in PARTS if key in content and key not in wrong]
        wrong += [key for key in lists if not all(isinstance(part, Mapping) for part in content[key])]
        wrong += ["state_dict"] * (not all(isinstance(name, str) for name in content["state_dict"]))
        if wrong:
            raise ValueError(
                f"{label or repr(str(path))}: is damaged, or not written by Lightning: its {wrong[0]!r} does not hold "
                "what it should; give another checkpoint"
            )
        return content
    elif content and all(isinstance(value, Tensor) for value in content.values()):
        found = "a bare state dict"
    else:
        found = "a dict without 'state_dict'"
    raise ValueError(
        f"{label or repr(str(path))}: holds {found}, not a Lightning checkpoint; give a checkpoint of a run"
    )


def load_tensors(path: str | Path, label: str = "") -> dict[str, Tensor]:
    """Reads a state dict of any project onto the CPU: a file of tensors alone, or one entry of a checkpoint.

    Args:
        path: a safetensors file, or one that ``torch.save`` wrote; of a dict that holds state dicts under "state_dict",
            "model" or "model_state_dict", that one counts.
        label: what messages begin with, such as ``path=FILE``; by default the path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no state dict, or cannot be read.
    """
    content = _read(Path(path), label)
    if isinstance(content, Mapping):
        inner = [content[key] for key in ("state_dict", "model", "model_state_dict") if key in content]
        content = next((entry for entry in inner if isinstance(entry, Mapping)), content)
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise ValueError(f"{label or repr(str(path))}: holds no state dict; give a file that maps names to tensors")


def _read(path: Path, label: str) -> object:
    """What a file holds: tensors and plain values, never code that is run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    shown = label or repr(str(path))
    if not path.exists():
        raise FileNotFoundError(f"{shown}: no such file; give the path of a checkpoint, such as last.ckpt of a run")
    if path.is_dir():
        raise ValueError(f"{shown}: is a folder; give a file in it, such as checkpoints/last.ckpt")
    if path.stat().st_size == 0:
        raise ValueError(f"{shown}: is empty; give a complete checkpoint")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{shown}: cannot be read ({error.strerror}); check its permissions") from error
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # torch stores the sums of its tensors and does not compare them
            with zipfile.ZipFile(path) as archive:
                changed = archive.testzip()
            if changed is not None:
                raise zipfile.BadZipFile(changed)
        with warnings.catch_warnings():
            # torch guesses in warnings what a strange file might be; what we know is in the error below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{shown}: is damaged ({error} is not what was written); give a complete checkpoint"
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{shown}: is truncated or not a safetensors file; give a complete one") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{shown}: is not a checkpoint, or asks for code to be run, which is refused; "
            "give a checkpoint of plain tensors and values"
        ) from error
    except Exception as error:  # arbitrary bytes end in arbitrary exceptions, OSError among them
        raise ValueError(f"{shown}: is truncated or not a checkpoint; give a complete checkpoint") from error


def network_state(checkpoint: Mapping[str, Any], which: Literal["student", "teacher"]) -> dict[str, Tensor]:
    """State dict of one of the two networks in what ``load_checkpoint`` returned of ``SelfDistillation``.

    Raises:
        ValueError: if the checkpoint is of another family or lacks that network.
    """
    ours = checkpoint.get("dinopl")
    family = ours.get("family") if isinstance(ours, Mapping) else None
    if family != FAMILY:
        found = f"of {family}" if family else "of another project"
        raise ValueError(f"the checkpoint is {found}, not of {FAMILY}; give one that a run of {FAMILY} has written")
    prefix = f"{which}."
    weights = checkpoint["state_dict"]
    state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not state:
        raise ValueError(f"the checkpoint of {FAMILY} holds no {which}; it is incomplete, use another one")
    return state


def load_network(network: nn.Module, path: str | Path, which: Literal["student", "teacher"], label: str = "") -> None:
    """Writes one of the two networks of a ``SelfDistillation`` checkpoint into ``network``.

    Args:
        network: is overwritten, parameters and buffers.
        path: the checkpoint.
        which: of the two networks.
        label: as of :func:`load_checkpoint`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a checkpoint of this family, or names and shapes are not those of ``network``.
    """
    checkpoint = load_checkpoint(path, label)
    try:
        state = network_state(checkpoint, which)
    except ValueError as error:
        raise ValueError(f"{label or repr(str(path))}: {error}") from None
    if mismatch := first_mismatch(state, network.state_dict()):
        raise ValueError(
            f"{label or repr(str(path))}: is not of this network: {mismatch}; "
            "set encoder, head and image_shape to what it was trained with"
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
