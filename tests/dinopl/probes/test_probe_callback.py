"""The callback inside real runs of the trainer, on a small module and data of its own."""

import csv
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dinopl.core.random import stream_seed
from dinopl.data import ImageDataModule
from dinopl.probes import KNNProbe, LinearProbe, ProbeCallback, extract_features
from dinopl.training import ExactResume

CPU = torch.device("cpu")
SIZES = {"train": 60, "val": 20, "test": 24}
SUBJECTS = ("input", "teacher", "student")


def draw_split(name):
    """Six classes whose images overlap, so that accuracies are neither 0 nor 1."""
    g = torch.Generator().manual_seed(len(name))
    centres = torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    label = torch.arange(SIZES[name]) % 6
    return centres[label] + 0.8 * torch.randn(SIZES[name], 1, 3, 3, generator=g), label


class Data(LightningDataModule):
    def __init__(self, splits=("train", "val", "test")):
        super().__init__()
        self.splits = splits

    def loader(self, name, **options):
        return DataLoader(TensorDataset(*draw_split(name)), batch_size=16, **options)

    def train_dataloader(self):
        return self.loader("train", shuffle=True)

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")

    def probe_dataloaders(self):
        return {name: self.loader(name) for name in self.splits}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.embeds = 0

    def embed(self, x):
        self.embeds += 1
        return self.layers(x)


class Module(LightningModule):
    """Moves its student by gradient descent on a random target; the teacher stands still."""

    def __init__(self, probes=None, probe_epochs=1, static=True, num_classes=6):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.student, self.teacher = Network(), Network()
        self.teacher.requires_grad_(False)
        self.teacher_rule = SimpleNamespace(static=static)
        self.num_classes = num_classes
        probes = [LinearProbe(epochs=3, batch_size=16, lr=0.02), KNNProbe(k=5)] if probes is None else probes
        self.probe_callback = ProbeCallback(probes, probe_epochs)

    def configure_callbacks(self):
        return [self.probe_callback]

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), lr=0.05)

    def training_step(self, batch, batch_idx):
        noise = torch.randn_like(batch[0]).flatten(1)[:, :8]
        return (self.student.embed(batch[0]) - noise).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/size", float(len(batch[0])))

    def test_step(self, batch, batch_idx):
        self.log("test/size", float(len(batch[0])))


def make_trainer(path, **options):
    options = {"logger": CSVLogger(path, name="", version=""), "max_epochs": 4} | options
    return Trainer(
        accelerator="cpu",
        devices=options.pop("devices", 1),
        default_root_dir=path,
        log_every_n_steps=1,
        enable_model_summary=False,
        **{"enable_progress_bar": False, "enable_checkpointing": False} | options,
    )


def fit(path, module=None, data=None, ckpt_path=None, **options):
    torch.manual_seed(0)
    module, trainer = module or Module(), make_trainer(path, **options)
    trainer.fit(module, datamodule=data or Data(), ckpt_path=ckpt_path)
    return module, trainer


def points(path):
    """Logged probe points: rows of metrics.csv that have an epoch of probing."""
    with open(path / "metrics.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [row for row in rows if "probe/epoch" in row]


def names(prefix, probes=("linear", "knn")):
    return {f"{prefix}/{subject}/{probe}" for subject in SUBJECTS for probe in probes}


def measure_by_hand(module, subject, split):
    """What the callback should find now, with nothing of the callback."""
    network = {"input": nn.Flatten(), "teacher": module.teacher.layers, "student": module.student.layers}[
        subject
    ].eval()
    with torch.no_grad():
        (train_x, train_y), (x, y) = ((network(a), b) for a, b in (draw_split("train"), draw_split(split)))
    seed = stream_seed("probe")
    return {
        probe.name: (probe.predict(train_x, train_y, x, 6, seed) == y).double().mean().item()
        for probe in module.probe_callback.probes
    }


@pytest.mark.parametrize(
    ("probe_epochs", "epochs"), [(1, [0, 1, 2, 3, 4]), (3, [0, 3, 4]), ([2], [0, 2, 4]), ([], [0, 4]), ([0, 9], [0, 4])]
)
def test_points_before_during_and_after_training(tmp_path, probe_epochs, epochs):
    fit(tmp_path, Module(probe_epochs=probe_epochs))
    found = points(tmp_path)
    assert [row["probe/epoch"] for row in found] == epochs
    assert [row["step"] for row in found] == [4 * epoch for epoch in epochs]
    for row in found:
        assert names("probe") | names("probe_val") <= row.keys()


def test_accuracies_are_those_of_the_probes(tmp_path):
    module, trainer = fit(tmp_path)
    first, last = points(tmp_path)[0], points(tmp_path)[-1]
    for prefix, split in (("probe", "test"), ("probe_val", "val")):
        for subject in SUBJECTS:
            for probe, accuracy in measure_by_hand(module, subject, split).items():
                name = f"{prefix}/{subject}/{probe}"
                assert last[name] == accuracy == trainer.callback_metrics[name].item() == trainer.logged_metrics[name]
    untrained = Module()
    assert {p: first[f"probe/student/{p}"] for p in ("linear", "knn")} == measure_by_hand(untrained, "student", "test")
    assert last["probe/student/linear"] != first["probe/student/linear"]


class Noisy(KNNProbe):
    """Draws from every global generator, as a careless probe might."""

    def fit_predict(self, *args):
        torch.rand(3), np.random.rand(3), random.random()
        return super().fit_predict(*args)


class RandomStates(Callback):
    def on_train_end(self, trainer, pl_module):
        self.states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()


def test_probing_leaves_no_trace_in_training(tmp_path):
    modules, states = [], []
    for probes in ([], [LinearProbe(epochs=2), Noisy(k=5)]):
        states.append(RandomStates())
        modules.append(fit(tmp_path, Module(probes), callbacks=[states[-1]], logger=False)[0])
    a, b = (module.state_dict() for module in modules)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(states[0].states[0], states[1].states[0])
    assert states[0].states[1:] == states[1].states[1:]
    assert points_of(modules[0]) == {}
    assert points_of(modules[1]).keys() >= names("probe", ("linear", "knn"))


def points_of(module):
    return module.probe_callback.state_dict()["values"]


@pytest.mark.filterwarnings("ignore:Found .* in eval mode:UserWarning:lightning.pytorch.loops.fit_loop")
def test_training_flags_are_restored(tmp_path):
    module = Module(probe_epochs=[])
    module.student.layers[4].eval()
    flags = {}

    class Look(Callback):
        def on_fit_start(self, trainer, pl_module):
            flags["before"] = [part.training for part in pl_module.modules()]

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            flags["after"] = [part.training for part in pl_module.modules()]

    fit(tmp_path, module, callbacks=[Look()], max_epochs=1, limit_val_batches=0)
    assert flags["after"] == flags["before"]
    assert False in flags["after"]


@pytest.mark.parametrize("static", [True, False])
def test_what_cannot_change_is_probed_once(tmp_path, static):
    module, trainer = fit(tmp_path, Module(static=static), limit_val_batches=0, limit_train_batches=2)
    batches = math.ceil(SIZES["train"] / 16) + math.ceil(SIZES["test"] / 16)
    assert module.teacher.embeds == (1 if static else 5) * batches
    assert module.student.embeds == 5 * batches + 4 * 2
    trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    assert module.teacher.embeds == (1 if static else 6) * batches
    trainer.test(module, datamodule=Data(), verbose=False)
    assert module.teacher.embeds == (2 if static else 7) * batches


def test_a_teacher_from_a_checkpoint_is_probed_anew(tmp_path):
    other, trainer = fit(tmp_path / "a", max_epochs=1)
    nn.init.normal_(other.teacher.layers[1].weight)
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    module, trainer = fit(tmp_path / "b", max_epochs=1)
    (before,) = trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    (after,) = trainer.test(module, datamodule=trainer.datamodule, ckpt_path=tmp_path / "other.ckpt", verbose=False)
    assert after["probe/input/knn"] == before["probe/input/knn"]
    assert after["probe/teacher/knn"] == measure_by_hand(other, "teacher", "test")["knn"] != before["probe/teacher/knn"]


def test_a_module_without_teacher(tmp_path):
    module = Module()
    module.teacher = None
    _, trainer = fit(tmp_path, module, max_epochs=1)
    assert {name for name in trainer.callback_metrics if name.startswith("probe/")} == {
        name for name in names("probe") if "teacher" not in name
    } | {"probe/epoch"}


def test_number_of_classes_may_be_left_to_the_labels(tmp_path):
    fit(tmp_path, Module(num_classes=None), max_epochs=1)
    fit(tmp_path / "told", Module(num_classes=6), max_epochs=1)
    assert points(tmp_path) == points(tmp_path / "told")


class Watch(EarlyStopping):
    """Stops after the second epoch; notes which values it saw."""

    def __init__(self):
        super().__init__("probe_val/student/linear", mode="max")
        self.seen = []

    def _run_early_stopping_check(self, trainer):
        self.seen.append(trainer.callback_metrics[self.monitor].item())
        trainer.should_stop = len(self.seen) == 2


def test_monitors_see_the_point_of_their_epoch(tmp_path):
    watch = Watch()
    best = ModelCheckpoint(tmp_path, monitor="probe_val/student/linear", mode="max", save_top_k=-1, filename="{epoch}")
    fit(tmp_path, callbacks=[watch, best], enable_checkpointing=True)
    accuracy = [row["probe_val/student/linear"] for row in points(tmp_path)]
    assert watch.seen == accuracy[1:] != accuracy[:-1]
    assert [value.item() for value in best.best_k_models.values()] == accuracy[1:]


def test_early_stopping_between_points_still_ends_with_one(tmp_path):
    watch = Watch()
    _, trainer = fit(tmp_path, Module(probe_epochs=3), callbacks=[watch])
    first, last = points(tmp_path)
    assert watch.seen == [first["probe_val/student/linear"]] * 2
    assert (last["probe/epoch"], last["step"]) == (2, 8)
    assert trainer.callback_metrics["probe_val/student/linear"] == last["probe_val/student/linear"]


@pytest.mark.parametrize(("max_steps", "epochs"), [(6, [0, 1, 1.5]), (8, [0, 1, 2]), (3, [0, 0.75])])
def test_max_steps_ends_with_a_point(tmp_path, max_steps, epochs):
    fit(tmp_path, max_steps=max_steps, max_epochs=-1)
    assert [row["probe/epoch"] for row in points(tmp_path)] == epochs
    assert points(tmp_path)[-1]["step"] == max_steps


def test_accumulated_gradients_count_optimizer_steps(tmp_path):
    fit(tmp_path, accumulate_grad_batches=2, max_epochs=2)
    assert [(row["step"], row["probe/epoch"]) for row in points(tmp_path)] == [(0, 0), (2, 1), (4, 2)]


def test_a_resumed_run_repeats_no_point(tmp_path):
    class Save(Checkpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    fit(tmp_path / "whole", Module(probe_epochs=[2]), callbacks=[Save()], enable_checkpointing=True)
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append((trainer.global_step, trainer.callback_metrics["probe/student/knn"].item()))

    resumed, _ = fit(tmp_path / "resumed", Module(probe_epochs=[2]), ckpt_path=tmp_path / "1.ckpt", callbacks=[Look()])
    assert [row["probe/epoch"] for row in points(tmp_path / "resumed")] == [4]
    assert seen[0] == (8, points(tmp_path / "whole")[1]["probe/student/knn"])
    assert resumed.probe_callback.state_dict()["step"] == 16


class Seeds(KNNProbe):
    """Notes the seeds that it is given."""

    def __init__(self):
        super().__init__(k=5)
        self.seen = []

    def fit_predict(self, train_x, train_y, x, num_classes, seed):
        self.seen.append(seed)
        return super().fit_predict(train_x, train_y, x, num_classes, seed)


def test_the_test_after_a_resumed_fit_has_the_seed_of_the_fit(tmp_path):
    """Resuming brings back the random states of the first run, and with them its seed."""
    _, trainer = fit(tmp_path, callbacks=[ExactResume()], max_epochs=1, logger=False)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    seeds = Seeds()
    torch.manual_seed(5)
    expected = stream_seed("probe")
    module, trainer = Module([seeds]), make_trainer(tmp_path, callbacks=[ExactResume()], max_epochs=2, logger=False)
    trainer.fit(module, datamodule=Data(), ckpt_path=tmp_path / "first.ckpt")
    points_seen = len(seeds.seen)
    assert points_seen > 0
    assert stream_seed("probe") != expected
    trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    assert len(seeds.seen) > points_seen
    assert set(seeds.seen) == {expected}
    torch.manual_seed(6)
    seeds.seen.clear()
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, datamodule=Data())
    assert set(seeds.seen) == {stream_seed("probe", 6)}


@pytest.mark.parametrize("method", ["fit", "validate", "test"])
def test_more_neighbours_than_samples_are_refused_before_anything_runs(tmp_path, method):
    module = Module([LinearProbe(), KNNProbe(k=61, name="near")])
    message = "probes: k=61 of 'near' is more than the 60 samples that probes are trained on; lower k"
    with pytest.raises(ValueError, match=message) as caught:
        getattr(make_trainer(tmp_path), method)(module, datamodule=Data())
    assert "\n" not in str(caught.value)
    assert module.student.embeds == 0
    module = Module([KNNProbe(k=31)])
    with pytest.raises(ValueError, match="k=31 of 'knn' is more than the 30 samples"):
        getattr(make_trainer(tmp_path), method)(module, datamodule=ImageDataModule(probe_train_size=30))
    make_trainer(tmp_path / "plain", max_epochs=1).fit(Module([KNNProbe(k=60)]), datamodule=Data())


def test_validate_and_test_probe_their_own_split(tmp_path):
    module = Module()
    trainer = make_trainer(tmp_path)
    (validated,) = trainer.validate(module, datamodule=Data(), verbose=False)
    (tested,) = trainer.test(module, datamodule=Data(), verbose=False)
    assert validated.keys() == names("probe_val") | {"val/size"}
    assert tested.keys() == names("probe") | {"test/size"}
    for subject in SUBJECTS:
        assert tested[f"probe/{subject}/knn"] == measure_by_hand(module, subject, "test")["knn"]
        assert validated[f"probe_val/{subject}/linear"] == measure_by_hand(module, subject, "val")["linear"]


def test_validation_and_sanity_check_in_a_fit_take_no_points(tmp_path):
    fit(tmp_path, num_sanity_val_steps=2, val_check_interval=0.5, max_epochs=2)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["probe/student/knn"]) for row in rows) == 3
    assert sum(bool(row["val/size"]) for row in rows) == 4


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_features_follow_the_trainers_precision(tmp_path, precision):
    seen = []

    class Look(KNNProbe):
        def fit_predict(self, train_x, *args):
            seen.append((train_x.dtype, train_x.shape[1], torch.equal(train_x, train_x.bfloat16().float())))
            return super().fit_predict(train_x, *args)

    fit(tmp_path, Module([Look(k=5)]), max_epochs=1, precision=precision)
    assert {dtype for dtype, _, _ in seen} == {torch.float32}
    embedded = [rounded for _, width, rounded in seen if width == 8]
    assert embedded == [precision != "64-true"] * 3


class Bytes(Data):
    """Integers that a loader makes into images of the default floating-point type, as stores of images do."""

    def loader(self, name, **options):
        def collate(items):
            images, labels = zip(*items, strict=True)
            return torch.stack(images).to(torch.get_default_dtype()) / 255 - 0.3, torch.tensor(labels)

        images, labels = draw_split(name)
        stored = TensorDataset((images * 50 + 128).clamp(0, 255).byte(), labels)
        return DataLoader(stored, batch_size=16, collate_fn=collate, **options)


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_images_are_made_as_in_training_whatever_the_precision(tmp_path, precision, dtype):
    """In float32, and then converted: not in the default type of the block that runs the network."""
    seen = []

    class Look(KNNProbe):
        def fit_predict(self, train_x, *args):
            seen.append(train_x)
            return super().fit_predict(train_x, *args)

    module, data = Module([Look(k=5)]), Bytes()
    make_trainer(tmp_path, precision=precision).test(module, datamodule=data, verbose=False)
    batches = [batch[0] for batch in data.loader("train")]
    images = torch.cat(batches)
    assert images.dtype == torch.float32
    student = Module([]).student.eval().to(dtype)
    with torch.no_grad():
        expected = torch.cat([student.layers(batch.to(dtype)).float() for batch in batches])  # in the batches probed
    for found in seen[1:]:
        assert found.dtype == torch.float32
    assert torch.equal(seen[0], images.flatten(1))
    torch.testing.assert_close(seen[2], expected, rtol=0, atol=0)


def test_progress_bar_shows_the_students_first_probe(tmp_path):
    shown = []

    class Bar(TQDMProgressBar):
        def on_train_batch_end(self, trainer, pl_module, *args):
            shown.append(self.get_metrics(trainer, pl_module).get("student/linear"))

        def init_train_tqdm(self):
            bar = super().init_train_tqdm()
            bar.disable = True
            return bar

    fit(tmp_path, callbacks=[Bar()], enable_progress_bar=True, max_epochs=2, limit_val_batches=0)
    first, second, _ = (row["probe/student/linear"] for row in points(tmp_path))
    assert shown == [first] * 4 + [second] * 4


def test_without_a_logger(tmp_path):
    _, trainer = fit(tmp_path, logger=False, max_epochs=1)
    assert names("probe") <= trainer.callback_metrics.keys()


def test_splits_limited_to_nothing_are_left_out(tmp_path):
    fit(tmp_path / "a", limit_val_batches=0, limit_train_batches=1, max_epochs=1)
    assert all(names("probe") <= row.keys() and not names("probe_val") & row.keys() for row in points(tmp_path / "a"))
    fit(tmp_path / "b", limit_test_batches=0, limit_train_batches=1, max_epochs=1)
    assert all(names("probe_val") <= row.keys() and not names("probe") & row.keys() for row in points(tmp_path / "b"))
    fit(tmp_path / "c", data=Data(("train", "test")), limit_train_batches=1, max_epochs=1)
    assert points(tmp_path / "a")[0] == points(tmp_path / "c")[0]


def test_fast_dev_run_probes_the_first_batches(tmp_path):
    seen = []

    class Look(KNNProbe):
        def fit_predict(self, train_x, train_y, x, *args):
            seen.append((len(train_x), len(x)))
            return super().fit_predict(train_x, train_y, x, *args)

    fit(tmp_path, Module([Look(k=20)]), fast_dev_run=2)
    assert seen == [(32, 24 + 20)] * 4  # input, teacher, student; student


def test_loaders_given_to_the_trainer(tmp_path):
    """A shuffled loader is probed in the data set's order, and its own draws stay as they were."""
    data = Data()
    for name, probes in (("probed", None), ("plain", [])):
        module, trainer = Module(probes), make_trainer(tmp_path / name, max_epochs=2)
        torch.manual_seed(0)
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
        if name == "probed":
            found = points(tmp_path / name)
            weights = module.student.state_dict()
            (tested,) = trainer.test(module, data.test_dataloader(), verbose=False)
            assert measure_by_hand(module, "student", "test")["knn"] == tested["probe/student/knn"]
    fit(tmp_path / "ours", max_epochs=2)
    measures = ("rankme", "alpha_req", "effective_rank")
    keys = names("probe_val") | {"probe/epoch", "step"}
    keys |= {f"collapse/{network}/{measure}" for network in ("teacher", "student") for measure in measures}
    assert [{key: row[key] for key in keys} for row in points(tmp_path / "ours")] == found
    assert all(torch.equal(weights[name], value) for name, value in module.student.state_dict().items())


def test_nothing_to_probe_on_is_said(tmp_path):
    module, trainer = Module(), make_trainer(tmp_path)
    with pytest.raises(
        UserWarning, match=r"No probing: it needs train and one of \('test',\), and there is \['test'\]"
    ):
        trainer.test(module, Data().test_dataloader(), verbose=False)


def test_several_loaders_are_refused(tmp_path):
    data = Data()
    with pytest.raises(ValueError, match=r"one loader per split, got 2; give a data module with probe_dataloaders\(\)"):
        make_trainer(tmp_path).fit(Module(), [data.train_dataloader()] * 2, data.val_dataloader())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([LinearProbe(), LinearProbe(standardize=True)],), "'linear' is the name of 2 probes; give each its own name"),
        (([], 0), "probe_epochs=0: must be at least 1, or a list of epochs"),
        (([], [1, -2]), r"probe_epochs=\[1, -2\]: must not hold a negative epoch"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProbeCallback(*arguments)


class Tell(Callback):
    """Writes what each process knows at the end."""

    def __init__(self, path):
        self.path = path

    def on_fit_end(self, trainer, pl_module):
        known = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("probe")}
        embeds = pl_module.teacher.embeds  # before they are counted here too
        by_hand = {subject: measure_by_hand(pl_module, subject, "test") for subject in SUBJECTS}
        text = json.dumps({"known": known, "embeds": embeds, "by_hand": by_hand})
        (self.path / f"{trainer.global_rank}.json").write_text(text)


def test_two_processes_share_the_work_and_know_what_one_would(tmp_path):
    if torch.cuda.is_initialized():
        pytest.skip("CUDA, used by an earlier test, does not survive the fork")
    seed_everything(0, verbose=False)
    trainer = make_trainer(
        tmp_path, devices=2, strategy="ddp_fork", callbacks=[Tell(tmp_path)], max_epochs=1, limit_val_batches=0
    )
    trainer.fit(Module(), datamodule=Data())
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["known"] == second["known"]
    assert first["known"].keys() == names("probe") | {"probe/epoch"}
    # of the four training and two test batches each process ran the teacher on half, once
    assert (first["embeds"], second["embeds"]) == (3, 3)
    for report in (first, second):
        for subject, accuracy in report["by_hand"].items():
            assert {probe: report["known"][f"probe/{subject}/{probe}"] for probe in accuracy} == accuracy
    assert len(points(tmp_path)) == 2


def test_extraction_is_what_the_callback_probes():
    """The loaders' batches here are plain pairs; the input is the image, flattened."""
    x, y = extract_features(nn.Identity(), Data().probe_dataloaders()["val"], CPU)
    images, labels = draw_split("val")
    assert torch.equal(x, images.flatten(1))
    assert torch.equal(y, labels)
