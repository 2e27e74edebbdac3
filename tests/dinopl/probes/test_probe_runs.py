"""Probes within self-distillation: another data set, outputs of the head, label-free measures, and collapse."""

import warnings
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from dinopl.core.types import ImageShape
from dinopl.data import CropFlip, DigitsImages, ImageDataModule, NoiseImages
from dinopl.data.order import OrderSampler
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.module import SelfDistillation
from dinopl.distillation.student_start import IndependentStart
from dinopl.distillation.teachers import FrozenTeacher
from dinopl.encoders import MiniVGG
from dinopl.probes import EncoderProbing, KNNProbe, LinearProbe, WeightedKNNProbe, effective_rank, lidar, rankme

DIGITS = ImageShape(1, 8, 8)
M = 32


def module(probes=None, **options):
    seed_everything(0, verbose=False)
    defaults = {
        "encoder": partial(MiniVGG, widths=(4, 8)),
        "head": partial(ProjectionHead, hidden=(16,), bottleneck_dim=32, out_dim=M),
        "optimizer": partial(torch.optim.SGD, lr=0.05),
        "probes": [KNNProbe(k=5)] if probes is None else probes,
    }
    return SelfDistillation(DIGITS, num_classes=10, **defaults | options)


def fit(model, data=None, **options):
    defaults = {"max_steps": 3, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    defaults |= {"accelerator": "cpu", "enable_model_summary": False, "use_distributed_sampler": False}
    trainer = Trainer(**defaults | options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*module.s. in eval mode.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        trainer.fit(model, datamodule=data or ImageDataModule(train_size=200, probe_train_size=300))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def split(data, name):
    batches = list(data.probe_dataloaders()[name])
    return torch.cat([b["views"][0] for b in batches]), torch.cat([b["label"] for b in batches])


@torch.no_grad()
def outputs(network, x):
    network.eval()
    embedding = network.embed(x)
    return {"encoder": embedding, "bottleneck": network.head.bottleneck(embedding), "logits": network.head(embedding)}


def test_features_of_the_head_by_choice():
    probes = [LinearProbe(epochs=2), LinearProbe("of_logits", epochs=2, features="logits")]
    probes += [WeightedKNNProbe(k=5, name="of_bottleneck", features="bottleneck")]
    model = module(probes, student=IndependentStart())
    data = ImageDataModule(train_size=200, probe_train_size=300)
    found = fit(model, data)
    (train_x, train_y), (x, y) = split(data, "train"), split(data, "test")
    seed = model.probe_callback._seed
    for subject in ("teacher", "student"):
        network = getattr(model, subject)
        known, asked = outputs(network, train_x), outputs(network, x)
        for probe in probes:
            predicted = probe.predict(known[probe.features], train_y, asked[probe.features], 10, seed)
            assert found[f"probe/{subject}/{probe.name}"] == (predicted == y).double().mean().item()
    assert {name for name in found if name.startswith("probe/input/")} == {"probe/input/linear"}


@pytest.mark.parametrize(
    ("features", "message"),
    [("bottleneck", "the head Linear has no bottleneck; probe the encoder"), ("logits", None)],
)
def test_an_output_that_the_network_lacks_is_refused_before_anything_runs(features, message):
    model = module([KNNProbe(k=5, features=features)], head=partial(nn.Linear, out_features=M))
    if message is None:
        assert "probe/student/knn" in fit(model)
        return
    with pytest.raises(ValueError, match=f"features={features}: probe 'knn' asks for it and {message}"):
        fit(model)


def test_transfer_to_another_data_set():
    """Distilled on noise, probed on digits: splits and classes are those of the digits."""
    data = ImageDataModule(
        dataset=NoiseImages(DigitsImages(), num_train=64, num_test=20), probe_dataset=DigitsImages(), batch_size=16
    )
    model = module([KNNProbe(k=5)])
    found = fit(model, data, max_steps=2)
    (train_x, train_y), (x, y) = split(data, "train"), split(data, "test")
    assert (len(train_x), len(x)) == (1167, 500)
    predicted = KNNProbe(k=5).predict(outputs(model.student, train_x)["encoder"], train_y, *(
        outputs(model.student, x)["encoder"], 10, 0
    ))  # fmt: skip
    assert found["probe/student/knn"] == (predicted == y).double().mean().item()
    assert found["probe/input/knn"] > 0.9


def test_label_free_measures_of_a_frozen_teacher_and_its_student():
    """No warning: the frozen teacher's targets are nearly uniform, and that is no collapse."""
    model, data = module(), ImageDataModule(train_size=200, probe_train_size=300)
    found = fit(model, data)
    x = outputs(model.student, split(data, "train")[0])
    embedding, logits = x["encoder"].double(), x["logits"].double()
    singular = torch.linalg.svdvals(embedding - embedding.mean(0))
    assert found["collapse/student/rankme"] == pytest.approx(rankme(embedding), rel=1e-6)
    assert found["collapse/student/effective_rank"] == pytest.approx(effective_rank(singular), rel=1e-6)
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    assert found["collapse/student/entropy"] == pytest.approx(entropy.item(), rel=1e-6)
    measured = {name.split("/")[2] for name in found if name.startswith("collapse/teacher/")}
    assert measured == {"rankme", "alpha_req", "effective_rank", "entropy"}


def test_lidar_of_random_views():
    data = ImageDataModule(train_size=200, probe_train_size=300, views=[CropFlip()])
    model = module()
    found = fit(model, data)
    sampler = OrderSampler(25, 256)  # an eighth of the training images
    loader, views = data.indexed_loader(sampler), []
    for number in range(4):
        sampler.set_epoch(number)
        views += [outputs(model.student, batch["views"][0])["encoder"] for batch in loader]
    assert not torch.equal(views[0], views[1])
    assert found["collapse/student/lidar"] == pytest.approx(lidar(torch.stack(views, 1)), rel=1e-6)


class FollowingTeacher(FrozenTeacher):
    """Moves half the way to the student in each step."""

    @property
    def static(self):
        return False

    @torch.no_grad()
    def after_step(self, teacher, student, step):
        for own, new in zip(teacher.parameters(), student.parameters(), strict=True):
            own.lerp_(new, 0.5)


class ConstantEncoder(nn.Module):
    """The same vector for every image, whatever is learned."""

    embed_dim = 8

    def __init__(self, shape):
        super().__init__()
        self.vector = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return self.vector + 0 * x.flatten(1).sum(1, keepdim=True)


def collapses(model, **options):
    """What is said to have collapsed in a fit of two steps per epoch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, max_steps=-1, **options)
    return [str(each.message) for each in caught if "collapse" in str(each.message)]


def test_a_moving_teacher_without_centre_at_temperature_one_is_named_within_an_epoch():
    """Once in a run, and not before the teacher has moved."""
    said = collapses(module(teacher=FollowingTeacher(), student=IndependentStart()), max_epochs=2)
    assert len(said) == 1
    assert said[0].startswith("collapse of the teacher's targets at step 2: the targets are uniform (entropy 3.4")


def test_a_constant_encoder_is_named():
    said = collapses(
        module(encoder=ConstantEncoder, teacher=FollowingTeacher(), student=IndependentStart()), max_epochs=1
    )
    assert [text.split(":")[0] for text in said] == [
        "collapse of the student's features at step 0",
        "collapse of the teacher's features at step 2",
        "collapse of the teacher's targets at step 2",
    ]
    assert said[0].endswith("the features are the same for every image (effective rank 0 of 8)")


def test_where_the_teacher_started_is_kept_in_checkpoints():
    model = module(teacher=FollowingTeacher(), student=IndependentStart())
    collapses(model, max_epochs=1)
    state = model.probe_callback.state_dict()
    resumed = module(teacher=FollowingTeacher(), student=IndependentStart()).probe_callback
    resumed.load_state_dict(state)
    start = sum(p.double().sum() for p in module(teacher=FollowingTeacher()).teacher.parameters())
    assert resumed._teacher_start == pytest.approx(start.item(), rel=1e-12)
    resumed.load_state_dict({"step": 3, "values": {}})  # of an earlier version
    assert resumed.state_dict()["step"] == 3


class OnRandomLabels(SelfDistillation):
    """Learns a label of each image that has nothing to do with it."""

    def training_step(self, batch, batch_idx):
        label = torch.randint(0, 10, (1167,), generator=torch.Generator().manual_seed(0))
        return nn.functional.cross_entropy(self.student(batch["views"][0]), label[batch["index"]])


def test_features_outlast_random_labels_where_predictions_do_not():
    """At a label noise of 1, predictions are chance; the encoder's features and, less so, the logits are not."""
    probes = [KNNProbe(k=5), KNNProbe(k=5, name="of_logits", features="logits")]
    head = partial(ProjectionHead, hidden=(16,), bottleneck_dim=32, out_dim=10)
    model = OnRandomLabels(
        DIGITS, partial(MiniVGG, widths=(8, 16)), head, optimizer=partial(torch.optim.AdamW, lr=3e-3), probes=probes
    )
    data = ImageDataModule(batch_size=32)
    found = fit(model, data, max_steps=-1, max_epochs=3)
    x, y = split(data, "test")
    chance = (outputs(model.student, x)["logits"].argmax(1) == y).double().mean()
    assert chance < 0.25
    assert found["probe/student/knn"] > 0.6
    assert found["probe/student/knn"] > found["probe/student/of_logits"]


def test_an_encoder_without_a_run():
    seed_everything(0, verbose=False)
    model = EncoderProbing(DIGITS, partial(MiniVGG, widths=(4, 8)), [KNNProbe(k=5)], num_classes=10)
    data = ImageDataModule(probe_train_size=300)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (tested,) = trainer.test(model, data, verbose=False)
    (validated,) = trainer.validate(model, data, verbose=False)
    assert validated.keys() == {"probe_val/input/knn", "probe_val/encoder/knn"}
    (train_x, train_y), (x, y) = split(data, "train"), split(data, "test")
    with torch.no_grad():
        predicted = KNNProbe(k=5).predict(model(train_x), train_y, model(x), 10, 0)
    assert tested["probe/encoder/knn"] == (predicted == y).double().mean().item()
    # the encoder of the random teacher of a run with this seed
    teacher = module().teacher.encoder.state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in model.encoder.state_dict().items())
    with pytest.raises(ValueError, match=r"Identity returns \(1, 1, 8, 8\) for one image, not \(1, embed_dim\)"):
        EncoderProbing(DIGITS, lambda shape: nn.Identity())
    with pytest.raises(ValueError, match="image_shape: is not known from the data"):
        EncoderProbing(None)
