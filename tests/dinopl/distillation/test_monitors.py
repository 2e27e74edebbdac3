"""Each watched quantity against numpy or plain loops; training is left alone, and the start is known after a resume."""

import csv
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from dinopl.core.schedules import LinearSchedule
from dinopl.core.types import ImageShape
from dinopl.data import ImageDataModule, WholeImage
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.losses import CrossEntropyViews
from dinopl.distillation.module import SelfDistillation
from dinopl.distillation.monitors import (
    Monitors,
    feature_statistics,
    gradient_variance,
    paired_statistics,
    parameter_statistics,
    pseudo_label_accuracy,
)
from dinopl.distillation.student_start import IndependentStart
from dinopl.distillation.teachers import EMATeacher, FrozenTeacher
from dinopl.encoders import ConvNet, MiniVGG

DIGITS = ImageShape(1, 8, 8)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_feature_statistics_equal_numpy() -> None:
    x = draw(20, 7) @ draw(7, 9, seed=1) + 3
    a = x.double().numpy()
    singular = np.linalg.svd(a - a.mean(0), compute_uv=False)
    shares = np.cumsum(singular) / singular.sum()
    correlation = np.corrcoef(a)
    upper = np.triu_indices(20, 1)
    distances = np.linalg.norm(a[:, None] - a[None], axis=2)
    expected = {
        "mean/mean": a.mean(0).mean(),
        "mean/std": a.mean(0).std(ddof=1),
        "std/mean": a.std(0, ddof=1).mean(),
        "std/std": a.std(0, ddof=1).std(ddof=1),
        "rank": 8,  # seven directions and the mean
        "components/explained=0.5": (shares <= 0.5).sum(),
        "components/explained=0.95": (shares <= 0.95).sum(),
        "correlation/mean": correlation[upper].mean(),
        "correlation/rank": np.linalg.matrix_rank(correlation.astype(np.float32)),
        "pairwise_distance": distances[upper].mean(),
    }
    found = feature_statistics(x, explained=(0.5, 0.95))
    assert found == pytest.approx(expected, rel=1e-9)
    assert feature_statistics(torch.ones(5, 3))["rank"] == 1
    assert "mean/std" not in feature_statistics(draw(5, 1))


def test_paired_statistics_equal_numpy() -> None:
    a, b = draw(11, 6).double().numpy(), draw(11, 6, seed=1).double().numpy()
    distance = np.linalg.norm(a - b, axis=1)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = {"distance": distance.mean(), "rmse": np.sqrt(((a - b) ** 2).mean(1)).mean(), "cosine": cosine.mean()}
    assert paired_statistics(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-9)


def test_pseudo_labels_are_those_of_the_mean_softmax() -> None:
    """Of two views, one that is sure outweighs one that is not, which a mean of logits or a vote would not show."""
    sure, unsure = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.2]])
    assert pseudo_label_accuracy([sure, unsure], [torch.tensor([[9.0, 0.0, 0.0]])]) == 1
    assert pseudo_label_accuracy([unsure], [sure]) == 0
    s, t = [draw(40, 5, seed=i) for i in range(3)], [draw(40, 5, seed=i) for i in range(3, 5)]

    def classes(views: list[Tensor]) -> Any:
        exponentials = [np.exp(view.double().numpy()) for view in views]
        return sum(e / e.sum(1, keepdims=True) for e in exponentials).argmax(1)

    assert pseudo_label_accuracy(s, t) == (classes(s) == classes(t)).mean()


def test_parameter_statistics_equal_numpy() -> None:
    shapes = {"encoder.weight": (4, 3), "head.weight": (5, 4), "head.bias": (5,)}
    pieces = [{name: draw(*shape, seed=10 * i + len(name)) for name, shape in shapes.items()} for i in range(5)]
    pieces[4].pop("head.bias")  # no gradient, which is 0
    s, t, s0, t0, g = (
        np.concatenate([piece.get(name, torch.zeros(shape)).double().numpy().ravel() for name, shape in shapes.items()])
        for piece in pieces
    )
    vectors = {"student": s, "teacher": t, "gradient": g, "difference": t - s}
    vectors |= {"student_move": s - s0, "teacher_move": t - t0}

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    expected = {f"norm/{name}": np.linalg.norm(v) for name, v in vectors.items()}
    expected |= {f"rms/{name}": np.sqrt((v**2).mean()) for name, v in vectors.items()}
    expected |= {"cosine/student_teacher": cosine(s, t), "cosine/gradient_difference": cosine(g, t - s)}
    expected |= {"cosine/moves": cosine(s - s0, t - t0)}
    expected |= {f"{kind}/{name}": 0 for kind in ("nans", "infs") for name in ("student", "teacher", "gradient")}
    assert parameter_statistics(*pieces) == pytest.approx(expected, rel=1e-5)  # of differences in float32
    pieces[0]["head.bias"][:2] = torch.tensor([torch.nan, torch.inf])
    found = parameter_statistics(*pieces)
    assert (found["nans/student"], found["infs/student"], found["nans/teacher"]) == (1, 1, 0)
    at_start = parameter_statistics(pieces[1], pieces[1], pieces[1], pieces[1], {})
    assert at_start["norm/difference"] == at_start["norm/student_move"] == at_start["norm/gradient"] == 0
    assert np.isnan(at_start["cosine/moves"])


def small(**options: Any) -> SelfDistillation:
    seed_everything(0, verbose=False)
    defaults: dict[str, Any] = {
        "encoder": partial(MiniVGG, widths=(4, 8)),
        "head": partial(ProjectionHead, hidden=(16,), bottleneck_dim=8, out_dim=32),
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
        "student": IndependentStart(),
        "loss": CrossEntropyViews(teacher_temperature=0.5),
    }
    return SelfDistillation(DIGITS, **(defaults | options))


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_the_gradients_variance_equals_a_loop(chunk: int) -> None:
    layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = draw(5, 3).double()
    gradients = []
    for row in x:
        layer.zero_grad()
        layer(row).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]))
    stacked = torch.stack(gradients)
    expected = (stacked - stacked.mean(0)).square().sum() / 4

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (row,)).square().sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    assert sum(gradient_variance(loss, parameters, x, chunk=chunk).values()) == pytest.approx(expected.item(), rel=1e-9)
    with pytest.raises(ValueError, match="samples: 1 have no variance"):
        gradient_variance(loss, parameters, x[:1])


class Watch(Callback):
    """What monitors should log, by plain means: before each step of the optimiser."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        module: Any = pl_module
        modes = [part.training for part in module.modules()]
        module.eval()
        with torch.no_grad():
            x = batch["views"][0]
            p, q = module.student(x).double().softmax(1), (module.teacher(x).double() / 0.5).softmax(1)
        for part, training in zip(module.modules(), modes, strict=True):
            part.training = training
        row = {
            "outputs/kl": (q * (q.log() - p.log())).sum(1).mean(),
            "outputs/student_entropy": -(p * p.log()).sum(1).mean(),
            "outputs/teacher_entropy": -(q * q.log()).sum(1).mean(),
        }
        self.rows.append({name: value.item() for name, value in row.items()})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        module: Any = pl_module
        student, teacher = vector(module.student), vector(module.teacher)
        self.start = student if len(self.rows) == 1 else self.start
        gradient = torch.cat([p.grad.flatten().double() for p in module.student.parameters()])
        row = {"gradient": gradient, "difference": teacher - student, "student_move": student - self.start}
        self.rows[-1] |= {f"params/all/norm/{name}": value.norm().item() for name, value in row.items()}


def vector(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in network.parameters()])


def fit(path: Path, model: SelfDistillation, *callbacks: Callback, **options: Any) -> list[dict[str, float]]:
    """Rows that were logged, by step."""
    logger = CSVLogger(path, name="", version="")
    source, datamodule = options.pop("source", None), options.pop("data", None)
    trainer = Trainer(
        **{"max_steps": 4, "accelerator": "cpu", "logger": logger, "callbacks": list(callbacks)}
        | {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        | {"limit_val_batches": 0, "default_root_dir": str(path)}
        | options
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*module.s. in eval mode.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")
        trainer.fit(model, datamodule=datamodule or ImageDataModule(batch_size=32), ckpt_path=source)
    rows: dict[int, dict[str, float]] = {}
    if (path / "metrics.csv").is_file():
        with (path / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                known = {name: float(value) for name, value in row.items() if value and name.startswith(KINDS)}
                rows.setdefault(int(row["step"]), {}).update(known)
    return [rows[step] for step in sorted(rows) if rows[step]]


KINDS = ("params", "outputs", "hparams", "features")
EVERY: dict[str, Any] = dict.fromkeys(("parameters_every", "outputs_every", "features_every"), 1)


def test_logged_values_are_those_of_plain_means_and_training_is_left_alone(tmp_path: Path) -> None:
    # BatchNorm, whose running averages a look in training mode would move
    alone, watched, watch = *(small(encoder=partial(ConvNet, width=2)) for _ in range(2)), Watch()
    fit(tmp_path / "alone", alone, logger=False)
    monitors = Monitors(**EVERY, gradient_variance_every=2, gradient_samples=6, features=("encoder", "logits"))
    rows = fit(tmp_path / "watched", watched, monitors, watch)
    a, b = alone.state_dict(), watched.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(rows) == len(watch.rows) == 4
    for found, expected in zip(rows, watch.rows, strict=True):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert [row["params/all/norm/student_move"] > 0 for row in rows] == [False, True, True, True]
    assert ["params/head/gradient_variance" in row for row in rows] == [True, False, True, False]
    first = rows[0]
    whole, encoder, head = (first[f"params/{part}/gradient_variance"] for part in ("all", "encoder", "head"))
    assert whole == pytest.approx(encoder + head)
    assert head > 0
    for name in ("features/encoder/student/rank", "features/logits/teacher/pairwise_distance", "hparams/lr"):
        assert name in first
    assert first["hparams/teacher_temperature"] == 0.5


def test_intervals_and_off_switches(tmp_path: Path) -> None:
    rows = fit(tmp_path, small(), Monitors(parameters_every=2, outputs_every=3, features_every=0))
    kinds = [{name.split("/")[0] for name in row} for row in rows]
    assert kinds == [{"params", "outputs", "hparams"}, {"params"}, {"outputs", "hparams"}]  # steps 0, 2, 3
    rows = fit(tmp_path / "accumulated", small(), Monitors(**EVERY), max_steps=2, accumulate_grad_batches=3)
    assert len(rows) == 2


def test_numbers_are_those_of_the_step(tmp_path: Path) -> None:
    """Schedules have moved when numbers are logged, and temperatures when outputs are looked at."""
    loss = CrossEntropyViews(teacher_temperature=LinearSchedule(0.5, 2.0), teacher_centre_momentum=0.5)
    model = small(
        learning_rate=LinearSchedule(0.0, 3e-3),
        weight_decay=LinearSchedule(0.04, 0.4),
        teacher=EMATeacher(LinearSchedule(0.9, 1.0)),
        loss=loss,
    )
    rows = fit(tmp_path, model, Monitors(**EVERY))
    expected = {"lr": (0.0, 3e-3), "weight_decay": (0.04, 0.4), "teacher_momentum": (0.9, 1.0)}
    for name, ends in (expected | {"teacher_temperature": (0.5, 2.0)}).items():
        assert [row[f"hparams/{name}"] for row in rows] == pytest.approx(np.linspace(*ends, 4)), name
    assert "hparams/teacher_centre/norm" not in rows[0]  # the first step subtracts none
    assert rows[1]["hparams/teacher_centre/norm"] > 0
    data = ImageDataModule(batch_size=32)
    data.setup("fit")
    images = next(iter(data.train_dataloader()))["views"][0]
    q = (small().teacher(images) / 0.5).softmax(1)
    assert rows[0]["outputs/teacher_entropy"] == pytest.approx(-(q * q.log()).sum(1).mean().item(), rel=1e-5)


def test_a_batch_of_one_sample_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, said = small(), ImageDataModule(batch_size=1), []
    monkeypatch.setattr("dinopl.distillation.monitors.rank_zero_warn", said.append)
    rows = fit(tmp_path, model, Monitors(**EVERY, gradient_variance_every=1), max_steps=2, data=data)
    assert said == ["Monitors: the batch at step 0 is one sample, of which there are no statistics."]
    assert [{name.split("/")[0] for name in row} for row in rows] == [{"params", "outputs", "hparams"}] * 2


def test_several_views_have_values_of_their_own(tmp_path: Path) -> None:
    data = ImageDataModule(batch_size=32, views=[WholeImage(), WholeImage()])
    row = fit(tmp_path, small(), Monitors(**EVERY), max_steps=1, data=data)[0]
    assert row["outputs/kl"] == row["outputs/kl/view=0"] == row["outputs/kl/view=1"]
    assert "outputs/teacher_entropy/view=1" in row


class FollowingTeacher(FrozenTeacher):
    """Moves half the way to the student in each step."""

    @property
    def static(self) -> bool:
        return False

    @torch.no_grad()
    def after_step(self, teacher: nn.Module, student: nn.Module, step: int) -> None:
        for own, new in zip(teacher.parameters(), student.parameters(), strict=True):
            own.lerp_(new, 0.5)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {"student": True, "teacher": False}),
        ({"student": None}, {"student": False, "teacher": False}),  # a copy of a teacher that never moves
        ({"student": None, "teacher": FollowingTeacher()}, {"student": True, "teacher": True}),
    ],
)
def test_distances_from_the_start_survive_a_resume(
    tmp_path: Path, options: dict[str, Any], kept: dict[str, bool]
) -> None:
    monitors = Monitors(parameters_every=1, outputs_every=0, features_every=0)
    whole = fit(tmp_path / "whole", small(**options), monitors, max_steps=6)
    assert monitors.state_dict()["start"] is not None
    assert {name: start is not None for name, start in monitors.state_dict()["start"].items()} == kept
    saver = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=3)
    fit(
        tmp_path / "half", small(**options), Monitors(parameters_every=1), saver, max_steps=3, enable_checkpointing=True
    )
    again = Monitors(parameters_every=1, outputs_every=0, features_every=0)
    rest = fit(tmp_path / "rest", small(**options), again, max_steps=6, source=tmp_path / "half.ckpt")
    assert len(rest) == 3
    for name in ("params/all/norm/student_move", "params/encoder/norm/teacher_move"):
        # of one machine and one batch shape; the loader goes on with the next batch
        assert [row[name] for row in rest] == [row[name] for row in whole[3:]]
        assert (whole[5][name] > 0) == (name.endswith("student_move") or kept["teacher"])


def test_a_checkpoint_without_a_start_is_said(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="bare", every_n_train_steps=2)
    fit(tmp_path / "bare", small(), saver, max_steps=2, enable_checkpointing=True)
    with pytest.raises(UserWarning, match="the checkpoint does not hold the start; distances are from step 2"):
        fit(tmp_path / "rest", small(), Monitors(), source=tmp_path / "bare.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_every": -1}, "features_every=-1: must be at least 1 step, or 0 to switch it off"),
        ({"gradient_samples": 1}, "gradient_samples=1: must be at least 2"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Monitors(**options)


def test_a_module_without_a_teacher_is_refused(tmp_path: Path) -> None:
    model = small()
    del model.teacher
    model.teacher = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Monitors needs a module with a teacher"):
        Monitors().setup(None, model, "fit")  # type: ignore[arg-type]
    model = small()
    model.loss = nn.Identity()  # type: ignore[assignment]
    Monitors().setup(None, model, "fit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gradient_variance_every=5: needs a module whose loss is a ViewLoss"):
        Monitors(gradient_variance_every=5).setup(None, model, "fit")  # type: ignore[arg-type]
