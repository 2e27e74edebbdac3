"""Probing on several processes against one process: uneven shares, a process without any batch, an error on one."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dinopl.data import ImageDataModule
from dinopl.probes import KNNProbe, LinearProbe, WeightedKNNProbe, accuracies
from dinopl.probes.features import extract_several, network_outputs, together

PROCESSES = 3
PROBES = [LinearProbe(epochs=2), KNNProbe(k=5), WeightedKNNProbe(k=5), LinearProbe("other", lr=0.1, epochs=1)]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())
        self.head = nn.Linear(6, 12)

    def embed(self, x):
        return self.encoder(x)


def loaders():
    """Ours, torch's and a plain list; of 12, 2 and 1 batches, so that of the last two some processes get none."""
    data = ImageDataModule(eval_batch_size=100)
    data.setup()
    ours = data.probe_dataloaders()
    batches = list(ours["val"])
    images, label = torch.cat([b["views"][0] for b in batches]), torch.cat([b["label"] for b in batches])
    few = DataLoader(TensorDataset(images, label), batch_size=100)
    return {"train": ours["train"], "val": few, "test": [(images[:7], label[:7])]}


def measured(rank=0, processes=1):
    torch.manual_seed(0)
    network = Network()
    places = {"rank": rank, "processes": processes}
    found = {
        split: extract_several(
            lambda x: network_outputs(network, x, ["encoder", "logits"]), batches, torch.device("cpu"), **places
        )
        for split, batches in loaders().items()
    }
    features = {name: {split: found[split][name] for split in found} for name in ("encoder", "logits")}
    results = {
        name: accuracies(PROBES, by["train"], {"val": by["val"], "test": by["test"]}, 10, 0, **places)
        for name, by in features.items()
    }
    return features, results


def work(rank, port, path):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "3"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    features, results = measured(rank, PROCESSES)

    def fail():
        if rank == 1:
            raise ValueError("k=20 is too much")

    try:
        together(fail, PROCESSES)
        error = None
    except ValueError as raised:
        error = str(raised)
    plain = {name: {split: tuple(each) for split, each in by.items()} for name, by in features.items()}
    torch.save({"features": plain, "results": results, "error": error}, f"{path}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    if torch.cuda.is_initialized():
        pytest.skip("CUDA, used by an earlier test, does not survive the fork")
    path = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(work, (port, str(path)), nprocs=PROCESSES, start_method="fork")
    return [torch.load(path / f"{rank}.pt") for rank in range(PROCESSES)]


def test_each_process_has_the_features_and_accuracies_of_one(reports):
    features, results = measured()
    for report in reports:
        assert report["results"] == results
        for name, by in features.items():
            for split, (x, y) in by.items():
                assert torch.equal(report["features"][name][split][0], x)
                assert torch.equal(report["features"][name][split][1], y)


def test_an_error_of_one_process_is_raised_on_all(reports):
    assert [report["error"] for report in reports] == ["k=20 is too much"] * PROCESSES
    with pytest.raises(ZeroDivisionError):
        together(lambda: 1 / 0, 1)
