"""Networks out of checkpoints: which file of a run, of which family, with which weights under which names."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dinopl.core.checkpoints import FAMILY as SELF_DISTILLATION
from dinopl.core.checkpoints import first_mismatch, load_checkpoint
from kd.networks import Shape, build
from kd.teacher.frozen import FAMILY, check_classes

LAST = "last.ckpt"


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint of a run's folder; any other path as it is."""
    path = Path(path)
    inside = path / "checkpoints" / LAST
    if not path.exists():
        below = "" if path.is_absolute() else f" below {Path.cwd()}"
        raise FileNotFoundError(
            f"path={path}: no such file{below}; give the path of a run's checkpoint, or of its folder"
        )
    if path.is_dir() and not inside.is_file():
        raise FileNotFoundError(f"path={path}: is a folder without checkpoints/last.ckpt; give a finished run's")
    return inside if path.is_dir() else path


def recorded_accuracy(path: Path, step: int | None = None) -> float | None:
    """The test accuracy that a run recorded of a checkpoint; None where it recorded none of this one.

    A run tests the weights that it ends with, those of ``last.ckpt``. Another checkpoint beside that has the same if it
    is of the same optimiser step.
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
    """A state dict under the names that a network ``wanted``: without what others put before them.

    Wrappers put ``module.``, ``model.`` and the like in front, and compilation ``_orig_mod.`` anywhere. Unless
    ``prefix`` is given, it is the one under which most of the names are found.

    Raises:
        ValueError: if two prefixes fit equally well.
    """
    plain = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    if prefix is None:
        # Whatever stands before the network's first name, anywhere in the file, may be the prefix of all its names.
        first = next(iter(wanted), "")
        found = [name.removesuffix(first) for name in plain if name.endswith(first)]
        candidates = [each for each in found if not each or each.endswith(".")]
        fits = {each: sum(each + name in plain for name in wanted) for each in candidates}
        best = [found for found, count in fits.items() if count == max(fits.values())]
        if len(best) > 1:
            raise ValueError(
                f"path={path}: holds several networks, under {' and '.join(map(repr, sorted(best)))}; choose one with "
                "the option prefix"
            )
        prefix = best[0] if best else ""
    return {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}


def of_family(checkpoint: Mapping[str, Any], family: str, path: Path, hint: str) -> Mapping[str, Any]:
    """What this project wrote into a checkpoint; ValueError if it is of another family."""
    ours = checkpoint.get("dinopl")
    found = ours.get("family") if isinstance(ours, Mapping) else None
    if not isinstance(ours, Mapping) or found != family:
        kind = f"of {found}" if found else "of another project"
        remedy = f"give one of a {family} run" if found else "for others take NetworkTeacher"
        if found in (FAMILY, SELF_DISTILLATION):
            remedy = f"take {hint} for it"
        raise ValueError(f"path={path}: is a checkpoint {kind}, not of {family}; {remedy}")
    return ours


def check_data(ours: Mapping[str, Any], shape: Shape, num_classes: int, path: Path) -> None:
    """Raises a ValueError if a teacher was trained on samples of another shape, or with other classes."""
    theirs = ours.get("input_shape")
    if theirs is not None and tuple(theirs) != tuple(shape):
        raise ValueError(
            f"path={path}: was trained on samples of shape {tuple(theirs)}, and these are {tuple(shape)}; give a "
            "teacher of these data"
        )
    check_classes(ours.get("num_classes", num_classes), num_classes, str(path))


def model_arguments(ours: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The model's arguments in the configuration that a checkpoint holds."""
    try:
        arguments = ours["config"]["model"]["init_args"]
    except (KeyError, TypeError):
        arguments = None
    if not isinstance(arguments, Mapping):
        raise ValueError(
            f"path={path}: does not say of what architecture it is, since no command made it; give the teacher's "
            "network"
        )
    return arguments


def recorded_network(ours: Mapping[str, Any], path: Path) -> Callable[[Any, int], nn.Module]:
    """A factory of the network that the configuration in a checkpoint describes."""
    config = model_arguments(ours, path).get("student", "kd.networks.EncoderClassifier")
    if isinstance(config, Mapping):  # weights of its own would be fetched, and then overwritten
        own = config.get("init_args") or {}
        config = {**config, "init_args": own | {key: None for key in ("weights",) if key in own}}
        config["init_args"] |= {key: False for key in ("pretrained",) if key in own}

    def make(shape: Any, num_classes: int) -> nn.Module:
        with named(path):
            network = build(config, shape, num_classes)
            if not isinstance(network, nn.Module):
                raise TypeError(f"it makes a {type(network).__name__}")
        return network

    return make


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Names the checkpoint whose configuration makes no network."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"path={path}: its configuration makes no network ({error}); give the teacher's network"
        ) from error


def fill(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Writes a state dict, which was read from ``path``, into a network; ValueError if it is of another one."""
    if mismatch := first_mismatch(state, network.state_dict()):
        raise ValueError(f"path={path}: is not of this network: {mismatch}; give the one that it was trained with")
    network.load_state_dict(dict(state))
