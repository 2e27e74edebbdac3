"""What is learned instead of labels: shares, scales, what depends on the pass, and a student that learns it."""

from functools import partial
from typing import Any

import pytest
import torch

from dinopl.data import ImageDataModule, InputTargets, LabelNoise, LogitNoise, Targets
from dinopl.data.targets import noisy_labels


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_label_noise_changes_the_papers_share(ratio: float) -> None:
    label = torch.arange(4000) % 10
    noisy = noisy_labels(label, ratio, 10, seed=3)
    expected, deviation = ratio * 0.9, (ratio * 0.9 * 0.1 / 4000) ** 0.5  # of those replaced, each by 9 of 10 classes
    assert float((noisy != label).float().mean()) == pytest.approx(expected, abs=3 * deviation + 1e-12)
    assert torch.equal(noisy, noisy_labels(label, ratio, 10, seed=3))
    assert ratio == 0 or not torch.equal(noisy, noisy_labels(label, ratio, 10, seed=4))
    if ratio == 1:
        counts = torch.bincount(noisy, minlength=10)
        assert float(((counts - 400) ** 2 / 400).sum()) < 27.9  # chi squared of 9 degrees, one in a thousand


def epoch(data: ImageDataModule, number: int) -> dict[str, torch.Tensor]:
    """All training batches of an epoch, in order of the samples' index."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    batches = list(loader)
    order = torch.cat([batch["index"] for batch in batches]).argsort()
    names = batches[0].keys() & {"label", "target", "index"}
    found = {name: torch.cat([batch[name] for batch in batches])[order] for name in names}  # type: ignore[literal-required]
    return found | {"view": torch.cat([batch["views"][0] for batch in batches])[order]}


def digits(targets: Targets, **options: Any) -> ImageDataModule:
    data = ImageDataModule(targets=targets, seed=1, train_size=600, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("resample", [False, True])
def test_noise_is_the_samples_own_and_drawn_anew_only_if_asked(resample: bool) -> None:
    for targets, key in ((LabelNoise(0.5, resample), "label"), (LogitNoise(resample=resample), "target")):
        first, other = epoch(digits(targets), 0), epoch(digits(targets), 1)
        assert torch.equal(first[key], epoch(digits(targets, batch_size=50), 0)[key])
        assert torch.equal(first[key], other[key]) != resample
    clean = epoch(digits(LabelNoise(0.0)), 0)["label"]
    changed = float((epoch(digits(LabelNoise(0.5, resample)), 0)["label"] != clean).float().mean())
    assert changed == pytest.approx(0.45, abs=3 * (0.45 * 0.55 / 600) ** 0.5)


def test_labels_are_replaced_in_training_alone() -> None:
    data, plain = digits(LabelNoise(1.0)), digits(LabelNoise(0.0))
    assert not torch.equal(epoch(data, 0)["label"], epoch(plain, 0)["label"])
    for name in ("val_dataloader", "test_dataloader"):
        for own, other in zip(getattr(data, name)(), getattr(plain, name)(), strict=True):
            assert torch.equal(own["label"], other["label"])
    for own, other in zip(data.probe_dataloaders()["train"], plain.probe_dataloaders()["train"], strict=True):
        assert torch.equal(own["label"], other["label"])
    changed = float((epoch(data, 0)["label"] != epoch(plain, 0)["label"]).float().mean())
    assert changed == pytest.approx(0.9, abs=3 * (0.09 / 600) ** 0.5)


@pytest.mark.parametrize(("classes", "temperature"), [(256, 1.0), (64, 0.5)])
def test_random_logits_have_the_inverse_temperature_as_their_norm(classes: int, temperature: float) -> None:
    data = digits(LogitNoise(temperature, classes))
    target = epoch(data, 0)["target"]
    assert target.shape == (600, classes)
    assert float(target.norm(dim=1).mean()) == pytest.approx(1 / temperature, rel=0.02)
    standard = target * classes**0.5 * temperature
    assert float(standard.mean()) == pytest.approx(0, abs=5 / (600 * classes) ** 0.5)
    assert float(standard.var()) == pytest.approx(1, abs=0.04)
    assert float((standard.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)
    val = torch.cat([batch["target"] for batch in data.val_dataloader()])
    assert val.shape[1] == classes
    assert not torch.equal(val[0], target[0])  # index 0 of another split


def test_the_first_view_is_its_own_target() -> None:
    found = epoch(digits(InputTargets()), 0)
    assert torch.equal(found["target"], found["view"].flatten(1))


def test_an_epoch_of_some_samples_draws_others_each_time() -> None:
    data = digits(LabelNoise(0.0), samples_per_epoch=200)
    first, second = (set(epoch(data, number)["index"].tolist()) for number in (0, 1))
    assert len(first) == len(second) == 200
    assert first != second
    assert len(data.train_dataloader()) == 2
    with pytest.raises(ValueError, match="samples_per_epoch=601: give from 128, the batch size, to 600"):
        digits(LabelNoise(0.0), samples_per_epoch=601)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(LabelNoise, 1.5), r"ratio=1.5: must be in \[0, 1\]"),
        (partial(LogitNoise, 0.0), "temperature=0.0: must be positive"),
        (partial(LogitNoise, num_classes=-3), "num_classes=-3: must be at least 1; None takes that of the data"),
    ],
)
def test_impossible_noise_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
