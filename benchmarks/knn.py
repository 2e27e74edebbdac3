"""Exact k-NN at the size of CIFAR-10's features: time, peak memory, and the answers beside scikit-learn's.

    python benchmarks/knn.py [--train 50000 --queries 10000 --width 512] [--threads 2] [--turns 3]

Features are those of overlapping Gaussian classes after a ReLU, as an encoder's are. Both take turns, so that a busy
machine slows both alike; the smallest time of each is reported beside all, since other programs only add to it, and
the smallest processor time of all threads together, which they change little. Peak memory is that of a process of its
own that makes the features and searches once, with everything that is imported; the load is the number of programs that
wanted a core in the minute before.

Our aims: under 6 s, under 1.5 GiB, faster than scikit-learn's brute force, and the same predictions but for ties.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from hardware import results_file, write_csv
from torch import Tensor

from dinopl.probes import knn_predict

K = 20
CLASSES = 10


def problem(train: int, queries: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training features, their classes, and queries."""
    generator = torch.Generator().manual_seed(0)
    centres = 0.5 * torch.randn(CLASSES, width, generator=generator)
    label = torch.randint(0, CLASSES, (train + queries,), generator=generator)
    x = centres[label].add_(torch.randn(train + queries, width, generator=generator)).relu_()
    return x[:train], label[:train], x[train:]


def ours(train_x: Tensor, train_y: Tensor, x: Tensor) -> Tensor:
    """The probe's own function."""
    return knn_predict(train_x, train_y, x, CLASSES, k=K)


def sklearn(train_x: Tensor, train_y: Tensor, x: Tensor) -> Tensor:
    """scikit-learn's brute force on the same float32 features, on as many threads."""
    from sklearn.neighbors import KNeighborsClassifier

    found = KNeighborsClassifier(K, algorithm="brute", n_jobs=torch.get_num_threads())
    return torch.from_numpy(found.fit(train_x.numpy(), train_y.numpy()).predict(x.numpy()))


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"dinopl": ours, "scikit-learn": sklearn}


def peak_gib(name: str, sizes: list[str], threads: int) -> float:
    """Peak memory of a process that does nothing else."""
    command = [sys.executable, __file__, "--alone", name, "--threads", str(threads), *sizes]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def main() -> None:
    """Times both, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in {"train": 50_000, "queries": 10_000, "width": 512, "threads": 2, "turns": 3}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--alone", choices=METHODS, help="search once with this method; print the peak memory in GiB")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = problem(options.train, options.queries, options.width)
    if options.alone:
        METHODS[options.alone](*data)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    processor: dict[str, list[float]] = {name: [] for name in METHODS}
    found = {}
    for _ in range(options.turns):
        for name, method in METHODS.items():
            start, used = time.perf_counter(), time.process_time()
            found[name] = method(*data)
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
    different = int((found["dinopl"] != found["scikit-learn"]).sum())
    load = os.getloadavg()[0]
    sizes = [f"--{name}={getattr(options, name)}" for name in ("train", "queries", "width")]
    rows: list[dict[str, object]] = []
    for name, times in seconds.items():
        row: dict[str, object] = {"method": name, "train": options.train, "queries": options.queries}
        row |= {"width": options.width, "k": K, "threads": options.threads, "seconds": round(min(times), 2)}
        row |= {"seconds_each": " ".join(f"{each:.2f}" for each in times)}
        row |= {"processor_seconds": round(min(processor[name]), 2)}
        row |= {"peak_gib": round(peak_gib(name, sizes, options.threads), 2)}
        row |= {"different_predictions": different, "load": round(load, 1)}
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_csv(results_file("knn", "float32"), rows)


if __name__ == "__main__":
    main()
