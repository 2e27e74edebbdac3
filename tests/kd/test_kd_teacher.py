"""Teachers from checkpoints, state dicts and libraries: loaded right, identified, checked, refused."""

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from dinopl.core.checkpoints import load_checkpoint
from dinopl.core.types import ImageShape
from dinopl.data import ImageDataModule
from dinopl.distillation.module import SelfDistillation
from dinopl.encoders import ConvNet, MiniMLP
from kd.features.heads import LogisticHead
from kd.library import TimmClassifier, TorchvisionClassifier
from kd.losses import KLDistillation
from kd.networks import EncoderClassifier, build, draw_classifier, penultimate
from kd.targets import RandomHead
from kd.teacher import FrozenTeacher, NetworkTeacher, RunTeacher, SelfDistilledTeacher, fingerprint
from kd.teacher.loading import checkpoint_file, recorded_accuracy, stripped
from tests.kd.conftest import digits, fitted, mlp, quick_trainer, student

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning:lightning",
    "ignore:Found .* module.* in eval mode:UserWarning:lightning",
)
ROOT = Path(__file__).parent.parent.parent
DIGITS = ImageShape(1, 8, 8)
RGB = ImageShape(3, 32, 32)


def state(network: nn.Module) -> dict[str, Tensor]:
    return network.state_dict()


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = state(one), state(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# networks -----------------------------------------------------------------------------------------------------------


def test_the_studys_perceptron_has_2410_parameters_and_its_network_the_early_codes_154250() -> None:
    count = {}
    for name, encoder, shape in (("mlp", partial(MiniMLP, hidden=(32,)), DIGITS), ("cnn", ConvNet, RGB)):
        network = draw_classifier(partial(EncoderClassifier, encoder=encoder), shape, 10, seed=0)
        count[name] = sum(p.numel() for p in network.parameters())
    assert count["mlp"] == 2410
    # the early code's convolutions have biases (20 + 40 + 80 + 160), which BatchNorm makes useless
    assert count["cnn"] == 154250 - 300


@pytest.mark.parametrize("shape", [DIGITS, ImageShape(1, 28, 28), RGB, ImageShape(3, 50, 41)])
def test_the_convolutional_network_takes_images_of_any_size(shape: ImageShape) -> None:
    network = ConvNet(shape, width=2).eval()
    assert network(torch.randn(3, *shape)).shape == (3, 16)
    with pytest.raises(ValueError, match="ConvNet halves the image 3 times"):
        ConvNet(ImageShape(1, 7, 9))


def test_a_draw_depends_on_its_seed_alone() -> None:
    torch.manual_seed(0)
    one = draw_classifier(mlp(), DIGITS, 10, seed=3)
    before = torch.random.get_rng_state()
    two = draw_classifier(mlp(), DIGITS, 10, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert equal(one, two)
    assert not equal(one, draw_classifier(mlp(), DIGITS, 10, seed=4))


def test_a_recorded_configuration_builds_the_network_and_imports_nothing_else() -> None:
    config = {
        "class_path": "kd.networks.EncoderClassifier",
        "init_args": {"encoder": {"class_path": "dinopl.encoders.MiniMLP", "init_args": {"hidden": [5, 6]}}},
    }
    network = build(config, (1, 8, 8), 4)
    assert [p.shape for p in network.parameters() if p.ndim == 2] == [(5, 64), (6, 5), (4, 6)]
    config["init_args"]["encoder"]["class_path"] = "somebody.elses.Encoder"  # type: ignore[index]
    with pytest.raises(ValueError, match=r"names somebody.elses.Encoder, which a checkpoint may not import"):
        build(config, (1, 8, 8), 4)
    with pytest.raises(ValueError, match=r"names kd.networks.Nothing, which is not there"):
        build("kd.networks.Nothing")


def test_torchvision_models_by_name() -> None:
    network = TorchvisionClassifier(RGB, 7, "resnet18")
    assert network.eval()(torch.randn(2, *RGB)).shape == (2, 7)
    assert penultimate(network) == "network.fc:input"
    vit = TorchvisionClassifier(RGB, 7, "vit_b_16", arguments={"image_size": 32})
    assert penultimate(vit) == "network.heads.head:input"
    for options, complaint in (
        ({"name": "resnet19"}, "name=resnet19: Unknown model resnet19"),
        ({"arguments": {"depth": 3}}, "name=resnet18: .*depth.*; correct name.* of TorchvisionClassifier"),
    ):
        with pytest.raises(ValueError, match=complaint):
            TorchvisionClassifier(RGB, 7, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rgb=False: TorchvisionClassifier takes images of 3 channels, not \[1"):
        TorchvisionClassifier(DIGITS, 7)


@pytest.mark.parametrize(("name", "parameters"), [("resnet50", 25_557_032), ("vit_b_16", 86_567_656)])
def test_the_networks_of_the_imagenet_configurations_are_torchvisions(name: str, parameters: int) -> None:
    config = yaml.safe_load((ROOT / "configs" / "kd" / f"imagenet_{name}.yaml").read_text())
    with torch.device("meta"):
        options = config["model"]["init_args"]["student"]["init_args"]
        network = TorchvisionClassifier(ImageShape(3, 224, 224), 1000, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_timm_models_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.update(options, name=name)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, options["num_classes"]))

    timm = ModuleType("timm")
    timm.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    network = TimmClassifier(DIGITS, 10, "vit_tiny", pretrained=True, arguments={"drop_rate": 0.1})
    assert network(torch.randn(2, *DIGITS)).shape == (2, 10)
    assert asked == {"name": "vit_tiny", "pretrained": True, "num_classes": 10, "in_chans": 1, "drop_rate": 0.1}
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm"):
        TimmClassifier(DIGITS, 10, "vit_tiny")


# state dicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"model.module.{k}": v for k, v in s.items()} | {"criterion.weight": torch.zeros(3)},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"net." + k.replace("encoder.", "encoder._orig_mod."): v for k, v in s.items()},
        lambda s: {"epoch": 3, "state_dict": {f"student.{k}": v for k, v in s.items()}},
        lambda s: {"model": s, "optimizer": {"lr": 1.0}},
    ],
)
def test_a_state_dict_is_found_under_any_prefix(wrap: Any, tmp_path: Path) -> None:
    source = draw_classifier(mlp(24), DIGITS, 10, seed=5)
    torch.save(wrap(state(source)), tmp_path / "w.pt")
    loaded, _, _ = NetworkTeacher(mlp(24), path=str(tmp_path / "w.pt")).load(DIGITS, 10)
    assert equal(loaded, source)


def test_safetensors_and_library_models_are_loaded_under_their_own_names(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(4)
    source = resnet18(num_classes=3)
    save_file(state(source), tmp_path / "r.safetensors")
    factory = partial(TorchvisionClassifier, name="resnet18")
    loaded, accuracy, _ = NetworkTeacher(factory, path=str(tmp_path / "r.safetensors"), accuracy=0.5).load(RGB, 3)
    assert equal(loaded.network, source)  # type: ignore[arg-type]
    assert accuracy == 0.5
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(
        ValueError, match=r"path=.*bad.safetensors: is truncated or not a safetensors file; give a complete one"
    ):
        NetworkTeacher(factory, path=str(tmp_path / "bad.safetensors")).load(RGB, 3)


def test_two_networks_in_one_file_need_a_choice(tmp_path: Path) -> None:
    one, two = (draw_classifier(mlp(24), DIGITS, 10, seed=seed) for seed in (1, 2))
    both = {f"a.{k}": v for k, v in state(one).items()} | {f"b.{k}": v for k, v in state(two).items()}
    torch.save(both, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"several networks, under 'a\.' and 'b\.'; choose one with"):
        NetworkTeacher(mlp(24), path=str(tmp_path / "w.pt")).load(DIGITS, 10)
    loaded, _, _ = NetworkTeacher(mlp(24), path=str(tmp_path / "w.pt"), prefix="b.").load(DIGITS, 10)
    assert equal(loaded, two)
    assert stripped({"x": torch.zeros(1)}, {}, "f") == {"x": torch.zeros(1)}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"a": 1}, "holds no state dict"),
        ([1], "holds no state dict"),
        ({"head.weight": torch.zeros(2, 2)}, "is not of this network: it has no tensor encoder.1.weight"),
    ],
)
def test_files_that_hold_no_such_network(content: Any, complaint: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=complaint):
        NetworkTeacher(mlp(24), path=str(tmp_path / "w.pt")).load(DIGITS, 10)


# runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_its_last_checkpoint_and_records_its_accuracy(teacher_file: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes(Path(teacher_file).read_bytes())
    assert recorded_accuracy(folder / "checkpoints" / "last.ckpt") is None
    (folder / "results.json").write_text(json.dumps({"metrics": {"test/accuracy": 0.75}}))
    loaded, accuracy, source = RunTeacher(str(folder), network=mlp(48)).load(DIGITS, 10)
    assert accuracy == 0.75
    assert RunTeacher(str(folder), network=mlp(48), accuracy=0.25).load(DIGITS, 10)[1] == 0.25
    assert source == str(checkpoint_file(folder))
    weights = load_checkpoint(teacher_file)["state_dict"]
    assert torch.equal(state(loaded)["head.weight"], weights["student.head.weight"])
    (folder / "results.json").write_text("{")
    assert recorded_accuracy(checkpoint_file(folder)) is None
    with pytest.raises(ValueError, match=r"gets 0\.9\d+ of the test samples right, and 0\.2500 is recorded"):
        fitted(student(teacher=RunTeacher(teacher_file, mlp(48), accuracy=0.25), objective=KLDistillation()), digits())


def test_a_record_is_of_the_checkpoint_that_was_tested(teacher_file: str, tmp_path: Path) -> None:
    """An earlier one, such as the best, is compared with nothing; the last one by another name has the record."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "results.json").write_text(json.dumps({"metrics": {"test/accuracy": 0.75}}))
    whole = load_checkpoint(teacher_file)
    for name, step in (("best", whole["global_step"] - 1), ("same", whole["global_step"])):
        torch.save(whole | {"global_step": step}, tmp_path / "checkpoints" / f"{name}.ckpt")

    def recorded(name: str) -> float | None:
        return RunTeacher(str(tmp_path / "checkpoints" / name), network=mlp(48)).load(DIGITS, 10)[1]

    assert recorded("best.ckpt") is recorded("same.ckpt") is None  # nothing says which of them was tested
    torch.save(whole, tmp_path / "checkpoints" / "last.ckpt")
    assert (recorded("best.ckpt"), recorded("same.ckpt"), recorded("last.ckpt")) == (None, 0.75, 0.75)


@pytest.mark.parametrize(
    ("options", "shape", "classes", "message"),
    [
        ({"network": mlp(40)}, DIGITS, 10, r"path=.*: is not of this network: encoder.1.w"),
        ({}, DIGITS, 10, "does not say of what architecture it is.* give the teacher's network"),
        ({}, RGB, 10, r"was trained on samples of shape \(1, 8, 8\), and these are \(3, 32, 32\)"),
        ({}, DIGITS, 20, "has 10 classes, and the student 20"),
    ],
)
def test_runs_that_cannot_teach(
    teacher_file: str, options: dict[str, Any], shape: ImageShape, classes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RunTeacher(teacher_file, **options).load(shape, classes)


def test_checkpoints_of_other_families(teacher_file: str, tmp_path: Path) -> None:
    ours = "give one of a KnowledgeDistillation run"
    for family, hint in (("SequenceModeling", ours), ("SelfDistillation", "SelfDistilledTeacher")):
        torch.save({"state_dict": {"w": torch.zeros(2)}, "dinopl": {"family": family}}, tmp_path / "o.ckpt")
        with pytest.raises(ValueError, match=f"is a checkpoint of {family}, not of KnowledgeDistillation; .*{hint}"):
            RunTeacher(str(tmp_path / "o.ckpt")).load(DIGITS, 10)
    with pytest.raises(ValueError, match=r"is a checkpoint of KnowledgeDistillation, not of SelfD.*RunTeacher"):
        SelfDistilledTeacher(teacher_file).load(DIGITS, 10)
    with pytest.raises(FileNotFoundError, match=r"path=.*none.ckpt: no such file; give the path"):
        RunTeacher(str(tmp_path / "none.ckpt")).load(DIGITS, 10)
    with pytest.raises(FileNotFoundError, match=r"is a folder without checkpoints/last.ckpt"):
        RunTeacher(str(tmp_path)).load(DIGITS, 10)


@pytest.fixture
def self_distilled(tmp_path: Path) -> tuple[str, SelfDistillation]:
    """A checkpoint of the other family, as the command marks it."""
    from dinopl.distillation.heads import ProjectionHead

    encoder = partial(MiniMLP, hidden=(32,))
    module = SelfDistillation(DIGITS, encoder, partial(ProjectionHead, hidden=(8,), bottleneck_dim=4, out_dim=10))
    data = ImageDataModule(val_size=0, batch_size=64)
    trainer = quick_trainer(limit_train_batches=1)
    trainer.fit(module, datamodule=data)
    path = tmp_path / "s.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    parts = {
        "encoder": {"class_path": "dinopl.encoders.MiniMLP", "init_args": {"hidden": [32]}},
        "head": {
            "class_path": "dinopl.distillation.heads.ProjectionHead",
            "init_args": {"hidden": [8], "bottleneck_dim": 4, "out_dim": 10},
        },
    }
    checkpoint["dinopl"]["config"] = {"model": {"init_args": parts}}
    torch.save(checkpoint, path)
    return str(path), module


def test_a_self_distilled_network_teaches_with_its_own_or_with_a_fitted_head(
    self_distilled: tuple[str, SelfDistillation],
) -> None:
    path, module = self_distilled
    for which in ("student", "teacher"):
        loaded, _, _ = SelfDistilledTeacher(path, which).load(DIGITS, 10)  # type: ignore[arg-type]
        assert equal(loaded, getattr(module, which))
    source = SelfDistilledTeacher(path, "teacher", head=LogisticHead())
    pupil = student(teacher=source, objective=KLDistillation(4.0))
    fitted(pupil, digits())
    assert pupil.teacher is not None
    assert pupil.teacher.measured is not None
    assert pupil.teacher.measured > 0.85  # random features of 32 units, and a head on 1,201 labels
    assert torch.equal(state(pupil.teacher.network)["encoder.1.weight"], state(module.teacher)["encoder.1.weight"])


# identity -----------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_weights_and_architecture() -> None:
    network = draw_classifier(mlp(24), DIGITS, 10, seed=1)
    found = fingerprint(network)
    assert fingerprint(draw_classifier(mlp(24), DIGITS, 10, seed=1)) == found
    with torch.no_grad():
        next(network.parameters()).view(-1)[7] += 1e-7
    changed = fingerprint(network)
    smooth = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.GELU())
    smooth[1].load_state_dict(smooth[0].state_dict())
    assert len({found, changed, *map(fingerprint, smooth)}) == 4


def test_a_teacher_is_checked_before_it_is_adapted(teacher_file: str) -> None:
    """A random head is wrong on purpose: the accuracy recorded is that of the teacher that it came from."""
    teacher = RunTeacher(teacher_file, mlp(48))
    honest = student(teacher=teacher, objective=KLDistillation(4.0))
    fitted(honest, digits())
    assert honest.teacher is not None
    accuracy = honest.teacher.measured
    guess = RunTeacher(teacher_file, mlp(48), accuracy=accuracy)
    module = student(teacher=guess, objective=KLDistillation(4.0), target=RandomHead(seed=2))
    fitted(module, digits())
    assert module.teacher is not None
    assert module.teacher.measured == accuracy
    assert module.teacher.fingerprint != honest.teacher.fingerprint
    assert module.facts()["teacher"]["measured_accuracy"] == accuracy


def test_the_tolerance_is_that_of_the_option() -> None:
    frozen = FrozenTeacher(nn.Linear(2, 2), 0.5, "here", tolerance=0.1)
    frozen.check_accuracy(6, 10)
    with pytest.raises(ValueError, match=r"here: gets 0.6100 of the test samples right, and 0.5000 is recorded"):
        frozen.check_accuracy(61, 100)
    for options in ({"accuracy": 1.5}, {"tolerance": -1.0}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))}="):
            NetworkTeacher(mlp(), **options)  # type: ignore[arg-type]
