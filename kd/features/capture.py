"""Features of a network by dotted module name, taken while it runs, without a change to the network.

A name is that of ``named_modules``: ``encoder`` or ``layer4.1.conv2``. With ``:input`` behind it, it means what goes
into the module: ``fc:input`` are the penultimate features of a torchvision ResNet.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from dinopl.core.types import ImageBatch
from dinopl.data.batch import as_batch
from dinopl.encoders.common import evaluation

_INPUT = ":input"


def find_module(network: nn.Module, name: str, option: str) -> nn.Module:
    """The submodule of a name.

    Args:
        network: where to look.
        name: dotted name; ``:input`` behind it is ignored.
        option: what the name was given to, for the message.

    Raises:
        ValueError: if there is none; the message names those that are similar.
    """
    name = name.removesuffix(_INPUT)
    modules = {known: module for known, module in network.named_modules() if known}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3, cutoff=0.5)
        near = near or [known for known in modules if "." not in known]
        raise ValueError(
            f"{option} {name!r} is no module of {type(network).__name__}; did you mean {' or '.join(map(repr, near))}?"
        )
    return modules[name]


class FeatureCapture:
    """Keeps what named submodules return, from one forward pass to the next.

    Use it around a pass (``with FeatureCapture(network, names) as capture: ...``), or attach it once and remove it at
    the end. ``take`` hands the features over and forgets them, so that no graph outlives its step.

    Args:
        network: its modules get forward hooks.
        names: dotted names, with ``:input`` behind those whose input is meant.
        option: what the names were given to, for messages.

    Raises:
        ValueError: if a name is no module of the network.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], option: str = "module") -> None:
        self.modules = {name: find_module(network, name, option) for name in names}
        self.option = option
        self._features: dict[str, Any] = {}
        self._handles: list[Any] = []

    def attach(self) -> Self:
        """Puts the hooks in place, if they are not."""
        if not self._handles:
            self._handles = [module.register_forward_hook(self._keep(name)) for name, module in self.modules.items()]
        return self

    def remove(self) -> None:
        """Takes the hooks away, and forgets what was captured."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._features.clear()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *error: object) -> None:
        self.remove()

    def take(self) -> dict[str, Tensor]:
        """The features of the last forward pass, by name, in the order of the names.

        Raises:
            ValueError: if a module was not run, or what it returned or got is not a tensor.
        """
        for name in self.modules:
            found = self._features.get(name)
            if not isinstance(found, Tensor):
                what = "was not run" if found is None else f"gives a {type(found).__name__}, not a tensor"
                raise ValueError(f"{self.option} {name!r} {what}; name another module.")
        features, self._features = self._features, {}
        return {name: features[name] for name in self.modules}

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._features[name] = (inputs[0] if inputs else ()) if name.endswith(_INPUT) else output

        return hook


def batches_with_features(
    network: nn.Module, name: str, batches: Iterable[Any], option: str = "module"
) -> Iterator[tuple[ImageBatch, Tensor]]:
    """Batches with the features of one module, in eval mode and without a graph; see :func:`collect_features`."""
    with evaluation(network), FeatureCapture(network, [name], option) as capture:
        for batch in map(as_batch, batches):
            with torch.no_grad():  # not around the yield, where it would hold for the caller's own code
                network(batch["views"][0])
            yield batch, capture.take()[name]


def collect_features(network: nn.Module, name: str, batches: Iterable[Any], option: str = "module") -> Tensor:
    """Features of one module on all samples, in eval mode and without a graph.

    Args:
        network: left as it is.
        name: dotted name, with ``:input`` behind it for what goes into the module.
        batches: image or text batches, on the network's device.
        option: what the name was given to, for messages.

    Returns:
        ``(n, d)`` of features ``(B, d)``, one row a sample, or of ``(B, T, d)``, one a token.

    Raises:
        ValueError: if the name is no module of the network.
    """
    return torch.cat([features.flatten(0, -2) for _, features in batches_with_features(network, name, batches, option)])
