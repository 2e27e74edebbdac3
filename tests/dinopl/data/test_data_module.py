import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dinopl.core.types import ImageShape
from dinopl.data import (
    CIFAR10Images,
    CropFlip,
    DigitsImages,
    FolderImages,
    ImageDataModule,
    ImageSource,
    MNISTImages,
    NoiseImages,
    NpzImages,
    OrderSampler,
    STL10Images,
    TinyImageNetImages,
    WholeImage,
)
from dinopl.data.images import ImageArrays
from dinopl.data.sources import SourceInfo


def ready(**options: Any) -> ImageDataModule:
    module = ImageDataModule(**{"seed": 0, **options})
    module.prepare_data()
    module.setup("fit")
    return module


def noise(num_train: int = 40, num_test: int = 20, **options: Any) -> NoiseImages:
    return NoiseImages(DigitsImages(), num_train=num_train, num_test=num_test, seed=0, **options)


def views_of(loader: Any) -> torch.Tensor:
    return torch.cat([batch["views"][0] for batch in loader])


def labels_of(loader: Any) -> torch.Tensor:
    return torch.cat([batch["label"] for batch in loader])


def indices_of(loader: Any) -> list[int]:
    return torch.cat([batch["index"] for batch in loader]).tolist()


def test_shape_and_classes_are_known_before_any_data_are_read(tmp_path: Path) -> None:
    for dataset, rgb, shape, classes in (
        (DigitsImages(), False, (1, 8, 8), 10),
        (MNISTImages(), True, (3, 28, 28), 10),
        (CIFAR10Images(), True, (3, 32, 32), 10),
        (TinyImageNetImages(), False, (3, 64, 64), 200),
        (NoiseImages(STL10Images()), False, (3, 96, 96), 10),
    ):
        module = ImageDataModule(dataset, root=str(tmp_path), rgb=rgb)
        assert module.image_shape == shape
        assert isinstance(module.image_shape, ImageShape)
        assert module.num_classes == classes
    assert ImageDataModule(CIFAR10Images(), image_size=48, views=[CropFlip()]).image_shape == (3, 48, 48)
    assert ImageDataModule(CIFAR10Images(), views=[WholeImage(24), WholeImage()]).image_shape == (3, 24, 24)


def test_digits_are_normalised_by_their_training_images() -> None:
    module = ready()
    train = views_of(module.cache_dataloader())
    assert train.shape == (1297 - 130, 1, 8, 8)
    assert float(train.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(train.double().std(correction=0)) == pytest.approx(1, abs=1e-6)
    arrays = DigitsImages().load(Path(), False)
    stored = DigitsImages().load(Path(), True).images / 16
    held = views_of(module.val_dataloader())
    everything = torch.cat([train, held])
    scale = stored.std(correction=0) / everything.std(correction=0)
    test = views_of(module.test_dataloader())
    wanted = (arrays.images / 16 - stored.mean()) / scale + everything.mean()
    torch.testing.assert_close(test, wanted, rtol=1e-4, atol=1e-4)


def test_splits_are_stratified_disjoint_and_complete() -> None:
    module = ready(val_size=0.2)
    splits = [module.cache_dataloader(), module.val_dataloader()]
    images = torch.cat([views_of(split) for split in splits]).flatten(1)
    stored = DigitsImages().load(Path(), True).images.flatten(1).float()
    assert len(images) == len(stored) == len(images.unique(dim=0)) == len(stored.unique(dim=0))
    counts = torch.bincount(labels_of(splits[1]), minlength=10)
    quotas = torch.bincount(DigitsImages().load(Path(), True).label) * len(labels_of(splits[1])) / 1297
    assert (counts - quotas).abs().max() < 1
    assert module.num_train == 1297 - 259
    assert indices_of(splits[0]) == list(range(module.num_train))
    assert indices_of(splits[1]) == list(range(259))


def test_the_hold_out_follows_the_seed_and_not_the_epoch_or_options() -> None:
    held = [
        views_of(ready(seed=seed, **options).val_dataloader())
        for seed, options in ((0, {}), (0, {"train_size": 99, "batch_size": 9}), (1, {}))
    ]
    assert torch.equal(held[0], held[1])
    assert not torch.equal(held[0], held[2])


def test_a_null_seed_is_derived_from_the_runs() -> None:
    orders = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        orders.append(indices_of(ready(seed=None).train_dataloader()))
    assert orders[0] == orders[1] != orders[2]


def test_training_epochs_differ_and_hold_every_sample_once() -> None:
    loader = ready(batch_size=100).train_dataloader()
    first = indices_of(loader)
    loader.sampler.set_epoch(1)
    second = indices_of(loader)
    assert sorted(first) == sorted(second) == list(range(1167))
    assert first != second


def test_subsets_are_nested_and_leave_the_probing_data_alone() -> None:
    sizes = (50, 0.25, 0.5, None)
    modules = [ready(train_size=size, batch_size=10) for size in sizes]
    assert [module.num_train for module in modules] == [50, 292, 584, 1167]
    kept = [{tuple(image) for image in views_of(module.cache_dataloader()).flatten(1).tolist()} for module in modules]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    probes = [views_of(module.probe_dataloaders()["train"]) for module in modules]
    assert all(torch.equal(probe, probes[-1]) for probe in probes)
    assert sorted(indices_of(modules[0].train_dataloader())) == list(range(50))


def test_probes_can_be_trained_on_less_which_leaves_distillation_and_evaluation_alone() -> None:
    less, more, whole = (ready(probe_train_size=size) for size in (100, 0.5, None))
    assert less.num_train == whole.num_train
    kept = [
        {tuple(x) for x in views_of(m.probe_dataloaders()["train"]).flatten(1).tolist()} for m in (less, more, whole)
    ]
    assert [len(part) for part in kept] == [100, 584, 1167]
    assert kept[0] < kept[1] < kept[2]
    for split in ("val", "test"):
        assert torch.equal(*(views_of(module.probe_dataloaders()[split]) for module in (less, whole)))


def test_the_test_split_can_be_limited_to_the_same_images_for_every_seed() -> None:
    limited = [ready(test_size=100, seed=seed) for seed in (0, 1)]
    tests = [labels_of(module.test_dataloader()) for module in limited]
    assert torch.equal(tests[0], tests[1])
    assert torch.bincount(tests[0]).tolist() == [10] * 10
    whole = labels_of(ready().test_dataloader())
    assert len(whole) == 500


def test_no_hold_out_means_no_validation_split() -> None:
    module = ready(val_size=0)
    assert set(module.probe_dataloaders()) == {"train", "test"}
    assert module.num_train == 1297
    with pytest.raises(ValueError, match=r"val_size=0: no images were held out to validate on"):
        module.setup("validate")


def test_probe_batches_are_plain_whole_and_repeatable() -> None:
    module = ready(views=[CropFlip(2)], train_size=64, batch_size=16)
    loaders = module.probe_dataloaders()
    assert list(loaders) == ["train", "val", "test"]
    plain = ready().probe_dataloaders()
    for split, loader in loaders.items():
        assert indices_of(loader) == list(range(len(indices_of(loader))))
        assert torch.equal(views_of(loader), views_of(plain[split]))
        assert torch.equal(views_of(loader), views_of(loader))


def test_probing_another_set_than_is_distilled() -> None:
    module = ready(dataset=noise(num_train=60), probe_dataset=DigitsImages(), batch_size=32)
    assert module.num_classes == 10
    assert module.num_train == 54
    train = views_of(module.cache_dataloader())
    assert torch.equal(train, views_of(ready(dataset=noise(num_train=60), batch_size=32).cache_dataloader()))
    assert float(train.std()) == pytest.approx(1, abs=0.05)
    probes = module.probe_dataloaders()
    assert [len(indices_of(probes[split])) for split in ("train", "val", "test")] == [1167, 130, 500]
    assert torch.equal(views_of(probes["test"]), views_of(ready().test_dataloader()))
    assert len(indices_of(module.test_dataloader())) == 20


def test_probed_images_must_have_the_same_shape() -> None:
    message = "probe_dataset: its images are 3x32x32, those of DigitsImages 1x8x8; set image_size, and"
    with pytest.raises(ValueError, match=message):
        ImageDataModule(DigitsImages(), CIFAR10Images())
    assert ImageDataModule(MNISTImages(), CIFAR10Images(), image_size=32, rgb=True).image_shape == (3, 32, 32)


def test_noise_is_drawn_at_its_size_and_not_resized() -> None:
    with pytest.raises(ValueError, match=r"image_size=16: NoiseImages is 1x8x8, and resizing would change it"):
        ImageDataModule(noise(), image_size=16)
    module = ready(dataset=noise(size=16), image_size=16, batch_size=8)
    assert views_of(module.test_dataloader()).shape == (20, 1, 16, 16)


class Unlabelled(ImageSource):
    """Images of which only the test split has labels."""

    def info(self, root: Path) -> SourceInfo:
        return SourceInfo(ImageShape(1, 8, 8), 10, 30, 30)

    def load(self, root: Path, train: bool) -> ImageArrays:
        return ImageArrays(torch.zeros(30, 1, 8, 8, dtype=torch.uint8), torch.full((30,), -1 if train else 3))


def test_unlabelled_images_can_be_distilled_but_not_probed() -> None:
    module = ready(dataset=Unlabelled(), batch_size=8)
    assert next(iter(module.train_dataloader()))["label"].tolist() == [-1] * 8
    with pytest.raises(
        ValueError, match=r"probe_dataset: the images of Unlabelled have no labels; .* or leave the model"
    ):
        module.probe_dataloaders()
    module = ready(dataset=Unlabelled(), probe_dataset=DigitsImages(), batch_size=8)
    assert labels_of(module.train_dataloader()).tolist() == [-1] * 27
    assert labels_of(module.probe_dataloaders()["train"]).min() == 0


def test_gray_images_become_rgb_on_demand() -> None:
    gray, rgb = views_of(ready().test_dataloader()), views_of(ready(rgb=True).test_dataloader())
    assert torch.equal(rgb, gray.expand(-1, 3, -1, -1))


def test_images_are_resized_when_they_are_read() -> None:
    from torchvision.transforms.v2.functional import resize

    module = ready(image_size=12, normalization=(0.0, 1.0))
    wanted = resize(DigitsImages().load(Path(), False).images / 16, [12, 12], antialias=True)
    torch.testing.assert_close(views_of(module.test_dataloader()), wanted)
    assert module.image_shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("normalization", "mean", "std"),
    [
        ((0.5, 0.25), [0.5], [0.25]),
        (([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]), [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]),
    ],
)
def test_normalisation_by_given_numbers(
    make_npz: Callable[..., Path], normalization: Any, mean: list[float], std: list[float]
) -> None:
    path = make_npz()
    module = ready(dataset=NpzImages(str(path)), normalization=normalization, batch_size=8)
    stored = np.load(path)["x_test"].transpose(0, 3, 1, 2) / 255
    wanted = (stored - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    np.testing.assert_allclose(views_of(module.test_dataloader()).numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "normalization", [(0.5, 0.0), (0.5, -1.0), (0.5, float("nan")), ([0.1, 0.2], [1.0, 1.0]), ([0.5], [])]
)
def test_normalisation_that_cannot_be_is_refused(normalization: Any) -> None:
    with pytest.raises(ValueError, match=r"normalization=\[.*\]: give \[mean, std\]"):
        ImageDataModule(CIFAR10Images(), normalization=normalization)


def test_published_constants_and_training_moments(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    test = views_of(ready(dataset=FolderImages(str(folder)), batch_size=2, val_size=0).test_dataloader())
    wanted = (torch.arange(12, 18)[:, None] / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(test[:, :, 0, 0], wanted)
    module = ready(dataset=FolderImages(str(folder)), batch_size=2, val_size=0, normalization="train")
    train = views_of(module.cache_dataloader())
    assert train.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-4)
    assert train.std((0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * 3, abs=1e-4)


@pytest.mark.parametrize("in_memory", [False, True])
def test_workers_change_nothing(make_folder: Callable[..., Path], in_memory: bool) -> None:
    folder = str(make_folder())
    batches = []
    for workers in (0, 2):
        module = ready(
            dataset=FolderImages(folder, in_memory=in_memory),
            batch_size=4,
            val_size=0.25,
            num_workers=workers,
            views=[CropFlip(1)],
        )
        loader = module.train_dataloader()
        loader.sampler.set_epoch(1)
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["views"][0], other["views"][0])


def test_a_folder_of_mixed_sizes_fails_at_the_start(make_folder: Callable[..., Path]) -> None:
    from PIL import Image

    folder = make_folder()
    Image.new("RGB", (9, 9)).save(folder / "test" / "cow" / "7.png")
    with pytest.raises(ValueError, match=r"set image_size"):
        ready(dataset=FolderImages(str(folder)), batch_size=2)
    assert ready(dataset=FolderImages(str(folder)), batch_size=2, image_size=4).image_shape == (3, 4, 4)


def with_trainer(module: ImageDataModule, rank: int, processes: int) -> ImageDataModule:
    """A stand-in for a trainer with several processes."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda value: value)
    module.trainer = SimpleNamespace(strategy=strategy, global_rank=rank, world_size=processes)  # type: ignore[assignment]
    module.setup("fit")
    return module


def test_processes_share_training_and_evaluation_but_each_probes_everything() -> None:
    single = ready(batch_size=100, eval_batch_size=60)
    pair = [with_trainer(ImageDataModule(batch_size=50, eval_batch_size=30, seed=0), rank, 2) for rank in range(2)]
    for whole, *parts in zip(single.train_dataloader(), *(module.train_dataloader() for module in pair), strict=True):
        for key in ("index", "label"):
            assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])
        assert torch.equal(torch.cat([part["views"][0] for part in parts]), whole["views"][0])
    for name in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        seen = sorted(indices_of(getattr(pair[0], name)()) + indices_of(getattr(pair[1], name)()))
        assert seen == indices_of(getattr(single, name)())
    for module in pair:
        assert indices_of(module.probe_dataloaders()["train"]) == list(range(1167))
        assert indices_of(module.cache_dataloader()) == list(range(1167))


@pytest.mark.parametrize(("batch_size", "processes"), [(37, 1), (19, 2)])
def test_a_batch_larger_than_the_data_is_refused(batch_size: int, processes: int) -> None:
    module = ImageDataModule(noise(40), batch_size=batch_size, seed=0)
    among = f" for {processes} processes" if processes > 1 else ""
    message = f"batch_size={batch_size}: there are only 36 training images{among}; give at most {36 // processes}"
    with pytest.raises(ValueError, match=message):
        with_trainer(module, 0, processes)
    fits = ImageDataModule(noise(40), batch_size=36 // processes, seed=0)
    assert with_trainer(fits, 0, processes).num_train == 36
    ImageDataModule(noise(40), batch_size=1000).setup("test")  # nothing is trained


@pytest.mark.parametrize(
    ("options", "split", "count"),
    [({"val_size": 2}, "val", 2), ({"val_size": 0, "test_size": 1}, "test", 1)],
)
def test_fewer_evaluation_images_than_processes_are_refused(options: dict, split: str, count: int) -> None:
    message = f"devices: 3 processes cannot share the {count} images of the {split} split; use fewer"
    with pytest.raises(ValueError, match=message) as caught:
        with_trainer(ImageDataModule(noise(40), batch_size=4, seed=0, **options), 0, 3)
    assert "\n" not in str(caught.value)
    module = with_trainer(ImageDataModule(noise(40), batch_size=4, seed=0, **options), 0, count)
    assert len(module.test_dataloader()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: give a number of at least 1"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1"),
        ({"image_size": 0}, "image_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"views": []}, r"views=\[\]"),
        ({"predict_split": "val", "val_size": 0}, "predict_split=val: val_size is 0"),
    ],
)
def test_impossible_options_are_refused_at_once(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageDataModule(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": 1.0}, "val_size=1.0: that holds out 40 of 40 training images"),
        ({"val_size": 0.001}, "val_size=0.001: that holds out 0 of 40 training images"),
        ({"val_size": 41}, "val_size=41: give a count of at most 40 images"),
        ({"test_size": 0}, "test_size=0: that leaves no test image"),
        ({"test_size": 21}, "test_size=21: give a count of at most 20 images"),
        ({"train_size": 37}, "train_size=37: give a count of at most 36 images"),
        ({"probe_train_size": 37}, "probe_train_size=37: give a count of at most 36 images"),
        ({"train_size": 0.0}, "train_size=0.0: that leaves no training image"),
    ],
)
def test_sizes_that_do_not_fit_the_data_are_refused_at_setup(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready(dataset=noise(), batch_size=4, **options)


def test_the_root_is_an_option_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DINOPL_DATA", raising=False)
    assert ImageDataModule().root == Path("data")
    monkeypatch.setitem(os.environ, "DINOPL_DATA", "/from/environment")
    assert ImageDataModule().root == Path("/from/environment")
    assert ImageDataModule(root="/given").root == Path("/given")


def test_data_that_are_not_there_are_named_in_one_line(tmp_path: Path) -> None:
    module = ImageDataModule(CIFAR10Images(), root=str(tmp_path), download=False)
    module.prepare_data()  # is not to download
    with pytest.raises(
        FileNotFoundError, match=r"CIFAR10Images: nothing at .*cifar-10-batches-py; .*point root or"
    ) as caught:
        module.setup("fit")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"FolderImages: nothing at .*point root or"):
        ImageDataModule(FolderImages("none"), root=str(tmp_path))


def test_data_are_asked_for_after_setup() -> None:
    module = ImageDataModule()
    with pytest.raises(RuntimeError, match=r"after setup\(\)"):
        module.train_dataloader()
    with pytest.raises(RuntimeError, match=r"after setup\(\)"):
        _ = module.num_train


def test_images_are_read_once_and_loaders_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    original = DigitsImages.load
    monkeypatch.setattr(
        DigitsImages, "load", lambda self, root, train: reads.append(train) or original(self, root, train)
    )
    module = ready()
    module.setup("test")
    assert reads == [True, False]
    assert module.train_dataloader().store is module.probe_dataloaders()["train"].store  # type: ignore[attr-defined]
    module.teardown("fit")
    assert len(indices_of(module.test_dataloader())) == 500


def test_a_checkpoint_brings_its_seed_back_unless_an_option_says_otherwise() -> None:
    saved = ready(seed=5)
    state = saved.state_dict()
    assert state == {"seed": 5}
    torch.manual_seed(9)
    for resumed in (ImageDataModule(), ready(seed=None)):
        resumed.load_state_dict(state)
        resumed.setup("fit")
        assert torch.equal(views_of(resumed.val_dataloader()), views_of(saved.val_dataloader()))
        assert indices_of(resumed.train_dataloader()) == indices_of(saved.train_dataloader())
    fixed = ready(seed=6)
    fixed.load_state_dict(state)
    assert fixed.state_dict() == {"seed": 6}


def test_views_of_training_are_deterministic_or_not() -> None:
    assert ImageDataModule().deterministic_views
    assert not ImageDataModule(views=[WholeImage(), CropFlip()]).deterministic_views


def test_prediction_runs_over_the_split_asked_for() -> None:
    for split, count in (("train", 30), ("val", 130), ("test", 500)):
        module = ready(predict_split=split, train_size=30, batch_size=10)
        assert indices_of(module.predict_dataloader()) == list(range(count))
    module = ready(predict_split="train", train_size=30, batch_size=10)
    assert torch.equal(views_of(module.predict_dataloader()), views_of(module.cache_dataloader()))


def test_the_last_batch_can_be_dropped() -> None:
    sizes = [len(batch["index"]) for batch in ready(drop_last=True).train_dataloader()]
    assert sizes == [128] * 9


def test_a_loader_of_ones_own_order_keeps_indices_and_may_change_labels() -> None:
    module = ready(views=[CropFlip(1)], train_size=50, batch_size=10)
    label = (module.train_label + 1) % 10
    sampler = OrderSampler(50, 20, seed=9)
    for batch in module.indexed_loader(sampler, augment=False, label=label):
        assert torch.equal(batch["label"], label[batch["index"]])
        whole = torch.cat([part["views"][0] for part in ready(train_size=50, batch_size=10).cache_dataloader()])
        assert torch.equal(batch["views"][0], whole[batch["index"]])
    batches = [next(iter(module.indexed_loader(OrderSampler(50, 50), seed=seed))) for seed in (None, 3, 4)]
    assert torch.equal(batches[0]["views"][0], views_of(module.cache_dataloader()))
    assert not torch.equal(batches[1]["views"][0], batches[2]["views"][0])
    assert torch.equal(batches[1]["label"], module.train_label)


def test_a_seed_from_outside_gives_way_to_the_option() -> None:
    one, fixed = ready(seed=None), ready(seed=4)
    for module in (one, fixed):
        module.reseed(7)
    assert torch.equal(views_of(one.val_dataloader()), views_of(ready(seed=7).val_dataloader()))
    assert torch.equal(views_of(fixed.val_dataloader()), views_of(ready(seed=4).val_dataloader()))
    early = ImageDataModule()
    early.reseed(7)
    early.setup("fit")
    assert early.fingerprint() == one.fingerprint()


def test_the_fingerprint_tells_what_is_trained_on_and_how_it_is_seen(make_folder: Callable[..., Path]) -> None:
    base = ready().fingerprint()
    assert ready().fingerprint() == base == ready(batch_size=64, eval_batch_size=9).fingerprint()
    different: list[dict[str, Any]] = [
        {"seed": 1},
        {"train_size": 1166},
        {"image_size": 9},
        {"rgb": True},
        {"normalization": (0.3, 0.38)},
        {"views": [CropFlip(1)]},
        {"views": [CropFlip(2)]},
        {"views": [WholeImage(), WholeImage()]},
        {"dataset": noise(1297, 500)},
    ]
    found = [base, *(ready(**options).fingerprint() for options in different)]
    assert len(set(found)) == len(found)
    folder = str(make_folder())
    lazy, loaded = (ready(dataset=FolderImages(folder, in_memory=m), batch_size=2) for m in (False, True))
    assert lazy.fingerprint() == loaded.fingerprint()


def test_labels_beyond_the_classes_are_refused() -> None:
    class Mislabelled(DigitsImages):
        def load(self, root: Path, train: bool) -> ImageArrays:
            arrays = super().load(root, train)
            return ImageArrays(arrays.images, arrays.label + (0 if train else 3), arrays.scale)

    with pytest.raises(ValueError, match="num_classes=10: too few for Mislabelled with label 12; use 13"):
        ready(dataset=Mislabelled())


def test_predictions_are_named_by_file_and_class(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for number, category in enumerate(("ant", "bee")):
            place = tmp_path / split / category
            place.mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (8, 8), (10 * i, number, 0)).save(place / f"{i}.png")
    module = ready(dataset=FolderImages(str(tmp_path)), predict_split="train", val_size=4, train_size=5, batch_size=5)
    module.trainer = None
    names = module.prediction_names()
    assert names["class_names"] == ["ant", "bee"]
    shown = torch.cat([batch["views"][0] for batch in module.predict_dataloader()])[:, 0, 0, 0]
    red = [10 * int(Path(file).stem) for file in names["path"]]
    assert torch.allclose(shown, (torch.tensor(red) / 255 - 0.485) / 0.229, atol=1e-5)  # rounding of float32
    assert len(red) == 5


def test_a_split_without_samples_is_not_blamed_on_the_devices() -> None:
    module = ready()
    with pytest.raises(ValueError, match="test_size=None: leaves the test split without images; give more"):
        module.check_stage("fit", {"test": 0})
