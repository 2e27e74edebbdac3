"""Stored configurations: where classes stand that those of earlier versions name elsewhere, and the leaves of one.

A stored configuration names a class by its import path. When a module moves, its old path is entered here, once, and
everything that was written before goes on loading: each reader of stored configurations passes them through
:func:`current_paths` first.
"""

from collections.abc import Iterator, Mapping
from typing import Any

MOVED = {
    "dinopl.callbacks": "dinopl.training",
    "dinopl.data.sources.digits": "dinopl.data.sources.published",
    "dinopl.encoders.conv_net": "dinopl.encoders.small",
    "dinopl.encoders.mini_mlp": "dinopl.encoders.small",
    "dinopl.encoders.mini_vgg": "dinopl.encoders.vgg",
    "dinopl.export": "dinopl.loading",
    "dinopl.heads": "dinopl.distillation.heads",
    "dinopl.initialization": "dinopl.distillation.student_start",
    "dinopl.losses": "dinopl.distillation.losses",
    "dinopl.module": "dinopl.distillation.module",
    "dinopl.network": "dinopl.distillation.network",
    "dinopl.teachers": "dinopl.distillation.teachers",
    "dinopl.optim": "dinopl.core.optimizer",
    "dinopl.types": "dinopl.core.types",
    "fprnn.baselines.delta_net": "fprnn.baselines",
    "fprnn.baselines.foreign": "fprnn.baselines",
    "fprnn.baselines.lstm": "fprnn.baselines",
    "fprnn.layers.oracle": "fprnn.layers",
    "fprnn.mixers.composed": "fprnn.mixers",
    "fprnn.mixers.lowrank": "fprnn.mixers",
    "fprnn.mixers.structured": "fprnn.mixers",
    "fprnn.schedules": "dinopl.core.schedules",
    "fprnn.solvers.iterative": "fprnn.solvers",
    "fprnn.tasks.cycle_navigation": "fprnn.tasks",
    "fprnn.tasks.even_pairs": "fprnn.tasks",
    "fprnn.tasks.parity": "fprnn.tasks",
    "kd.metrics.alignment": "kd.metrics.features",
    "kd.metrics.collapse": "kd.metrics.features",
    "kd.metrics.sampled": "kd.metrics.features",
    "kd.objectives": "kd.losses",
    "kd.teacher_outputs": "kd.teacher.outputs",
    "kd.transformer": "fprnn.baselines",
}
"""Former module or package -> the one that has its classes now."""

MOVED_CLASSES = {
    "kd.CausalTransformer": "fprnn.baselines.CausalTransformer",
    "kd.networks.TimmClassifier": "kd.library.TimmClassifier",
    "kd.networks.TorchvisionClassifier": "kd.library.TorchvisionClassifier",
    "kd.text.PythonDocsText": "fprnn.tasks.PythonDocsText",
    "kd.text.TextFile": "fprnn.tasks.TextFile",
}
"""Former path of a class -> its present one, where the module of the former stays."""


def current_path(path: str) -> str:
    """The import path of a class today; a path that has not moved comes back as it is.

    Example:
        >>> current_path("dinopl.losses.CrossEntropyViews")
        'dinopl.distillation.losses.CrossEntropyViews'
        >>> current_path("torch.optim.AdamW")
        'torch.optim.AdamW'
    """
    if path in MOVED_CLASSES:
        return MOVED_CLASSES[path]
    former = next((module for module in MOVED if path.startswith(module + ".")), None)
    return path if former is None else MOVED[former] + path.removeprefix(former)


def current_paths(config: Any) -> Any:
    """A copy of a stored configuration in which every string that is a former import path is the one of today."""
    if isinstance(config, dict):
        return {key: current_paths(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(current_paths(value) for value in config)
    return current_path(config) if isinstance(config, str) else config


def flatten(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves of nested mappings as (path, value); ``init_args`` is left out of paths, and a list is a leaf."""
    if not isinstance(config, Mapping) or not config:
        yield path, config
        return
    for key, value in config.items():
        yield from flatten(value, path if key == "init_args" else (*path, str(key)))
