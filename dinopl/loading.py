"""Weights out of a checkpoint, and an encoder back in one line.

An exported file is safetensors: tensors, and as metadata what it takes to build the encoder again. Reading it runs no
code of the file's; the encoder's class must be one of ours (``dinopl.core.trust``), or is given by the caller.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dinopl.__about__ import __version__
from dinopl.core.checkpoints import first_mismatch, load_checkpoint, network_state
from dinopl.core.files import replacing
from dinopl.core.trust import checked, resolve
from dinopl.core.types import ImageShape


def export_weights(checkpoint: str | Path, output: str | Path | None = None) -> Path:
    """Writes encoders and heads of a ``SelfDistillation`` checkpoint to safetensors.

    Args:
        checkpoint: a Lightning checkpoint of a run.
        output: where to; by default beside the checkpoint, with the ending ``.safetensors``.

    Returns:
        The path written. Keys are ``student.encoder...``, ``student.head...``, ``teacher...``.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is not a checkpoint of ``SelfDistillation``, or ``output`` has another ending.
    """
    from safetensors.torch import save_file

    target = Path(output) if output else Path(checkpoint).with_suffix(".safetensors")
    if target.suffix != ".safetensors":  # by which it is read again; so a checkpoint is not overwritten either
        raise ValueError(f"output={target}: must end in .safetensors")
    tensors, metadata = _read_checkpoint(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        whole = {key: value.contiguous() for key, value in tensors.items()}
        metadata["crc32"] = checksum(whole)
        save_file(whole, temporary, {"dinopl": json.dumps(metadata)})
    return target


def load_encoder(
    path: str | Path,
    which: Literal["student", "teacher"] = "student",
    encoder: Callable[[ImageShape], nn.Module] | None = None,
) -> nn.Module:
    """The trained encoder, in eval mode on the CPU.

    Args:
        path: an exported ``.safetensors`` file, or a checkpoint.
        which: the student's or the teacher's.
        encoder: makes the encoder that the weights belong to; needed only if it is not one of ours. (Within
            ``dinopl.core.trust.admitting("my_package")`` the file may also name that package's.)

    Returns:
        The module; normalised images ``(B, C, H, W)`` to embeddings ``(B, embed_dim)``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, is of another kind, or its encoder is not one of ours and none is given.
    """
    tensors, metadata = (_read_export if Path(path).suffix == ".safetensors" else _read_checkpoint)(path)
    shape = metadata.get("image_shape")
    if not (isinstance(shape, list | tuple) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
        raise ValueError(
            f"'{path}': gives the image shape {shape!r:.80}, not three numbers; export the checkpoint again"
        )
    make = encoder or _encoder_factory(metadata, path)
    try:
        module = make(ImageShape(*shape))
    except Exception as error:
        if encoder is not None:  # the caller's own
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        raise ValueError(f"'{path}': does not describe its encoder ({reason}); pass `encoder=`.") from error
    prefix = f"{which}.encoder."
    state = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
    if mismatch := first_mismatch(state, module.state_dict()):
        raise ValueError(f"'{path}': is not of this encoder: {mismatch}; pass the one that it is of as `encoder=`")
    module.load_state_dict(state)
    return module.eval()


def _read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    try:
        tensors = {f"{w}.{key}": t for w in ("student", "teacher") for key, t in network_state(checkpoint, w).items()}
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from None
    ours = checkpoint["dinopl"]
    if "image_shape" not in ours:
        raise ValueError(f"'{path}': holds no image shape, so its encoder cannot be built; use a checkpoint of a run")
    model: Any = ours.get("config")
    for key in ("model", "init_args"):
        model = model.get(key) if isinstance(model, Mapping) else None
    metadata = {"family": ours["family"], "image_shape": ours["image_shape"], "version": __version__}
    return tensors, metadata | {"encoder": model.get("encoder") if isinstance(model, Mapping) else None}


def _read_export(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"'{path}': no such file; `dinopl export` or export_weights makes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("dinopl")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"'{path}': not a safetensors file, or damaged ({error}); export it again") from None
    if metadata is None:
        raise ValueError(f"'{path}': was not written by `dinopl export`; export the checkpoint with it")
    try:
        facts = json.loads(metadata)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or ("crc32" in facts and facts["crc32"] != checksum(tensors)):
        raise ValueError(f"'{path}': is damaged; export the checkpoint again")
    return tensors, facts


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of names, types, shapes and values, whatever the order; safetensors has no checksum of its own."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        values = tensor.contiguous()
        found = zlib.crc32(values.view(-1).view(torch.uint8).numpy().data, found) if values.numel() else found
    return found


def _encoder_factory(metadata: dict[str, Any], path: str | Path) -> Callable[[ImageShape], nn.Module]:
    """The class that the file names, if it is one of ours; a file must not choose what is imported."""
    spec = metadata.get("encoder")
    try:
        spec = checked(spec if isinstance(spec, Mapping) else {"class_path": spec}, place="encoder")
        made = resolve(spec["class_path"])
    except (ValueError, KeyError) as error:
        named = spec.get("class_path") if isinstance(spec, Mapping) else spec
        raise ValueError(f"'{path}': its encoder is {named}, not one of ours ({error}); pass `encoder=`") from error
    return lambda shape: made(shape, **spec.get("init_args") or {})
