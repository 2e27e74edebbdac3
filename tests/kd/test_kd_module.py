"""KnowledgeDistillation: what a step computes, what never moves, resuming, features, text, precision."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dinopl.core.optimizer import parameter_groups
from dinopl.data import DigitsImages, ImageDataModule, WholeImage
from dinopl.training import ExactResume
from fprnn.baselines import CausalTransformer
from kd.data import DataFraction
from kd.features import CKAMatching, FeatureMSE, refit_head
from kd.losses import (
    ConfidenceWeighted,
    FeaturesAlone,
    KLDistillation,
    LabelCrossEntropy,
    LabelSmoothing,
    LogitMSE,
    Mixture,
    Objective,
    OneHotMSE,
)
from kd.module import KnowledgeDistillation
from kd.networks import EncoderClassifier
from kd.targets import ClassMean, PermutedNonTargets, RandomHead, WholeTeacher
from kd.teacher import CachedOutputs, NetworkTeacher, OnlineOutputs, RunTeacher, fingerprint
from kd.text import TextDataModule
from tests.kd.conftest import digits, fitted, mlp, quick_trainer, student

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning:lightning"
)


@pytest.fixture
def teacher(teacher_file: str) -> Callable[[], RunTeacher]:
    return lambda: RunTeacher(teacher_file, network=mlp(48))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class Seen(Callback):
    """Keeps what passed through training."""

    def __init__(self) -> None:
        self.index: list[list[int]] = []
        self.modes: set[bool] = set()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.index.append(batch["index"].tolist())
        if pl_module.teacher is not None:
            self.modes |= {module.training for module in pl_module.teacher.network.modules()}


def by_hand(model: KnowledgeDistillation, data: DataFraction, loss: Callable[..., Tensor]) -> Tensor:
    """The parameters after the same training, as a loop."""
    net = model.student
    optimizer = torch.optim.AdamW(parameter_groups(net), lr=0.01)
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        loss(net(batch["views"][0]), batch).backward()
        optimizer.step()
    return weights(net)


@pytest.mark.parametrize("target", [None, PermutedNonTargets(per="visit", seed=3)])
def test_a_training_is_the_loop_that_the_formula_says(teacher: Callable[[], RunTeacher], target: Any) -> None:
    torch.manual_seed(5)
    options = {"teacher": teacher(), "objective": KLDistillation(4.0), "target": target}
    module = student(**options)
    fitted(module, digits())

    torch.manual_seed(5)
    copy, data = student(**options), digits()
    data.setup("fit")
    network = copy.teacher.network  # type: ignore[union-attr]

    def loss(logits: Tensor, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = network(batch["views"][0])
        if target is not None:
            wanted = target(wanted, batch["label"], batch["index"], batch.get("visit", 0), 4.0)
        return 16 * F.kl_div(
            F.log_softmax(logits / 4, 1), F.log_softmax(wanted / 4, 1), reduction="batchmean", log_target=True
        )

    expected = by_hand(copy, data, loss)
    assert (weights(module.student) - expected).abs().max() < 1e-5
    assert (weights(module.student) - weights(student(**options).student)).abs().max() > 0.01


def test_labels_and_distillation_share_start_and_order(teacher: Callable[[], RunTeacher]) -> None:
    seen: list[Seen] = []
    starts = []
    for options in ({}, {"teacher": teacher(), "objective": KLDistillation(20.0)}, {"objective": LabelSmoothing(0.1)}):
        torch.manual_seed(3)
        module = student(**options)
        starts.append(weights(module.student))
        seen.append(Seen())
        fitted(module, digits(), callbacks=[seen[-1]])
    assert seen[0].index == seen[1].index == seen[2].index
    assert len(seen[0].index) == 12
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])


def test_nothing_ever_moves_the_teacher_and_no_checkpoint_holds_it(
    teacher: Callable[[], RunTeacher], tmp_path: Path
) -> None:
    module, seen = student(teacher=teacher(), objective=Mixture(0.5)), Seen()
    assert module.teacher is not None
    before = fingerprint(module.teacher.network)
    trainer = fitted(module, digits(), callbacks=[seen])
    assert fingerprint(module.teacher.network) == before == module.teacher.fingerprint
    assert seen.modes == {False}
    assert not any(parameter.requires_grad for parameter in module.teacher.network.parameters())
    assert all(parameter.grad is None for parameter in module.teacher.network.parameters())
    trainer.save_checkpoint(tmp_path / "s.ckpt")
    checkpoint = torch.load(tmp_path / "s.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"student"}
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.student.parameters()}
    assert checkpoint["dinopl"]["family"] == "KnowledgeDistillation"
    assert checkpoint["dinopl"]["teacher"] == before


class NeverAsked(nn.Module):
    """A teacher that must not be run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize("objective", [LabelCrossEntropy(), Mixture(1.0), LabelSmoothing(0.1)])
def test_objectives_on_labels_run_no_teacher_in_training(
    teacher: Callable[[], RunTeacher], objective: Objective
) -> None:
    module = student(teacher=teacher(), objective=objective)

    class Swap(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.teacher.network = NeverAsked()

    fitted(module, digits(), callbacks=[Swap()])
    fitted(student(objective=objective), digits())  # nor need there be one


def measured(model: KnowledgeDistillation, data: DataFraction) -> dict[str, float]:
    (found,) = quick_trainer().test(model, datamodule=data, verbose=False)
    return dict(found)


def test_tests_measure_the_student_and_its_fidelity_on_both_splits(teacher: Callable[[], RunTeacher]) -> None:
    module, data = student(teacher=teacher(), objective=KLDistillation(20.0)), digits(40)
    fitted(module, data)
    found = measured(module, data)
    for split, loader in (("test", data.test_dataloader()), ("subset", data.subset_dataloader())):
        batches = list(loader)
        x, y = (torch.cat([batch[k][0] if k == "views" else batch[k] for batch in batches]) for k in ("views", "label"))
        with torch.no_grad():
            z, u = module.student(x).double().log_softmax(1).numpy(), module.teacher(x).double().log_softmax(1).numpy()  # type: ignore[misc]
        y = y.numpy()
        assert len(y) == {"test": 596, "subset": 120}[split]
        expected = {
            "accuracy": np.mean(z.argmax(1) == y),
            "agreement": np.mean(z.argmax(1) == u.argmax(1)),
            "nll": -np.mean(z[np.arange(len(y)), y]),
            "kl": np.mean((np.exp(u) * (u - z)).sum(1)),
        }
        for name, value in expected.items():
            assert found[f"{split}/{name}"] == pytest.approx(value, abs=1e-4)
        assert 0 < found[f"{split}/cka"] <= 1
        assert found[f"{split}/nc1"] > 0
    assert found["teacher/accuracy"] > 0.9
    assert "test/parameter_distance" not in found
    twin = student(student=mlp(48), teacher=teacher(), objective=KLDistillation(20.0))
    twin.student.load_state_dict(twin.teacher.network.state_dict())  # type: ignore[union-attr]
    same = measured(twin, data)
    assert same["test/agreement"] == 1
    assert same["test/parameter_distance"] == 0


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        (ConfidenceWeighted(4.0), None),
        (KLDistillation(4.0), ClassMean()),
        (OneHotMSE(), None),
    ],
)
def test_a_resumed_run_goes_on_bit_for_bit(
    teacher: Callable[[], RunTeacher], tmp_path: Path, objective: Any, target: Any
) -> None:
    """From the middle of an epoch, with what was taken from the whole subset taken anew."""

    def made() -> KnowledgeDistillation:
        torch.manual_seed(9)
        return student(teacher=teacher(), objective=objective, target=target)

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    whole = made()
    fitted(whole, digits(), callbacks=[ExactResume(), Stop()])
    resumed = made()
    trainer = quick_trainer(callbacks=[ExactResume()])
    trainer.fit(resumed, datamodule=digits(), ckpt_path=str(tmp_path / "mid.ckpt"), weights_only=True)
    assert trainer.global_step == 12
    assert torch.equal(weights(whole.student), weights(resumed.student))


def test_a_run_resumes_with_the_teacher_that_it_learnt_from(teacher: Callable[[], RunTeacher], tmp_path: Path) -> None:
    module = student(teacher=teacher(), objective=KLDistillation(4.0))
    fitted(module, digits()).save_checkpoint(tmp_path / "s.ckpt")
    other = student(teacher=teacher(), objective=KLDistillation(4.0), target=RandomHead(seed=1))
    trainer = quick_trainer(max_epochs=2)
    with pytest.raises(ValueError, match=r"teacher=[0-9a-f]{12}: the checkpoint was trained with [0-9a-f]{12}; give"):
        trainer.fit(other, datamodule=digits(), ckpt_path=str(tmp_path / "s.ckpt"), weights_only=True)


def test_features_are_matched_by_a_map_that_is_trained_and_not_kept_for_tests(
    teacher: Callable[[], RunTeacher], tmp_path: Path
) -> None:
    features = FeatureMSE(["encoder"], weight=2.0)
    module, data = student(teacher=teacher(), features=[features]), digits(60)
    trainer = quick_trainer()
    before: list[Tensor] = []

    class First(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            before.append(weights(features).clone())

    trainer.callbacks.append(First())  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert {id(p) for p in features.parameters()} < held
    assert not torch.equal(weights(features), before[0])
    assert not module.student.encoder._forward_hooks  # type: ignore[operator,union-attr]
    trainer.save_checkpoint(tmp_path / "f.ckpt")
    fresh = student(teacher=teacher(), features=[FeatureMSE(["encoder"])])
    (found,) = quick_trainer().test(
        fresh, datamodule=digits(), ckpt_path=str(tmp_path / "f.ckpt"), weights_only=True, verbose=False
    )
    assert torch.equal(weights(fresh.student), weights(module.student))
    assert found["subset/accuracy"] > 0.8
    options: dict[str, Any] = {"objective": KLDistillation(), "outputs": CachedOutputs()}
    with pytest.raises(ValueError, match=r"outputs=CachedOutputs: features need the teacher"):
        fitted(student(teacher=teacher(), features=[FeatureMSE(["encoder"])], **options), data)
    with pytest.raises(ValueError, match=r"features=encodr: no module"):
        fitted(student(teacher=teacher(), features=[FeatureMSE(["encodr"])]), data)


class Precise(Callback):
    """Keeps the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


@pytest.mark.parametrize("outputs", [OnlineOutputs(), CachedOutputs(), None])
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions(teacher: Callable[[], RunTeacher], precision: Any, outputs: Any) -> None:
    losses = {}
    for used in ("32-true", precision):
        torch.manual_seed(1)
        kept = Precise()
        module = student(teacher=teacher(), objective=KLDistillation(4.0), outputs=outputs)
        fitted(module, digits(6), precision=used, callbacks=[kept])
        losses[used] = kept.losses
    assert losses[precision] == pytest.approx(losses["32-true"], rel=0.05)
    assert losses[precision] != losses["32-true"]


def text(**options: Any) -> DataFraction:
    source = TextDataModule(length=16, batch_size=8, eval_batch_size=512, val_size=0.0, test_size=0.02)
    return DataFraction(source, fraction=0.02, steps_per_epoch=4, **options)


def test_text_is_distilled_token_by_token(tmp_path: Path) -> None:
    """The first loss is the mean over tokens of the KL divergence; logits kept and computed are the same."""

    def network(width: int) -> Any:
        transformer = partial(CausalTransformer, width=width, depth=1, heads=2, dropout=0.0)
        return partial(EncoderClassifier, encoder=transformer)

    def model(**options: Any) -> KnowledgeDistillation:
        torch.manual_seed(2)
        return KnowledgeDistillation(text().input_shape, text().num_classes, **{"student": network(16)} | options)

    fitted(model(student=network(32)), text()).save_checkpoint(tmp_path / "t.ckpt")
    losses = []
    for outputs in (OnlineOutputs(), CachedOutputs()):
        kept = Precise()
        teacher = RunTeacher(str(tmp_path / "t.ckpt"), network=network(32))
        module = model(teacher=teacher, objective=KLDistillation(2.0), target=WholeTeacher(), outputs=outputs)
        fitted(module, text(), callbacks=[kept])
        losses.append(kept.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    start, data = model(teacher=teacher, objective=KLDistillation(2.0)), text()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        p, q = (net(batch["views"][0]).log_softmax(-1) for net in (start.teacher.network, start.student))  # type: ignore[union-attr]
        p, q = ((x / 2).log_softmax(-1).flatten(0, 1) for x in (p, q))
    assert losses[0][0] == pytest.approx(4 * float((p.exp() * (p - q)).sum(1).mean()), rel=1e-4)
    (found,) = quick_trainer(limit_test_batches=1).test(module, datamodule=text(), verbose=False)
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        nll = F.cross_entropy(module(batch["views"][0]).flatten(0, 1), batch["label"].flatten())
    assert found["test/nll"] == pytest.approx(float(nll), rel=1e-4)
    assert "test/nc1" not in found
    assert 0 < found["test/cka"] <= 1


def test_predictions_are_logits_by_index(teacher: Callable[[], RunTeacher]) -> None:
    module, data = student(teacher=teacher(), objective=LogitMSE()), digits()
    fitted(module, data)
    batches: Any = quick_trainer().predict(module, datamodule=data)
    index = torch.cat([batch["index"] for batch in batches])
    assert index.tolist() == list(range(596))
    assert {"label", "student_logits", "teacher_logits"} < batches[0].keys()


def test_plain_loaders_serve_labels_and_online_teachers(teacher: Callable[[], RunTeacher]) -> None:
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 10), batch_size=8
    )
    module = student(teacher=teacher(), objective=KLDistillation(4.0), measured_features=[], check_teacher=False)
    trainer = quick_trainer()
    trainer.fit(module, loader)
    assert trainer.global_step == 5
    trainer.test(module, loader, verbose=False)
    assert trainer.callback_metrics["test/agreement"] >= 0
    with pytest.raises(ValueError, match="the data have no sample index"):
        quick_trainer().fit(student(teacher=teacher(), objective=KLDistillation(), outputs=CachedOutputs()), loader)


def plain_loader(*extra: Tensor, count: int = 40) -> torch.utils.data.DataLoader[Any]:
    """Batches as other projects make them: inputs, labels, and indices only where they are given."""
    view = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(view, torch.arange(count) % 10, *extra), batch_size=8
    )


def test_samples_without_an_index_are_all_measured(teacher: Callable[[], RunTeacher]) -> None:
    """What is kept by index is the same whether a loader gives indices or none."""
    module = student(teacher=teacher(), objective=KLDistillation(4.0), check_teacher=False)
    trainer = quick_trainer()
    bare, indexed = (
        trainer.test(module, plain_loader(*extra), verbose=False)[0] for extra in ((), (torch.arange(40),))
    )
    assert bare == pytest.approx(indexed)
    assert 0 < bare["test/cka"] < 1
    assert bare["test/nc1"] > 0


def test_targets_that_draw_by_index_need_one(teacher: Callable[[], RunTeacher]) -> None:
    visits: list[int] = []

    class Told(PermutedNonTargets):
        def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Any, temperature: float) -> Tensor:
            visits.append(visit)
            return super().__call__(teacher, label, index, visit, temperature)

    options: dict[str, Any] = {"objective": KLDistillation(4.0), "check_teacher": False, "measured_features": []}
    with pytest.raises(ValueError, match=r"target=PermutedNonTargets: draws for each sample by"):
        quick_trainer().fit(student(teacher=teacher(), target=PermutedNonTargets(), **options), plain_loader())
    quick_trainer().fit(student(teacher=teacher(), target=PermutedNonTargets("class"), **options), plain_loader())
    module = student(teacher=teacher(), target=Told("visit"), **options)
    quick_trainer(max_epochs=2).fit(module, plain_loader(torch.arange(40)))
    assert visits == [0] * 5 + [1] * 5  # an epoch of another project's loader is a pass


def test_a_checkpoint_loads_without_a_trainer(teacher_file: str, teacher: Callable[[], RunTeacher]) -> None:
    options: dict[str, Any] = {"input_shape": (1, 8, 8), "num_classes": 10, "student": mlp(48)}
    module = KnowledgeDistillation.load_from_checkpoint(teacher_file, weights_only=True, **options)
    known, _, _ = teacher().load(module.input_shape, 10)
    assert torch.equal(weights(module.student), weights(known))


def test_what_only_features_train_gets_a_head_of_its_own_afterwards(teacher: Callable[[], RunTeacher]) -> None:
    """The recipe of the early code: features first, then a head on the frozen rest."""
    torch.manual_seed(6)
    features = CKAMatching(["head:input"])
    module, data = student(teacher=teacher(), objective=FeaturesAlone(), features=[features]), digits(80)
    start = weights(module.student)
    fitted(module, data)
    assert (weights(module.student) - start).abs().max() > 0.05
    found = [measured(module, data)["test/accuracy"]]
    module.student = refit_head(module.student, "head", data.subset_dataloader(), 10)
    found.append(measured(module, data)["test/accuracy"])
    assert found[0] < 0.5 < 0.8 < found[1]


def test_an_image_data_module_serves_without_a_fraction(teacher: Callable[[], RunTeacher]) -> None:
    data = ImageDataModule(DigitsImages(), val_size=0.1, batch_size=128, normalization=[0.3, 0.38])
    module = student(teacher=teacher(), objective=KLDistillation(4.0), target=ClassMean())
    trainer = fitted(module, data)
    assert trainer.callback_metrics["val/accuracy"] > 0.2
    assert isinstance(module._outputs, CachedOutputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": KLDistillation()}, "teacher=None: KLDistillation needs a teacher; give RunTeacher"),
        ({"features": [FeatureMSE(["encoder"])]}, "teacher=None: FeatureMSE needs a teacher"),
        ({"objective": FeaturesAlone()}, "features=None: FeaturesAlone trains by them alone; give some"),
        ({"optimizer": None}, "optimizer=None"),
        ({"bias_weight_decay": -1.0}, "bias_weight_decay=-1.0: must be at least 0"),
    ],
)
def test_mistakes_of_the_constructor(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(**options)


@pytest.mark.parametrize("wrap", [lambda data: data, DataFraction])
def test_two_views_of_a_sample_are_refused(wrap: Any) -> None:
    model = student()
    model.trainer = quick_trainer()
    data = wrap(ImageDataModule(DigitsImages(), views=[WholeImage(), WholeImage()]))
    model.trainer.datamodule = data  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^views=2: the model takes one view of a sample"):
        model.setup("fit")


@pytest.mark.parametrize("wrap", [lambda data: data, DataFraction])
def test_an_error_within_the_views_of_the_data_is_not_taken_for_data_without_views(
    wrap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = student(), wrap(ImageDataModule(DigitsImages()))
    model.trainer = quick_trainer()
    model.trainer.datamodule = data  # type: ignore[attr-defined]
    monkeypatch.setattr(ImageDataModule, "views", property(lambda self: self.no_such_thing), raising=False)
    with pytest.raises(AttributeError, match="no_such_thing"):
        model.setup("fit")


def test_one_network_for_student_and_teacher_is_refused() -> None:
    network = mlp()((1, 8, 8), 10)
    shared: dict[str, Any] = {"student": lambda *_: network, "teacher": NetworkTeacher(lambda *_: network)}
    with pytest.raises(ValueError, match=r"teacher=NetworkTeacher: has parameters of the student") as caught:
        student(objective=KLDistillation(), **shared)
    assert "\n" not in str(caught.value)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_student_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"student=EncoderClassifier: gives 7 logits, and the data have 10 classes"):
        fitted(student(student=lambda shape, classes: mlp()(shape, 7)), digits())


class Report(Callback):
    """Writes what a process came to, from inside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(weights(pl_module.student), self.folder / f"rank-{trainer.global_rank}.pt")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(values, self.folder / f"test-{trainer.global_rank}.pt")


def test_two_processes_train_and_measure_as_one(teacher: Callable[[], RunTeacher], tmp_path: Path) -> None:
    """With a ragged last batch of 24 in each pass, shared as 12 and 12, and the outputs kept by each process."""

    def made(batch: int) -> tuple[KnowledgeDistillation, DataFraction]:
        torch.manual_seed(4)
        module = student(teacher=teacher(), objective=Mixture(0.3), target=ClassMean())
        return module, digits(None, pool={"batch_size": batch}, fraction=0.1)

    module, data = made(32)
    fitted(module, data, max_epochs=2)
    one = measured(module, data)
    pair, shared = made(16)
    quiet = {"devices": 2, "strategy": "ddp_fork", "callbacks": [Report(tmp_path)]}
    fitted(pair, shared, max_epochs=2, **quiet)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert (found - weights(module.student)).abs().max() < 1e-5
    pair.student.load_state_dict(module.student.state_dict())
    quick_trainer(**quiet).test(pair, datamodule=shared, verbose=False)
    both = torch.load(tmp_path / "test-0.pt", weights_only=True)
    assert both.keys() == one.keys()
    for name, value in one.items():
        assert both[name] == pytest.approx(value, abs=1e-5), name


def test_a_label_that_is_no_class_names_the_classes() -> None:
    batches = [{"views": [torch.rand(3, 1, 8, 8)], "label": torch.tensor([0, 1, 10]), "index": torch.arange(3)}]
    with pytest.raises(ValueError, match="num_classes=10: too few for data with label 10; use 11, or correct the data"):
        quick_trainer().fit(student(), DataLoader(batches, batch_size=None))
    batches[0]["label"] = torch.tensor([0, 1, -1])
    with pytest.raises(ValueError, match="num_classes=10: the data have label -1; number classes from 0"):
        quick_trainer().fit(student(), DataLoader(batches, batch_size=None))


def test_options_of_probes_are_refused_by_a_model_without_any() -> None:
    for options, shown in (({"probe_train_size": 9}, "9"), ({"probe_dataset": DigitsImages()}, "DigitsImages")):
        with pytest.raises(ValueError, match=rf"{next(iter(options))}={shown}: the model has no probes; leave it out"):
            fitted(student(), digits(pool=options))
