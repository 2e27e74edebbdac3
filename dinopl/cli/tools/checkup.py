"""What only an import can tell: the part of ``dinopl doctor`` that runs in a process of its own.

``python -m dinopl.cli.tools.checkup ROOT RUNS`` prints a line of JSON as soon as it knows something, so that
what is known before a crash is not lost with it.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def torch_facts() -> dict[str, Any]:
    """Version, threads and devices as torch sees them."""
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "version": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "built_for_cuda": torch.version.cuda,
        "cuda": [
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB, compute capability {device.major}.{device.minor}"
            for device in devices
        ],
        "mps": torch.backends.mps.is_available(),
    }


def torchvision_facts() -> str:
    """The version, if it can be imported: one that is made for another torch cannot, or has lost its operators."""
    import torchvision

    torchvision.ops.nms  # noqa: B018
    return str(torchvision.__version__)


def data_found(root: Path) -> dict[str, bool]:
    """Which data sets are complete below a folder, by the classes that read them."""
    import dinopl.data as data
    from dinopl.data.sources.published import PublishedImages

    found = {"DigitsImages (embedded)": True}
    for name in data.__all__:
        cls = getattr(data, name)
        if isinstance(cls, type) and issubclass(cls, PublishedImages):
            found[name] = cls().complete(root)
    for source in (data.TinyImageNetImages(), data.CIFAR5mImages()):
        found[source.name] = (root / source.folder).is_dir()
    return found | {"CatBAbI": _has_babi(root)}


def _has_babi(root: Path) -> bool:
    from fprnn.tasks import CatBAbI

    try:
        CatBAbI(root=str(root), tasks=[1])
    except (OSError, ValueError):
        return False
    return True


def command_starts() -> bool:
    """Whether everything that a run needs can be imported."""
    import dinopl.cli.runs  # noqa: F401

    return True


def obstacle_to_runs(folder: Path) -> str | None:
    """What keeps run folders from being written; None if nothing is seen."""
    from dinopl.training.files import obstacle

    return obstacle(folder.absolute() / "run")


def main(arguments: Sequence[str]) -> None:
    """Prints what is found out, a line a check; a check that fails prints why."""
    root, runs = map(Path, arguments)
    checks: dict[str, Callable[[], Any]] = {
        "torch": torch_facts,
        "torchvision": torchvision_facts,
        "command": command_starts,
        "data": lambda: data_found(root),
        "runs": lambda: obstacle_to_runs(runs),
    }
    for name, check in checks.items():
        try:
            line = {"check": name, "found": check()}
        except Exception as error:  # whatever it is, it is what the doctor is asked for
            line = {"check": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
