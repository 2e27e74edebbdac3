"""SelfDistillation in a plain Trainer, without our command: the exact statements of the paper's setting."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from dinopl import ImageDataModule, SelfDistillation
from dinopl.core.divergences import kl_divergence
from dinopl.core.schedules import ConcatenatedSchedule, CosineSchedule, LinearSchedule, WarmupCosine
from dinopl.core.types import ImageShape
from dinopl.data import Chain, CropFlip, InputTargets, LabelNoise, LogitNoise, MultiCrop, WholeImage
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.losses import CrossEntropyViews, KLViews, MSEViews
from dinopl.distillation.student_start import IndependentStart, InterpolatedStart
from dinopl.distillation.teachers import EMATeacher, FrozenTeacher, PreviousEpochTeacher
from dinopl.encoders import MiniVGG, ResNet18
from dinopl.probes import KNNProbe

DIGITS = ImageShape(1, 8, 8)
HEAD = partial(ProjectionHead, hidden=(32, 32), bottleneck_dim=16, out_dim=128)
ADAM = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed_everything(0, verbose=False)


def module(**options: Any) -> SelfDistillation:
    defaults: dict[str, Any] = {"encoder": partial(MiniVGG, widths=(8, 8, 16)), "head": HEAD, "optimizer": ADAM}
    return SelfDistillation(DIGITS, **(defaults | options))


def data(**options: Any) -> ImageDataModule:
    return ImageDataModule(**({"batch_size": 64} | options))


def trainer(steps: int, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "limit_val_batches": 0,
    }
    return Trainer(**(defaults | options))


def fit(model: SelfDistillation, steps: int, datamodule: LightningDataModule | None = None, **options: Any) -> Trainer:
    runner = trainer(steps, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*module.s. in eval mode.*")
        warnings.filterwarnings("ignore", ".*limit_val_batches.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        runner.fit(model, datamodule=datamodule or data())
    return runner


def vector(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in network.parameters()])


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_with_mse_a_student_at_its_teacher_never_moves(precision: Any) -> None:
    """Both compute the same batch, so their logits are equal bit for bit on any processor."""
    model = module(loss=MSEViews())
    before = snapshot(model.student)
    runner = fit(model, 20, precision=precision)
    assert runner.global_step == 20
    assert not model.teacher_cache.filled
    assert all(torch.equal(value, before[name]) for name, value in model.student.state_dict().items())


def test_with_cross_entropy_the_kl_starts_at_zero_and_the_student_leaves() -> None:
    paper = {"encoder": MiniVGG, "head": partial(ProjectionHead, hidden=(256, 256), bottleneck_dim=64, out_dim=1024)}
    model = module(cache_teacher=False, **paper)
    teacher = snapshot(model.teacher)
    images = torch.randn(64, *DIGITS)
    with torch.no_grad():
        assert kl_divergence(model.student(images), model.teacher(images)).abs().max() < 1e-6
    start = vector(model.student)
    fit(model, 20, data(batch_size=128))
    assert (vector(model.student) - start).norm() > 1.0
    assert all(torch.equal(value, teacher[name]) for name, value in model.teacher.state_dict().items())


def test_the_teachers_batch_norm_never_sees_a_batch() -> None:
    model = module(encoder=ResNet18)
    fit(model, 2, data(batch_size=8, train_size=40))
    teacher, student = model.teacher.state_dict(), model.student.state_dict()
    means = [name for name in teacher if name.endswith("running_mean")]
    assert len(means) == 20
    assert all(not teacher[name].any() for name in means)
    assert all(bool((value == 1).all()) for name, value in teacher.items() if name.endswith("running_var"))
    assert any(student[name].any() for name in means)


@pytest.mark.parametrize("start", [None, IndependentStart(), InterpolatedStart(0.3)])
def test_cached_and_uncached_teachers_train_alike(start: Any) -> None:
    cached, uncached = (module(student=start, cache_teacher=flag) for flag in (True, False))
    assert torch.equal(vector(cached.student), vector(uncached.student))
    for model in (cached, uncached):  # in float64: AdamW turns the rounding of a gradient near zero into whole steps
        fit(model, 20, precision="64-true")
    assert cached.teacher_cache.filled
    assert not uncached.teacher_cache.filled
    assert (vector(cached.student) - vector(uncached.student)).abs().max() < 1e-6


def test_the_cache_is_used_only_where_it_changes_rounding_at_most() -> None:
    automatic = module()
    fit(automatic, 1)
    assert automatic.teacher_cache.filled
    for model, datamodule in (
        (module(), data(views=[CropFlip()])),
        (module(teacher=FrozenTeacher(batch_norm="train")), data()),
        (module(head=partial(nn.Linear, out_features=32)), data()),
        (module(loss=MSEViews()), data()),
    ):
        fit(model, 1, datamodule)
        assert not model.teacher_cache.filled


@pytest.mark.parametrize(
    ("options", "datamodule", "why"),
    [
        ({}, {"views": [CropFlip()]}, "the views are random"),
        ({"teacher": FrozenTeacher(batch_norm="train")}, {}, "batch statistics"),
        ({"head": partial(nn.Linear, out_features=32)}, {}, "no bottleneck"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(options: dict[str, Any], datamodule: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"cache_teacher=True: .*{why}"):
        fit(module(cache_teacher=True, **options), 1, data(**datamodule))


def test_only_the_students_parameters_are_optimised_and_biases_do_not_decay() -> None:
    model = module(optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5))
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.student.parameters()}
    before = {name: p.detach().clone() for name, p in model.student.named_parameters()}
    for p in model.student.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.student.named_parameters():
        shrunk = 1.0 if name.endswith("bias") else 1 - 0.1 * 0.5
        torch.testing.assert_close(p.detach(), before[name] * shrunk)


def test_the_training_kl_is_what_plain_torch_computes() -> None:
    """Twenty steps against a hand-written loop on the same batches."""
    model, reference = (module(student=IndependentStart(), loss=KLViews()) for _ in range(2))
    datamodule = data()
    runner = fit(model, 20, datamodule, precision="64-true")  # AdamW would magnify the rounding of float32
    reference.double()
    optimizer = torch.optim.AdamW(reference.student.parameters(), lr=1e-3, weight_decay=0.0)
    datamodule = data()
    datamodule.setup("fit")
    loader, losses = datamodule.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            if len(losses) == 20:
                break
            view = batch["views"][0].double()
            p = reference.student(view).log_softmax(-1)
            q = reference.teacher(view).detach().softmax(-1)
            loss = (q * (q.log() - p)).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert runner.callback_metrics["train/kl"].item() == pytest.approx(losses[-1], rel=1e-6)
    torch.testing.assert_close(vector(model.student), vector(reference.student), atol=1e-9, rtol=0)


def test_shares_weigh_ragged_batches() -> None:
    model = module(student=IndependentStart())
    batch = {"views": [torch.randn(4, *DIGITS)], "label": torch.zeros(4), "index": torch.arange(4)}
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    assert model.training_step(batch | {"share": 0.5}, 0) == model.training_step(batch, 0) * 0.5


class PlainData(LightningDataModule):
    """Somebody else's data: plain loaders of images and labels."""

    def __init__(self) -> None:
        super().__init__()
        labels = torch.arange(60) % 3
        images = torch.randn(60, *DIGITS) + labels[:, None, None, None]
        self.set = TensorDataset(images, labels)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.set, 20, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.set, 20)


def test_plain_batches_are_accepted_and_probed() -> None:
    model = module(probes=[KNNProbe(k=3)])
    runner = fit(model, 6, PlainData(), limit_val_batches=1.0)
    assert runner.callback_metrics["probe_val/student/knn"] > 0.5
    assert runner.callback_metrics["val/kl"] >= 0
    assert not model.teacher_cache.filled


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_learns(precision: Any) -> None:
    model = module(student=IndependentStart())
    seen: list[tuple[torch.dtype, float]] = []

    def note(terms: Any) -> Any:
        seen.append((terms[0].dtype, float(terms[1].mean())))
        return terms

    model.loss.register_forward_hook(lambda _, __, terms: note(terms))
    fit(model, 40, precision=precision)
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert {dtype for dtype, _ in seen} == {expected}
    assert seen[-1][1] < seen[0][1] / 2


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_schedules_move_when_they_should(interval: Any) -> None:
    model = module(lr_scheduler=partial(LambdaLR, lr_lambda=lambda n: 0.5**n), lr_scheduler_interval=interval)
    runner = fit(model, 36, data(batch_size=128))  # 9 and a bit batches an epoch: 10 steps
    moved = {"step": 36, "epoch": 3}[interval]
    assert runner.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**moved)


def test_a_plateau_schedule_watches_the_validation_loss() -> None:
    configured = module(lr_scheduler=ReduceLROnPlateau).configure_optimizers()
    assert isinstance(configured, dict)
    assert configured["lr_scheduler"]["monitor"] == "val/loss"  # type: ignore[index]


def test_a_teacher_rule_is_told_of_steps_not_of_batches() -> None:
    class Counting(FrozenTeacher):
        steps: list[int] = []  # noqa: RUF012
        epochs: list[int] = []  # noqa: RUF012

        def after_step(self, teacher: nn.Module, student: nn.Module, step: int) -> None:
            self.steps.append(step)

        def after_epoch(self, teacher: nn.Module, student: nn.Module, epoch: int) -> None:
            self.epochs.append(epoch)

    fit(module(teacher=Counting()), 10, data(batch_size=128), accumulate_grad_batches=2)
    assert Counting.steps == list(range(1, 11))
    assert Counting.epochs == [0, 1]


def test_training_resumes_bit_for_bit_at_an_epoch_end(tmp_path: Path) -> None:
    def epochs(count: int, checkpoint: Path | None) -> SelfDistillation:
        seed_everything(0, verbose=False)
        model, runner = module(), trainer(-1, max_epochs=count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner.fit(model, datamodule=data(), ckpt_path=checkpoint, weights_only=True)
            runner.save_checkpoint(tmp_path / f"{count}.ckpt")
        return model

    epochs(2, None)
    resumed = epochs(4, tmp_path / "2.ckpt")
    straight = epochs(4, None)
    assert torch.equal(vector(resumed.student), vector(straight.student))


def test_draws_have_streams_of_their_own() -> None:
    torch.rand(7)  # what else consumes random numbers changes nothing
    one = module(student=IndependentStart())
    seed_everything(0, verbose=False)
    two = module(student=IndependentStart())
    assert torch.equal(vector(one.teacher), vector(two.teacher))
    assert torch.equal(vector(one.student), vector(two.student))
    assert not torch.equal(vector(one.teacher), vector(one.student))
    assert not {p.data_ptr() for p in one.teacher.parameters()} & {p.data_ptr() for p in one.student.parameters()}
    seed_everything(1, verbose=False)
    assert not torch.equal(vector(module().teacher), vector(one.teacher))


def test_several_views_are_never_cached() -> None:
    views = [WholeImage(), WholeImage(8)]
    model = module(student=IndependentStart())
    fit(model, 1, data(views=views))
    assert not model.teacher_cache.filled
    with pytest.raises(ValueError, match="cache_teacher=True: there are several views"):
        fit(module(cache_teacher=True), 1, data(views=views))


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("64-true", 1e-12), ("bf16-mixed", None)])
def test_a_cached_teacher_is_the_teacher_in_every_precision(precision: Any, tolerance: float | None) -> None:
    """Up to rounding, which may depend on the size and order of a batch: logits of at most 1, in each step."""
    model = module(loss=MSEViews(), cache_teacher=True)
    views: list[Tensor] = []
    kept, online, full = [], [], []

    def compare(_: nn.Module, logits: Any) -> None:
        with torch.no_grad():
            kept.append(logits[1][0])
            online.append(model.teacher(views.pop()))

    def look(_: nn.Module, view: Any) -> None:
        views.append(view[0])
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            full.append(model.teacher(view[0]))

    model.student.register_forward_pre_hook(look)
    model.loss.register_forward_pre_hook(compare)
    fit(model, 20, precision=precision)
    assert model.teacher_cache.filled
    assert len(kept) == 20
    error = (torch.cat(kept) - torch.cat(online)).abs()
    if tolerance is None:  # kept at the precision of the encoder: in float32 nearly every logit is another number
        gap = (torch.cat(full) - torch.cat(online)).abs()
        assert error.mean() < 0.1 * gap.mean()
        assert error.max() < 3 * gap.max()
    else:
        assert error.max() < tolerance


def test_a_pairing_without_pairs_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="pairing=opposite: leaves no pair"):
        fit(module(loss=KLViews(pairing="opposite")), 1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"optimizer": None}, "optimizer=None: a student"), ({"bias_weight_decay": -1.0}, "bias_weight_decay=-1.0: must")],
)
def test_bad_options_are_refused_by_the_constructor(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        module(**options)


def test_data_without_an_image_shape_are_told_apart() -> None:
    with pytest.raises(ValueError, match="image_shape: is not known from the data; give"):
        SelfDistillation(None)  # type: ignore[arg-type]


def dino(**options: Any) -> SelfDistillation:
    """DINO at the size of a test: every part moves."""
    defaults: dict[str, Any] = {
        "teacher": EMATeacher(CosineSchedule(0.9, 1.0)),
        "loss": CrossEntropyViews("opposite", 0.1, LinearSchedule(0.04, 0.07), teacher_centre_momentum=0.9),
        "learning_rate": ConcatenatedSchedule(LinearSchedule(0.0, 1e-3), CosineSchedule(1e-3, 1e-6), 1),
        "weight_decay": CosineSchedule(0.04, 0.4),
        "freeze_last_layer": 1,
    }
    return module(**(defaults | options))


def crops(**options: Any) -> ImageDataModule:
    views = MultiCrop("2x8+2x8", [CropFlip(1)], local_scale=(0.2, 0.5))
    return data(**({"views": views, "train_size": 320, "batch_size": 64} | options))  # 5 steps an epoch


def test_dino_is_what_plain_torch_computes() -> None:
    """Twelve steps of the algorithm as the paper of DINO has it, on the same batches."""
    model, reference = dino(), dino()
    fit(model, 12, crops(), precision="64-true")  # AdamW would magnify the rounding of float32
    reference.double()
    student, teacher, total = reference.student, reference.teacher, 12
    weights = [p for name, p in student.named_parameters() if p.ndim > 1]
    biases = [p for name, p in student.named_parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0}], lr=1.0)
    datamodule = crops()
    datamodule.setup("fit")
    loader, centre, step = datamodule.train_dataloader(), torch.zeros(128).double(), 0
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            if step == total:
                break
            assert batch["teacher_views"] == [0, 1]
            assert "student_views" not in batch
            done = step / (total - 1)
            rise = 0.5 - 0.5 * torch.cos(torch.tensor(done * torch.pi).double()).item()
            t = [teacher(view.double()).detach() for view in batch["views"][:2]]
            s = [student(view.double()) for view in batch["views"]]
            q = [((x - centre) / (0.04 + 0.03 * done)).softmax(-1) for x in t]
            pairs = [(i, j) for i in range(2) for j in range(4) if i != j]
            loss = sum(-(q[i] * (s[j] / 0.1).log_softmax(-1)).sum(-1).mean() for i, j in pairs) / len(pairs)
            centre = 0.9 * centre + 0.1 * torch.cat(t).mean(0)
            optimizer.zero_grad()
            loss.backward()
            if epoch == 0:
                student.head.last_layer.weight.grad = None
            warm, rest = step / 4, 0.5 + 0.5 * torch.cos(torch.tensor((step - 5) / 6 * torch.pi).double()).item()
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * warm if step < 5 else 1e-6 + (1e-3 - 1e-6) * rest
            optimizer.param_groups[0]["weight_decay"] = 0.04 + 0.36 * rise
            optimizer.step()
            momentum = 0.9 + 0.1 * rise
            with torch.no_grad():
                for own, new in zip(teacher.parameters(), student.parameters(), strict=True):
                    own.copy_(momentum * own + (1 - momentum) * new)
            step += 1
    torch.testing.assert_close(vector(model.student), vector(student), atol=1e-9, rtol=0)
    torch.testing.assert_close(vector(model.teacher), vector(teacher), atol=1e-9, rtol=0)
    torch.testing.assert_close(model.loss.teacher_centre, centre, atol=1e-9, rtol=0)
    assert model.loss.teacher_centre is not None
    assert model.loss.teacher_centre.any()


@pytest.mark.parametrize(
    ("rule", "stop"),
    [(EMATeacher(CosineSchedule(0.9, 1.0)), 7), (PreviousEpochTeacher(), 7), (PreviousEpochTeacher(), 10)],
)
def test_dino_resumes_bit_for_bit_wherever_it_stopped(tmp_path: Path, rule: Any, stop: int) -> None:
    """Schedules over 15 steps, the teacher, its centre and the crops continue, in an epoch's middle and at its end."""

    def run(until: int, checkpoint: Path | None = None) -> SelfDistillation:
        class Stop(Callback):
            def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
                if trainer.global_step == until:  # as a checkpoint callback saves, before the module's hook
                    trainer.save_checkpoint(tmp_path / "stop.ckpt")
                    trainer.should_stop = True

        seed_everything(0, verbose=False)
        model = dino(teacher=rule)
        runner = trainer(-1, max_epochs=3, callbacks=[Stop()])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner.fit(model, datamodule=crops(), ckpt_path=checkpoint, weights_only=True)
        return model

    run(stop)
    resumed, straight = run(-1, tmp_path / "stop.ckpt"), run(-1)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_the_teacher_follows_optimiser_steps_and_not_batches() -> None:
    """Half the momentum in each step: after 2 steps of 2 batches a quarter of the start is left."""
    model = module(teacher=EMATeacher(0.5), optimizer=partial(torch.optim.SGD, lr=0.0), student=IndependentStart())
    start = vector(model.teacher)
    fit(model, 2, data(batch_size=64), accumulate_grad_batches=2)
    torch.testing.assert_close(vector(model.teacher), 0.25 * start + 0.75 * vector(model.student), atol=1e-7, rtol=0)


def test_a_training_shorter_than_its_warm_up_is_said() -> None:
    """A whole number is epochs: a warm-up of two in a training of one never ends."""
    model = dino(learning_rate=ConcatenatedSchedule(LinearSchedule(0.0, 1e-3), CosineSchedule(1e-3, 1e-6), 2))
    with pytest.raises(UserWarning, match=r"after 5 steps, 5 an epoch.* \(learning_rate: where=2 is step 10\)"):
        fit(model, 5, crops())


def test_the_last_layer_stays_for_the_first_epochs() -> None:
    model = dino(freeze_last_layer=2, learning_rate=None)
    start = snapshot(model.student)
    fit(model, 10, crops())  # two epochs
    moved = {name for name, value in model.student.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == set(start) - {"head.last_layer.weight"}
    model = dino(freeze_last_layer=2, learning_rate=None)
    fit(model, 11, crops())
    assert not torch.equal(model.student.state_dict()["head.last_layer.weight"], start["head.last_layer.weight"])


def test_a_cosine_schedule_lasts_for_the_whole_training_by_itself() -> None:
    model = module(lr_scheduler=WarmupCosine, lr_scheduler_interval="step")
    runner = fit(model, 6, data(batch_size=128))
    assert runner.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)


def test_evaluation_shows_both_the_whole_image_and_leaves_centre_and_teacher() -> None:
    model = dino()
    runner = fit(model, 5, crops(), limit_val_batches=1.0)
    assert runner.callback_metrics["val/loss"] > 0
    before = snapshot(model)
    runner.validate(model, datamodule=crops(), verbose=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_is_evaluated_at_the_temperatures_of_its_last_step(tmp_path: Path) -> None:
    model = dino()
    fit(model, 10, crops()).save_checkpoint(tmp_path / "end.ckpt")
    other = dino()
    other.on_load_checkpoint(torch.load(tmp_path / "end.ckpt", weights_only=True))
    assert other.loss.teacher_temperature == model.loss.teacher_temperature == pytest.approx(0.07)


@pytest.mark.parametrize(
    ("options", "datamodule", "why"),
    [
        ({"learning_rate": LinearSchedule(0, 1), "lr_scheduler": WarmupCosine}, {}, "learning_rate: lr_scheduler sets"),
        ({"freeze_last_layer": 1, "head": partial(nn.Linear, out_features=8)}, {}, "freeze_last_layer=1: the head has"),
        ({}, {"views": MultiCrop("1x8")}, "pairing=opposite: leaves no pair of 1 teacher and 1 student views"),
        ({}, {"views": [Chain([WholeImage()], role="student")]}, "views: leave the teacher without any"),
        ({}, {"views": [Chain([WholeImage()], role="teacher")]}, "views: leave the student without any"),
    ],
)
def test_settings_of_dino_that_cannot_be_are_refused(
    options: dict[str, Any], datamodule: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        fit(dino(**options), 1, data(**datamodule))


def test_a_schedule_needs_an_end_of_training() -> None:
    with pytest.raises(ValueError, match="max_epochs=-1: schedules last as long as the training"):
        fit(dino(), -1, crops(), max_epochs=-1)


@pytest.mark.parametrize(
    ("loss", "targets", "width"),
    [
        (CrossEntropyViews(), None, 10),
        (MSEViews(), None, 10),
        (KLViews(), LogitNoise(0.1, 16), 16),
        (MSEViews(), InputTargets(), 64),
    ],
)
def test_a_supervised_student_learns_labels_logits_and_inputs(loss: Any, targets: Any, width: int) -> None:
    """One step against plain torch, and 60 steps that lower the loss where there is more than noise to learn."""
    head = partial(ProjectionHead, hidden=(32,), bottleneck_dim=16, out_dim=width, weight_norm=False)
    model = module(loss=loss, head=head, supervised=True, num_classes=10)
    datamodule = data(targets=targets)
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    found = model.training_step(batch, 0)
    s = model.student(batch["views"][0])
    target = batch.get("target", torch.nn.functional.one_hot(batch["label"], 10).float())
    q = target.softmax(-1) if "target" in batch else target
    expected = (s - target).square().mean() if isinstance(loss, MSEViews) else -(q * s.log_softmax(-1)).sum(-1).mean()
    if isinstance(loss, KLViews):
        expected = expected + (q * q.log()).sum(-1).mean()
    torch.testing.assert_close(found, expected)
    del model.log
    model.optimizer = partial(torch.optim.AdamW, lr=1e-2)
    runner = fit(model, 60, data(targets=targets), limit_val_batches=1.0)
    assert isinstance(targets, LogitNoise) or runner.callback_metrics["train/loss"] < 0.9 * found
    assert ("val/accuracy" in runner.callback_metrics) == (targets is None)


def test_labels_that_are_all_noise_teach_no_class_but_features() -> None:
    """Validation accuracy is chance; a probe on the encoder finds the classes all the same."""
    head = partial(ProjectionHead, hidden=(32,), bottleneck_dim=16, out_dim=10, weight_norm=False)
    model = module(head=head, supervised=True, num_classes=10, probes=[KNNProbe(k=5)])
    runner = fit(model, 60, data(targets=LabelNoise(1.0)), limit_val_batches=1.0)
    assert runner.callback_metrics["val/accuracy"] < 0.25  # of 130 images by chance 0.1; five deviations are 0.13
    assert runner.callback_metrics["probe_val/student/knn"] > 0.5
