"""DataFraction around digits: which samples, which labels, how many steps; in a trainer, resumed, on two processes."""

import json
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from dinopl.data import CIFAR10Images, CropFlip, DigitsImages, ImageDataModule, NoiseImages
from kd.data import DataFraction
from kd.fractions import index_digest
from kd.text import TextDataModule
from tests.kd.conftest import digits, quick_trainer

no_validation = pytest.mark.filterwarnings(
    "ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning:lightning"
)


def pool(**options: Any) -> ImageDataModule:
    return ImageDataModule(**{"dataset": DigitsImages(test_size=596), "val_size": 0, "batch_size": 64, **options})


def made(data: Any = None, stage: str = "fit", **options: Any) -> DataFraction:
    module = DataFraction(pool() if data is None else data, **{"subset_seed": 0, **options})
    module.prepare_data()
    module.setup(stage)
    return module


def members(index: Tensor) -> set[int]:
    return set(index.tolist())


def indices(loader: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


@pytest.fixture(scope="module")
def direct() -> dict[str, Tensor]:
    """Every sample of the pool, looked up without a fraction."""
    module = pool(seed=0)
    module.setup("fit")
    batches = list(module.cache_dataloader())
    return {
        "view": torch.cat([batch["views"][0] for batch in batches]),
        "label": torch.cat([batch["label"] for batch in batches]),
    }


def test_a_shuffled_batch_holds_what_its_indices_say(direct: dict[str, Tensor]) -> None:
    module = made(fraction=0.1, steps_per_epoch=7)
    batches = list(module.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [64] * 7
    for batch in batches:
        assert members(batch["index"]) <= members(module.index)
        assert torch.equal(batch["views"][0], direct["view"][batch["index"]])
        assert torch.equal(batch["label"], direct["label"][batch["index"]])
    assert [batch.get("visit", 0) for batch in batches] == list(range(7))


@pytest.mark.parametrize(("fraction", "size"), [(0.02, 24), (0.05, 60), (0.1, 120), (0.25, 300), (0.5, 600), (1, 1201)])
def test_every_fraction_takes_exactly_the_steps_asked_for(fraction: float, size: int) -> None:
    module = made(fraction=fraction, steps_per_epoch=30)
    loader = module.train_dataloader()
    assert len(module.index) == size
    assert [len(batch) for batch in indices(loader)] == [min(64, size)] * 30
    assert len(loader) == 30
    by_pass = made(fraction=fraction)
    assert len(by_pass.train_dataloader()) == -(-size // 64) == by_pass.num_steps
    assert sorted(chain(*indices(by_pass.train_dataloader()))) == module.index.tolist()


def test_an_epoch_has_at_least_the_passes_asked_for() -> None:
    assert [made(fraction=f, steps_per_epoch=30, min_passes=4).num_steps for f in (0.02, 0.5, 1.0)] == [30, 36, 72]
    assert len(indices(made(steps_per_epoch=30, min_passes=4).train_dataloader())) == 72


def test_fractions_are_nested_and_of_the_teacher_or_of_the_pool() -> None:
    few, many = made(fraction=0.05), made(fraction=0.5)
    assert members(few.index) < members(many.index)
    assert members(made(fraction=0.05, subset_seed=1).index) != members(few.index)
    teacher = made(fraction=1.0, teacher_size=60)
    assert torch.equal(teacher.index, teacher.teacher_index)
    for size, options in ((30, {"fraction": 0.5}), (600, {"fraction": 0.5, "fraction_of": "pool"})):
        student = made(teacher_size=60, subset_seed=3, **options)
        assert len(student.index) == size
        assert torch.equal(student.teacher_index, teacher.index)
        smaller, larger = sorted((members(student.index), members(teacher.index)), key=len)
        assert smaller < larger
    assert made(fraction=20, teacher_size=60).facts()["fraction_of_teacher"] == 20


def test_fresh_samples_are_none_of_the_teachers() -> None:
    for fraction, size in ((0.5, 100), (4.5, 900)):
        module = made(fraction=fraction, mode="fresh", teacher_size=200)
        assert len(module.index) == size
        assert not members(module.index) & members(module.teacher_index)
    assert members(made(fraction=0.5, mode="fresh", teacher_size=200).index) < members(module.index)


def test_a_pool_of_its_own_is_the_same_for_teacher_and_students_of_every_seed() -> None:
    """The run's seed moves neither the hold-out nor the teacher's samples nor the noise, only what is the student's."""
    options = {"fraction": 0.1, "label_noise": 0.3, "subset_seed": None, "teacher_size": 500}
    modules = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        modules.append(made(pool(val_size=100), **options))
    one, other = modules
    assert one.fingerprint() == other.fingerprint()
    assert torch.equal(one.teacher_index, other.teacher_index)
    assert torch.equal(one.train_label, other.train_label)
    assert members(one.index) != members(other.index)
    assert indices(one.val_dataloader()) == indices(other.val_dataloader())
    assert made(pool(val_size=100), split_seed=1).fingerprint() != one.fingerprint()


def test_samples_order_and_noise_are_those_that_earlier_figures_rest_on() -> None:
    """Integer arithmetic alone decides, so the digests are constants on every machine."""
    seeds = {"subset_seed": 3, "order_seed": 1, "augmentation_seed": 2}
    module = made(pool(batch_size=32), fraction=0.1, steps_per_epoch=9, label_noise=0.2, **seeds)
    assert index_digest(module.index) == "7f7b12b45b37aa952c0c8f422204d2cc3e47cef1"
    order = torch.tensor(list(chain(*indices(module.train_dataloader()))))
    assert index_digest(order) == "407705b7d942de01f6c861043e845935e83ee41a"
    assert index_digest(module.train_label) == "89ecf1e7a0f0ae190827df5f39dca8da992cb3f4"


def test_streams_do_not_move_one_another() -> None:
    crops = [CropFlip(1)]

    def seen(**seeds: int) -> tuple[Tensor, list[list[int]], Tensor]:
        seeds = {"subset_seed": 0, "order_seed": 0, "augmentation_seed": 0, **seeds}
        module = made(pool(views=crops), fraction=0.05, steps_per_epoch=3, **seeds)
        batches = list(module.train_dataloader())
        every = torch.cat([batch["views"][0] for batch in module.cache_dataloader()])
        return module.index, [batch["index"].tolist() for batch in batches], every

    base, order, augmentation = seen(), seen(order_seed=1), seen(augmentation_seed=1)
    assert torch.equal(base[0], order[0])
    assert base[1] != order[1]
    assert torch.equal(base[2], order[2])
    assert base[1] == augmentation[1]
    assert not torch.equal(base[2], augmentation[2])


def test_runs_of_one_seed_see_the_same_whatever_the_target() -> None:
    torch.manual_seed(5)
    one = made(fraction=0.1, subset_seed=None, steps_per_epoch=50)
    torch.randn(100)  # another model drew numbers
    torch.manual_seed(5)
    assert indices(made(fraction=0.1, subset_seed=None, steps_per_epoch=50).train_dataloader()) == indices(
        one.train_dataloader()
    )


def test_training_labels_alone_are_noisy(direct: dict[str, Tensor]) -> None:
    modules = [made(fraction=f, label_noise=0.3) for f in (0.1, 1.0)]
    given: list[dict[int, int]] = [{}, {}]
    for module, labels in zip(modules, given, strict=True):
        for batch in module.train_dataloader():
            labels |= dict(zip(batch["index"].tolist(), batch["label"].tolist(), strict=True))
            assert torch.equal(module.train_label[batch["index"]], batch["label"])
    shared = given[0].keys() & given[1].keys()
    assert len(shared) == 120
    assert {i: given[0][i] for i in shared} == {i: given[1][i] for i in shared}
    wrong = sum(label != int(direct["label"][i]) for i, label in given[1].items()) / len(given[1])
    assert 0.25 < wrong < 0.35
    clean = torch.cat([batch["label"] for batch in modules[1].subset_dataloader()])
    assert torch.equal(clean, direct["label"])
    noisy = torch.cat([batch["label"] for batch in modules[1].subset_dataloader(clean=False)])
    assert torch.equal(noisy, modules[1].train_label)
    plain = made()
    for name in ("test_dataloader", "predict_dataloader"):
        pairs = zip(getattr(modules[0], name)(), getattr(plain, name)(), strict=True)
        assert all(torch.equal(one["label"], other["label"]) for one, other in pairs)


def test_what_is_kept_by_index_serves_every_fraction(direct: dict[str, Tensor]) -> None:
    module = made(pool(views=[CropFlip(1)]), fraction=0.1)
    assert not module.deterministic_views
    assert module.num_train == 1201
    assert list(chain(*indices(module.cache_dataloader()))) == list(range(1201))
    assert list(chain(*indices(module.cache_dataloader(selected=True)))) == module.index.tolist()
    subset = list(module.subset_dataloader())
    assert list(chain(*indices(subset))) == module.index.tolist()
    assert torch.equal(torch.cat([batch["views"][0] for batch in subset]), direct["view"][module.index])
    assert module.fingerprint() == made(pool(views=[CropFlip(1)]), fraction=1.0).fingerprint() != made().fingerprint()


def test_augmentations_that_repeat_can_be_kept() -> None:
    module = made(pool(views=[CropFlip(1)]), fraction=0.03, steps_per_epoch=7, augmentations=3)
    kept = [torch.cat([b["views"][0] for b in module.cache_dataloader(augmentation=v)]) for v in range(3)]
    assert not torch.equal(kept[0], kept[1])
    for batch in module.train_dataloader():
        assert torch.equal(batch["views"][0], kept[batch.get("visit", 0) % 3][batch["index"]])
    endless = made(pool(views=[CropFlip(1)]), fraction=0.03, steps_per_epoch=4)
    fourth = list(endless.train_dataloader())[3]
    assert torch.equal(
        fourth["views"][0],
        torch.cat([b["views"][0] for b in endless.cache_dataloader(augmentation=3)])[fourth["index"]],
    )


def test_facts_say_what_was_trained_on() -> None:
    module = made(fraction=0.5, teacher_size=0.5, steps_per_epoch=10, label_noise=0.1, order_seed=4)
    facts = module.facts()
    assert facts.pop("fingerprint") == module.fingerprint()
    assert facts == {
        "pool_size": 1201,
        "teacher_size": 600,
        "subset_size": 300,
        "fraction_of_teacher": 0.5,
        "fraction_of_pool": 300 / 1201,
        "mode": "subset",
        "subset_sha1": index_digest(module.index),
        "label_noise": 0.1,
        "seeds": {"subset": 0, "order": 4, "augmentation": torch.initial_seed(), "teacher": 0, "noise": 0},
        "steps_per_epoch": 10,
        "passes_per_epoch": 2.5,
        "samples_per_epoch": 640,
    }
    assert made(fraction=0.5).facts()["samples_per_epoch"] == 600


def test_what_the_command_links_is_known_at_once() -> None:
    module = DataFraction(pool(dataset=NoiseImages(DigitsImages(), num_train=30, num_test=5, seed=0)))
    assert module.image_shape == module.input_shape == (1, 8, 8)
    assert module.num_classes == 10
    assert not hasattr(DataFraction(TextDataModule()), "image_shape")
    with pytest.raises(RuntimeError, match="call setup"):
        _ = module.index


def test_the_other_splits_are_passed_on() -> None:
    module = made(pool(val_size=100), fraction=0.1)
    inside = module.data
    assert indices(module.val_dataloader()) == indices(inside.val_dataloader())
    assert indices(module.test_dataloader()) == indices(inside.test_dataloader())
    assert {name: len(indices(loader)) for name, loader in module.probe_dataloaders().items()} == {
        name: len(indices(loader)) for name, loader in inside.probe_dataloaders().items()
    }
    assert list(chain(*indices(module.probe_dataloaders()["train"]))) == list(range(1101))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction=0.0: must be above 0"),
        ({"fraction": float("nan")}, "fraction=nan"),
        ({"mode": "fresh"}, "mode=fresh: the teacher has the whole pool; give teacher_size"),
        ({"teacher_size": 0}, "teacher_size=0: must be a count or a fraction of the pool; None is all of it"),
        ({"label_noise": 1.5}, "label_noise=1.5: must be a probability from 0 to 1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0: must be at least 1, or None"),
        ({"augmentations": 0}, "augmentations=0"),
        ({"min_passes": 2}, "min_passes=2: must be at least 0 and needs steps_per_epoch"),
        ({"min_passes": -1, "steps_per_epoch": 5}, "min_passes=-1"),
    ],
)
def test_impossible_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        DataFraction(pool(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0001}, "fraction=0.0001: is 0 samples, of 1201 (teacher), and there are 1201"),
        (
            {"fraction": 1.1},
            "is 1321 samples, of 1201 (teacher), and there are 1201 to draw from; give at most 1",
        ),
        ({"fraction": 0.0001, "allow_empty_classes": True}, "give at least 0.000833 (1 sample)"),
        ({"fraction": 0.001}, "its 1 sample leaves 9 of 10 classes without any; give at least 0.008327 (10 samples)"),
        (
            {"fraction": 0.004, "mode": "fresh", "teacher_size": 1196},
            "without any; leave more than 5 to draw from by a smaller teacher_size, or set",
        ),
        (
            {"fraction": 6, "mode": "fresh", "teacher_size": 201},
            "1206 samples, of 201 (teacher), and there are 1000",
        ),
        ({"fraction": 2, "fraction_of": "pool", "teacher_size": 9}, "of 1201 (pool), and there are 1201 to draw from"),
        (
            {"fraction": 0.005},
            "its 6 samples leave 4 of 10 classes without any; give at least 0.008327 (10 samples), or",
        ),
        ({"fraction": 0.005, "stratified": False}, "draw more, set stratified to true, or set allow_empty"),
        ({"teacher_size": 5000}, "5000: give a count of at most 1201"),
        ({"teacher_size": 1e-5}, "teacher_size=1e-05: leaves no sample of the pool's 1201 to the teacher"),
        ({"teacher_size": 1201, "mode": "fresh"}, "leaves no sample of the pool's 1201 to the student"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused_at_setup(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        made(**options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("fraction=", "teacher_size"))


@pytest.mark.parametrize(
    "options", [{}, {"fraction_of": "pool", "teacher_size": 0.5}, {"mode": "fresh", "teacher_size": 700}]
)
def test_the_least_fraction_that_is_advised_is_the_least_that_is_taken(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give at least [\d.]+ \(\d+ samples\)") as caught:
        made(fraction=1e-5, **options)
    fraction, count = re.findall(r"at least ([\d.]+) \((\d+)", str(caught.value))[0]
    assert len(made(fraction=float(fraction), **options).index) == int(count)
    base = int(re.findall(r"of (\d+)", str(caught.value))[0])
    with pytest.raises(ValueError, match=f"its {int(count) - 1} samples .* give at least {fraction} "):
        made(fraction=(int(count) - 1) / base, **options)


def test_empty_classes_are_allowed_when_asked_for() -> None:
    assert len(made(fraction=0.005, allow_empty_classes=True).index) == 6


def test_errors_of_the_other_module_are_raised_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"train_size.5000: give a count of at most 1201"):
        made(pool(train_size=5000))
    with pytest.raises(FileNotFoundError, match=r"point .*root or \$DINOPL_DATA"):
        made(pool(dataset=CIFAR10Images(), root="none", download=False))


class Recorder(LightningModule):
    """A linear classifier that writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.seen: list[tuple[int, list[int], float]] = []
        self.validations = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.layer(batch["views"][0].flatten(1)), batch["label"])
        self.seen.append((batch.get("visit", 0), batch["index"].tolist(), float(loss.detach())))
        return loss * batch.get("share", 1.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validations += batch_idx == 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/size", float(len(batch["index"])), reduce_fx="sum", on_epoch=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(Callback):
    """Saves after the steps given."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(Path(trainer.default_root_dir, f"step={trainer.global_step}.ckpt"))


class Write(Callback):
    """Writes down what each process saw, where a test can read it."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir, f"rank{trainer.global_rank}.pt")
        torch.save({"seen": pl_module.seen, "weight": pl_module.layer.weight.detach().clone()}, path)


def a_trainer(path: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=path, num_sanity_val_steps=0, **{**quiet, **defaults, **options})


def fraction(val_size: int = 0, **options: Any) -> DataFraction:
    data = pool(views=[CropFlip(1)], val_size=val_size, batch_size=options.pop("batch_size", 16))
    return DataFraction(data, **{"fraction": 0.1, "label_noise": 0.2, "steps_per_epoch": 20, **options})


@no_validation
def test_a_resumed_run_sees_what_the_whole_run_sees(tmp_path: Path) -> None:
    """Saved in mid-pass and mid-epoch (3, 27), with an epoch (20); the resumed run's own seed is another one."""
    whole, steps = Recorder(), (3, 20, 27)
    torch.manual_seed(1)
    a_trainer(tmp_path, max_epochs=2, callbacks=[Save(*steps)]).fit(whole, fraction())
    assert len(whole.seen) == 40
    for step in steps:
        resumed = Recorder()
        torch.manual_seed(2)
        trainer = a_trainer(tmp_path, max_epochs=2)
        trainer.fit(resumed, fraction(), ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
        assert resumed.seen == whole.seen[step:]
        assert torch.equal(resumed.layer.weight, whole.layer.weight)
    torch.manual_seed(2)
    with pytest.raises(ValueError, match=r"^fraction=0.2: draws other samples .* than the checkpoint was trained on"):
        a_trainer(tmp_path, max_epochs=2).fit(
            Recorder(), fraction(fraction=0.2), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True
        )


@no_validation
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    single = Recorder()
    a_trainer(tmp_path, max_epochs=1).fit(single, fraction(batch_size=32))
    pair = a_trainer(tmp_path, max_epochs=1, devices=2, strategy="ddp_fork", callbacks=[Write()])
    torch.manual_seed(0)
    pair.fit(Recorder(), fraction(batch_size=16))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for (visit, samples, _), *parts in zip(single.seen, *(rank["seen"] for rank in ranks), strict=True):
        assert list(chain(*(own for _, own, _ in parts))) == samples
        assert {number for number, _, _ in parts} == {visit}
    torch.testing.assert_close(ranks[0]["weight"], single.layer.weight, rtol=1e-5, atol=1e-6)


def test_a_trainer_validates_as_often_as_it_is_told_and_tests_everything(tmp_path: Path) -> None:
    module, data = Recorder(), fraction(val_size=100, steps_per_epoch=40)
    trainer = a_trainer(tmp_path, max_epochs=1, val_check_interval=20)
    trainer.fit(module, data)
    assert module.validations == 2
    assert len(module.seen) == 40
    assert trainer.test(module, data, verbose=False)[0]["test/size"] == 596


def test_each_process_gets_its_part_of_the_subset() -> None:
    whole = made(fraction=0.1)
    parts = []
    for rank in range(2):
        module = DataFraction(pool(), fraction=0.1, subset_seed=0)
        strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda value: value)
        module.trainer = SimpleNamespace(strategy=strategy, global_rank=rank, world_size=2)  # type: ignore[assignment]
        module.setup("fit")
        parts += list(chain(*indices(module.subset_dataloader())))
        assert list(chain(*indices(module.cache_dataloader()))) == list(range(1201))
    assert sorted(parts) == whole.index.tolist()


CONFIG = """
model:
  class_path: SelfDistillation
  init_args:
    encoder: {class_path: MiniVGG, init_args: {widths: [4]}}
    head: {class_path: ProjectionHead, init_args: {hidden: [8], bottleneck_dim: 4, out_dim: 8}}
data:
  class_path: kd.data.DataFraction
  init_args:
    fraction: 0.05
    steps_per_epoch: 5
    data:
      class_path: ImageDataModule
      init_args: {dataset: {class_path: DigitsImages, init_args: {test_size: 596}}, batch_size: 16}
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, enable_progress_bar: false, logger: false}
"""


@no_validation
def test_a_configuration_names_it_and_the_run_tells_what_it_trained_on(
    tmp_path: Path, run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Any model may train on a fraction: here one that keeps its teacher's outputs by index, linked to the shape."""
    (tmp_path / "fraction.yaml").write_text(CONFIG)
    assert run_main("fit", "--config", "fraction.yaml", "--data.data.val_size", "0") == 0
    (results,) = tmp_path.glob("runs/fraction/*/results.json")
    facts = json.loads(results.read_text())["data"]
    assert (facts["pool_size"], facts["subset_size"], facts["steps_per_epoch"]) == (1201, 60, 5)
    capsys.readouterr()
    assert run_main("fit", "--config", "fraction.yaml", "--data.fraction", "0.001") == 2
    assert "--data.fraction 0.001: its 1 sample leaves 9 of 10 classes" in capsys.readouterr().err.replace("=", " ")
    assert len(list(tmp_path.glob("runs/fraction/*"))) == 1


def test_overfitting_repeats_the_first_batches() -> None:
    for data in (digits(None, fraction=0.5), digits(None, fraction=0.5).data):
        data.trainer = quick_trainer(overfit_batches=1)
        data.setup("fit")
        loader, first = data.train_dataloader(), []
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            first.append(next(iter(loader))["index"].tolist())
        assert first[0] == first[1] == first[2]


def test_a_last_batch_is_dropped_where_the_other_module_drops_it() -> None:
    kept, dropped = (digits(None, pool={"drop_last": drop}, fraction=0.5) for drop in (False, True))
    for data in (kept, dropped):
        data.setup("fit")
    assert [len(batch["index"]) for batch in kept.train_dataloader()] == [32] * 18 + [len(kept.index) - 18 * 32]
    assert [len(batch["index"]) for batch in dropped.train_dataloader()] == [32] * 18
    assert (dropped.num_steps, dropped.facts()["samples_per_epoch"]) == (18, 18 * 32)
