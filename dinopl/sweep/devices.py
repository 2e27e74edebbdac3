"""What each worker of this machine gets: a GPU of its own, and its share of the cores."""

import os
from collections.abc import Mapping

from dinopl.cli.config import Config
from dinopl.core.errors import UserMistake

CPU = ("cpu",)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` has them; CUDA itself is not started."""
    import torch

    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def check_one_device(config: Config) -> None:
    """Refuses a run of several processes, which a worker cannot be.

    Raises:
        UserMistake: naming the option.
    """
    trainer = config["trainer"]
    devices = trainer.get("devices", 1)
    several = len(devices) > 1 if isinstance(devices, list) else str(devices) not in ("1", "auto")
    for option, refused in (("devices", several), ("num_nodes", trainer.get("num_nodes", 1) != 1)):
        if refused:
            raise UserMistake(
                f"--trainer.{option} {trainer[option]}: a sweep gives each run one device and makes several at a time "
                "(--workers); for runs on several devices let --print-commands print them."
            )


def environments(workers: int | None, config: Config) -> list[dict[str, str]]:
    """The environment of each worker.

    Args:
        workers: how many; None for one a GPU, or one where there are none.
        config: of a run.
    """
    wanted = gpus(os.environ) if config["trainer"].get("accelerator", "auto") not in CPU else []
    number = workers if workers is not None else max(len(wanted), 1)
    # a run in a worker is one process, whatever job it is part of: not Lightning's to launch or to queue again
    alone = {"SLURM_JOB_NAME": "bash"} if "SLURM_JOB_ID" in os.environ else {}
    one_each = [{"CUDA_VISIBLE_DEVICES": wanted[index % len(wanted)]} if wanted else {} for index in range(number)]
    return [os.environ | alone | own for own in one_each]
