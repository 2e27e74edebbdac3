"""The teacher's outputs: kept ones are those that it would give, belong to one identity, and are written once."""

import json
import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from dinopl.data import CropFlip
from kd.losses import KLDistillation
from kd.module import KnowledgeDistillation
from kd.targets import TopClasses
from kd.teacher import CachedOutputs, OnlineOutputs, OutputSource, RunTeacher
from kd.teacher.outputs import key
from tests.kd.conftest import digits, fitted, mlp, quick_trainer, student

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning:lightning"
)
RANDOM = {"views": [CropFlip(padding=1)]}


class Given(Callback):
    """Keeps the teacher's logits of every step, beside what the teacher says of the very tensor."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self.online: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        view, index, visit = batch["views"][0], batch["index"], batch.get("visit", 0)
        self.kept.append(pl_module._outputs(view, index, visit))
        self.online.append(pl_module.teacher(view))

    def both(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self.kept), torch.cat(self.online)


@pytest.fixture
def pupil(teacher_file: str) -> Callable[..., KnowledgeDistillation]:
    def make(outputs: OutputSource | None = None, **options: Any) -> KnowledgeDistillation:
        teacher = RunTeacher(teacher_file, network=mlp(48))
        return student(**{"teacher": teacher, "objective": KLDistillation(4.0), "outputs": outputs} | options)

    return make


def given(module: KnowledgeDistillation, data: Any, **options: Any) -> tuple[Tensor, Tensor]:
    kept = Given()
    fitted(module, data, callbacks=[kept], **options)
    return kept.both()


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_kept_outputs_are_those_of_the_teacher(
    pupil: Callable[..., KnowledgeDistillation],
    tmp_path: Path,
    where: str,
    mapped: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if mapped:  # as if the rows were too many for the memory
        monkeypatch.setattr("kd.teacher.outputs.RESIDENT", 0)
    outputs = CachedOutputs(str(tmp_path / "o") if where == "folder" else None)
    kept, online = given(pupil(outputs), digits())
    assert len(kept) == 12 * 32
    assert (kept - online).abs().max() < 1e-5
    assert bool(outputs._files) == (mapped and where == "folder")


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_kept_augmentations_are_those_that_the_student_sees(
    pupil: Callable[..., KnowledgeDistillation], tmp_path: Path, where: str
) -> None:
    folder = str(tmp_path / "o") if where == "folder" else None
    data = digits(None, pool=RANDOM, augmentations=2, fraction=0.05)
    kept, online = given(pupil(CachedOutputs(folder)), data, max_epochs=4)
    assert (kept - online).abs().max() < 1e-5
    first, second, third, _ = kept.split(60)
    assert not torch.allclose(first.sort(0).values, second.sort(0).values)
    assert torch.allclose(first.sort(0).values, third.sort(0).values, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 0.02)])
@pytest.mark.parametrize("top_k", [None, 3, 10])
def test_fewer_classes_and_bits(
    pupil: Callable[..., KnowledgeDistillation], tmp_path: Path, dtype: Any, tolerance: float, top_k: int | None
) -> None:
    kept, online = given(pupil(CachedOutputs(str(tmp_path / "o"), dtype=dtype, top_k=top_k)), digits())
    index = torch.arange(len(online))
    wanted = online if top_k in (None, 10) else TopClasses(3)(online, index, index, 0, 4.0)
    assert kept.dtype == torch.float32
    assert (kept - wanted).abs().max() < tolerance
    assert np.load(tmp_path / "o" / "values.npy").dtype == np.dtype(dtype)
    assert (tmp_path / "o" / "classes.npy").exists() == (top_k == 3)


def test_one_file_serves_all_fractions_and_is_written_once(
    pupil: Callable[..., KnowledgeDistillation], tmp_path: Path
) -> None:
    folder = tmp_path / "o"
    given(pupil(CachedOutputs(str(folder))), digits())
    file = folder / "values.npy"
    before = file.stat().st_mtime_ns, file.stat().st_ino
    assert np.load(file).shape == (1, 1201, 10)
    for fraction, seed in ((0.02, 1), (1.0, 2)):
        data = digits(fraction=fraction, subset_seed=seed, order_seed=4)
        kept, online = given(pupil(CachedOutputs(str(folder))), data)
        assert (kept - online).abs().max() < 1e-5
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    assert {path.name for path in folder.iterdir()} == {".lock", "values.npy", "outputs.json"}
    content = json.loads((folder / "outputs.json").read_text())
    assert content["key"] == key(content["facts"])


def test_automatically_only_what_is_exact_is_kept(pupil: Callable[..., KnowledgeDistillation]) -> None:
    kinds = []
    for data in (digits(), digits(pool=RANDOM), digits(pool=RANDOM, augmentations=2)):
        module = pupil()
        kept, online = given(module, data)
        assert (kept - online).abs().max() < 1e-5
        kinds.append(type(module._outputs))
    assert kinds == [CachedOutputs, OnlineOutputs, CachedOutputs]


def test_random_augmentation_cannot_be_kept_unless_as_a_baseline(pupil: Callable[..., KnowledgeDistillation]) -> None:
    with pytest.raises(ValueError, match=r"outputs=CachedOutputs: the training views are random; set"):
        fitted(pupil(CachedOutputs()), digits(pool=RANDOM))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept, online = given(pupil(CachedOutputs(clean=True)), digits(pool=RANDOM))
    assert any("clean=True of CachedOutputs" in str(each.message) for each in caught)
    assert (kept - online).abs().max() > 0.1
    plain, _ = given(pupil(CachedOutputs()), digits())
    assert torch.allclose(plain, kept, atol=1e-5)  # the same order, the same samples, un-augmented


@pytest.mark.parametrize(
    ("options", "data", "outputs", "message"),
    [
        ({"precision": "64-true"}, {}, {}, "a teacher at another precision \\(32-true there, 64-true here\\)"),
        ({}, {"pool": {"normalization": [0.2, 0.5]}}, {}, "other data, or other preprocessing"),
        ({}, {"pool": {"train_size": 1100}}, {}, "other data, or other preprocessing"),
        ({}, {"pool": RANDOM, "augmentations": 2}, {}, "other data, or other preprocessing"),
        ({}, {}, {"dtype": "float16"}, "another type \\(float32 there, float16 here\\)"),
        ({}, {}, {"top_k": 2}, "another number of classes per sample"),
    ],
)
def test_a_file_of_anything_else_is_refused_and_left_alone(
    pupil: Callable[..., KnowledgeDistillation], tmp_path: Path, options: Any, data: Any, outputs: Any, message: str
) -> None:
    folder = tmp_path / "o"
    fitted(pupil(CachedOutputs(str(folder))), digits(2))
    before = (folder / "values.npy").read_bytes()
    with pytest.raises(ValueError, match=rf"folder=.*: holds outputs of {message}.*; give another"):
        fitted(pupil(CachedOutputs(str(folder), **outputs)), digits(2, **data), **options)
    assert (folder / "values.npy").read_bytes() == before


def test_a_file_of_another_teacher_is_refused(
    pupil: Callable[..., KnowledgeDistillation], tmp_path: Path, teacher_file: str
) -> None:
    folder = tmp_path / "o"
    fitted(pupil(CachedOutputs(str(folder))), digits(2))
    content = torch.load(teacher_file, weights_only=True)
    content["state_dict"]["student.head.bias"] += 1e-3
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds outputs of another teacher"):
        fitted(pupil(CachedOutputs(str(folder)), teacher=RunTeacher(str(tmp_path / "other.ckpt"), mlp(48))), digits(2))


def damage_sidecar(folder: Path) -> None:
    content = json.loads((folder / "outputs.json").read_text())
    content["facts"]["dtype"] = "float16"
    (folder / "outputs.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_sidecar, "its outputs.json is damaged"),
        (lambda folder: (folder / "outputs.json").write_text("{"), "its outputs.json is damaged"),
        (lambda folder: (folder / "values.npy").write_bytes(b""), "values.npy cannot be read"),
        (lambda folder: np.save(folder / "values.npy", np.zeros((1, 5, 10), np.float32)), "is not of its outputs.json"),
    ],
)
def test_a_damaged_file_is_refused(
    pupil: Callable[..., KnowledgeDistillation], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "o"
    fitted(pupil(CachedOutputs(str(folder))), digits(2))
    damage(folder)
    with pytest.raises(ValueError, match=message):
        fitted(pupil(CachedOutputs(str(folder))), digits(2))


def test_an_unfinished_write_counts_for_nothing(pupil: Callable[..., KnowledgeDistillation], tmp_path: Path) -> None:
    folder = tmp_path / "o"
    folder.mkdir()
    (folder / ".values.npy.tmp").write_bytes(b"half")
    np.save(folder / "values.npy", np.zeros((1, 1201, 10), np.float32))  # and no sidecar
    kept, online = given(pupil(CachedOutputs(str(folder))), digits())
    assert (kept - online).abs().max() < 1e-5
    assert not (folder / ".values.npy.tmp").exists()


def _race(teacher_file: str, folder: str, ready: Any, written: Any) -> None:
    """One of several students that start at once."""
    torch.set_num_threads(1)
    write = CachedOutputs._write

    def counted(*arguments: Any) -> Any:
        with written.get_lock():
            written.value += 1
        return write(*arguments)

    CachedOutputs._write = counted  # type: ignore[method-assign]
    teacher = RunTeacher(teacher_file, network=mlp(48))
    module = student(teacher=teacher, objective=KLDistillation(4.0), outputs=CachedOutputs(folder))
    kept = Given()
    trainer = quick_trainer(callbacks=[kept])
    ready.wait()
    trainer.fit(module, datamodule=digits())
    mine, wanted = kept.both()
    assert (mine - wanted).abs().max() < 1e-5


def test_of_students_that_start_at_once_one_writes(teacher_file: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, written = context.Barrier(2), context.Value("i", 0)
    arguments = (teacher_file, str(tmp_path / "o"), ready, written)
    workers = [context.Process(target=_race, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert written.value == 1


def test_options_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"top_k=0: must be at least 1"):
        CachedOutputs(top_k=0)
