"""Run by a test as a script: resumes each family inside an accumulation on two processes, and says what was equal."""

import json
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.test_resumption import FAMILIES, SCHEDULES, SaveAt, same, trained

BATCH = 5  # inside an epoch and an accumulation, in all families


def work(rank: int, root: Path, port: int) -> None:
    os.environ.update(
        LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", WORLD_SIZE="2"
    )
    warnings.filterwarnings("ignore")
    given: dict[str, Any] = {"options": {"lr_scheduler": SCHEDULES["whole training"]}, "accumulate_grad_batches": 3}
    given |= {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    report = {}
    for name, family in FAMILIES.items():
        folder = root / name
        whole, rows = trained(family, SaveAt(folder, {BATCH}), **given)
        state, rest = trained(family, source=folder / f"{BATCH}.ckpt", **given)
        report[name] = {"state": same(state, whole), "rows": same(rest, rows[len(rows) - len(rest) :])}
    (root / f"rank-{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked after the imports, which take longer than everything else here.
    torch.multiprocessing.start_processes(work, (Path(sys.argv[1]), port), nprocs=2, start_method="fork")
