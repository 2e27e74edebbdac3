import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from dinopl.core.checkpoints import load_checkpoint, load_network, network_state


def network(out=2):
    return nn.Sequential(nn.Linear(3, out), nn.BatchNorm1d(out))


def checkpoint(student=None, teacher=None, family="SelfDistillation"):
    networks = {"student": student or network(), "teacher": teacher or network()}
    weights = {f"{w}.{name}": tensor for w, n in networks.items() for name, tensor in n.state_dict().items()}
    return {"state_dict": weights, "epoch": 3, "dinopl": {"family": family, "image_shape": [1, 8, 8]}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.ckpt"


class Hostile:
    """Writes a file as soon as it is unpickled by a loader that runs what it reads."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (Path(self.target),))


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"'{path}': ")
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(path, "checkpoint=FILE")
    assert str(caught.value).startswith("checkpoint=FILE: ")
    assert "\n" not in text


def test_a_checkpoint_is_read_as_it_is(path):
    saved = checkpoint()
    torch.save(saved, path)
    loaded = load_checkpoint(str(path))
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(tensor, saved["state_dict"][name]) for name, tensor in loaded["state_dict"].items())


def test_hostile_checkpoints_do_not_run(path, tmp_path):
    target = tmp_path / "touched"
    torch.save(checkpoint() | {"callbacks": Hostile(target)}, path)
    refused(path, "asks for code to be run")
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # it would have run


def test_a_hostile_plain_pickle_does_not_run(path, tmp_path):
    target = tmp_path / "touched"
    path.write_bytes(pickle.dumps(Hostile(target)))
    refused(path, "give a checkpoint of plain tensors")
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()


def test_the_environment_cannot_switch_the_refusal_off(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": Hostile(tmp_path / "touched")}, path)
    refused(path, "asks for code to be run")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_truncated(path, share):
    torch.save(checkpoint(network(500)), path)
    os.truncate(path, int(path.stat().st_size * share))
    refused(path, "truncated|not a checkpoint")


def test_missing(path):
    with pytest.raises(FileNotFoundError, match=r"^'.*last.ckpt': no such file; give"):
        load_checkpoint(path)


def test_empty(path):
    path.touch()
    refused(path, "is empty")


def test_a_folder(tmp_path):
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize(
    "content",
    [
        b"epochs: 3\nmodel: SelfDistillation\n",
        "Schüler\n".encode(),
        b"\x80",
        b"\x00" * 100,
        b"\x80\x02}q\x00.",
        b"PK\x03\x04 not a zip",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    ],
)
def test_other_files(path, content):
    path.write_bytes(content)
    refused(path, "not a checkpoint|not a Lightning checkpoint")


def test_a_zip_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "not a checkpoint")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (network().state_dict(), "a bare state dict, not a Lightning checkpoint"),
        ([1, 2], "a list, not"),
        (torch.ones(2), "a Tensor, not"),
        ({"state_dict": 3}, "a dict without 'state_dict'"),
        ({}, "a dict without 'state_dict'"),
    ],
)
def test_other_contents(path, content, message):
    torch.save(content, path)
    refused(path, message)


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_the_part_of_one_network(which):
    networks = {"student": network(), "teacher": network()}
    saved = checkpoint(**networks)
    saved["state_dict"]["loss.centre"] = torch.zeros(2)
    state = network_state(saved, which)
    expected = networks[which].state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (checkpoint(family="SequenceModeling"), "is of SequenceModeling, not of SelfDistillation"),
        ({"state_dict": network().state_dict()}, "is of another project, not of SelfDistillation"),
        ({"state_dict": {}, "dinopl": "SelfDistillation"}, "of another project"),
        ({"state_dict": {"teacher.w": torch.ones(1)}, "dinopl": {"family": "SelfDistillation"}}, "holds no student"),
    ],
)
def test_other_families(path, content, message):
    with pytest.raises(ValueError, match=message):
        network_state(content, "student")
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"^path=.*: .*{message}") as caught:
        load_network(network(), path, "student", f"path={path}")
    assert "\n" not in str(caught.value)


def test_a_network_is_overwritten_in_place(path):
    student, mine = network(), network()
    student[1].running_mean += 1
    torch.save(checkpoint(student), path)
    pointers = [p.data_ptr() for p in mine.parameters()]
    load_network(mine, path, "student")
    assert all(torch.equal(t, student.state_dict()[name]) for name, t in mine.state_dict().items())
    assert pointers == [p.data_ptr() for p in mine.parameters()]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (network(4), r"0.weight is \(4, 3\) there and \(2, 3\) here"),
        (nn.Sequential(nn.Linear(3, 2)), "it has no tensor 1.weight"),
        (nn.Sequential(*network(), nn.Linear(2, 2)), "it has a tensor 2.weight more"),
    ],
)
def test_a_network_of_another_shape(path, saved, message):
    mine = network()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    torch.save(checkpoint(saved), path)
    with pytest.raises(ValueError, match=message) as caught:
        load_network(mine, path, "student")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())
