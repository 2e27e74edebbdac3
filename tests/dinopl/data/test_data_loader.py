from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinopl.core.types import as_batch
from dinopl.data import (
    CropFlip,
    DigitsImages,
    EvalSampler,
    FolderImages,
    ImageLoader,
    ImageView,
    OrderSampler,
    WholeImage,
)
from dinopl.data.images import TensorStore, WorkerStore, channel_moments, read_all
from dinopl.data.loader import make_views
from dinopl.data.views import crop_flip

CPU = torch.device("cpu")


def a_loader(views: list[ImageView], sampler: OrderSampler, images: Tensor | None = None) -> ImageLoader:
    """Over rows 10, 11, ... of 50 one-channel images whose pixels all equal the row."""
    if images is None:
        images = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    recipe: dict[str, Any] = {"views": views, "scale": 255.0, "mean": [0.1], "std": [0.2], "channels": 1, "seed": 5}
    rows, label = torch.arange(10, 10 + sampler.n), torch.arange(50) * 2
    return ImageLoader(TensorStore(images), rows, label, sampler, CPU, **recipe)


def test_views_are_normalised_as_stated() -> None:
    stored = torch.randint(0, 256, (6, 3, 5, 5), dtype=torch.uint8)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    views = make_views(
        stored,
        torch.arange(6),
        [WholeImage(), WholeImage()],
        scale=255.0,
        mean=torch.tensor(mean).float().view(-1, 1, 1),
        std=torch.tensor(std).float().view(-1, 1, 1),
        channels=3,
    )
    wanted = (stored.numpy() / 255 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    for view in views:
        assert view.dtype == torch.float32
        np.testing.assert_allclose(view.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_gray_images_are_repeated_before_views_are_made() -> None:
    class Tint(ImageView):
        deterministic = True

        def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
            return images * torch.tensor([1.0, 0.0, 0.5]).view(3, 1, 1)

    (view,) = make_views(
        torch.full((2, 1, 2, 2), 16, dtype=torch.uint8),
        torch.arange(2),
        [Tint()],
        scale=16.0,
        mean=torch.zeros(1, 1, 1),
        std=torch.ones(1, 1, 1),
        channels=3,
    )
    assert view[:, :, 0, 0].tolist() == [[1.0, 0.0, 0.5]] * 2


def test_batches_hold_what_their_indices_say() -> None:
    sampler = OrderSampler(23, 4, seed=1)
    batches = list(a_loader([WholeImage()], sampler))
    assert len(batches) == len(a_loader([WholeImage()], sampler)) == 6
    for batch, position in zip(batches, sampler, strict=True):
        assert torch.equal(batch["index"], position)
        assert batch["label"].tolist() == [2 * (10 + index) for index in batch["index"].tolist()]
        wanted = ((batch["index"] + 10) / 255 - 0.1) / 0.2
        torch.testing.assert_close(batch["views"][0][:, 0, 3, 2], wanted)
        assert batch["views"][0].shape == (len(position), 1, 4, 4)
        assert "share" not in batch


def test_the_share_is_told_where_it_is_not_one() -> None:
    loaders = [a_loader([WholeImage()], OrderSampler(11, 4, rank, 2, seed=0)) for rank in range(2)]
    shares = [[batch.get("share", 1.0) for batch in loader] for loader in loaders]
    assert shares == [[1.0, 2 / 3], [1.0, 4 / 3]]


def test_augmentation_depends_on_seed_epoch_and_sample_only() -> None:
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)

    def views_by_index(epoch: int, batch_size: int, rank: int = 0, world: int = 1) -> dict[int, Tensor]:
        loader = a_loader([CropFlip(2)], OrderSampler(20, batch_size, rank, world, seed=1), images)
        loader.sampler.set_epoch(epoch)
        return {int(i): v for batch in loader for i, v in zip(batch["index"], batch["views"][0], strict=True)}

    whole = views_by_index(epoch=3, batch_size=20)
    for other in (views_by_index(3, 3), views_by_index(3, 5, 0, 2) | views_by_index(3, 5, 1, 2)):
        assert all(torch.equal(whole[index], other[index]) for index in range(20))
    another = views_by_index(4, 20)
    assert not all(torch.equal(whole[index], another[index]) for index in range(20))


def test_views_of_one_sample_differ() -> None:
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    batch = next(iter(a_loader([CropFlip(2), CropFlip(2), WholeImage()], OrderSampler(20, 20, seed=1), images)))
    assert not torch.equal(batch["views"][0], batch["views"][1])
    plain = next(iter(a_loader([WholeImage()], OrderSampler(20, 20, seed=1), images)))
    assert torch.equal(batch["views"][2], plain["views"][0])


def test_padding_is_black() -> None:
    batch = next(iter(a_loader([CropFlip(4, flip=False)], OrderSampler(40, 40, seed=1))))
    assert float(batch["views"][0].min()) == pytest.approx((0 - 0.1) / 0.2)
    images = torch.rand(1, 1, 2, 2)
    corner = crop_flip(images, torch.tensor([0]), torch.tensor([0]), torch.tensor([False]), 2)
    assert corner.abs().max() == 0


@pytest.mark.parametrize("stop", [0, 1, 4, 6])
def test_a_loader_goes_on_where_its_state_was_saved(stop: int) -> None:
    loader = a_loader([CropFlip(1)], OrderSampler(23, 4, seed=1))
    loader.sampler.set_epoch(2)
    whole = list(loader)
    iterator = iter(loader)
    for _ in range(stop):
        next(iterator)
    state = loader.state_dict() if stop else {"epoch": 2, "offset": 0}
    resumed = a_loader([CropFlip(1)], OrderSampler(23, 4, seed=1))
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(2)
    rest = list(resumed)
    assert len(rest) == 6 - stop
    for batch, wanted in zip(rest, whole[stop:], strict=True):
        assert torch.equal(batch["index"], wanted["index"])
        assert torch.equal(batch["views"][0], wanted["views"][0])


def test_the_epoch_may_be_set_after_the_iterator_was_made() -> None:
    loader = a_loader([WholeImage()], OrderSampler(23, 23, seed=1))
    iterator = iter(loader)
    loader.sampler.set_epoch(1)  # Lightning does it in this order
    assert torch.equal(next(iterator)["index"], loader.sampler.order())


def test_reading_does_not_move_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    list(a_loader([CropFlip(1)], OrderSampler(23, 4, seed=1)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_files_give_the_batches_that_arrays_give(make_folder: Callable[..., Path], workers: int) -> None:
    files = FolderImages(str(make_folder())).load(Path(), True)
    recipe: dict[str, Any] = {
        "views": [CropFlip(1)],
        "scale": 255.0,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "channels": 3,
    }
    stores = TensorStore(read_all(files, 0).images), WorkerStore(files, workers, CPU)
    loaders = [
        ImageLoader(store, torch.arange(1, 12), files.label, OrderSampler(11, 4, seed=0), CPU, **recipe)
        for store in stores
    ]
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for ours, theirs in zip(*loaders, strict=True):
            assert torch.equal(ours["index"], theirs["index"])
            assert torch.equal(ours["label"], theirs["label"])
            assert torch.equal(ours["views"][0], theirs["views"][0])


def test_workers_survive_an_epoch_that_is_cut_short(make_folder: Callable[..., Path]) -> None:
    files = FolderImages(str(make_folder())).load(Path(), True)
    recipe: dict[str, Any] = {"views": [WholeImage()], "scale": 255.0, "mean": [0.0], "std": [1.0], "channels": 3}
    sampler = OrderSampler(12, 2, seed=0)
    loader = ImageLoader(WorkerStore(files, 1, CPU), torch.arange(12), files.label, sampler, CPU, **recipe)
    next(iter(loader))
    sampler.set_epoch(1)
    assert torch.equal(torch.cat([batch["index"] for batch in loader]), sampler.order())


def test_moments_agree_with_numpy() -> None:
    arrays = DigitsImages().load(Path(), True)
    rows = torch.arange(3, 1200, 2)
    mean, std = channel_moments(TensorStore(arrays.images), rows, arrays.scale)
    pixels = arrays.images.numpy()[rows.numpy()] / 16
    assert mean == [pytest.approx(pixels.mean(), rel=1e-12)]
    assert std == [pytest.approx(pixels.std(), rel=1e-12)]
    colours = torch.randint(0, 256, (600, 3, 4, 5), dtype=torch.uint8)
    mean, std = channel_moments(TensorStore(colours), torch.arange(600), 255.0)
    np.testing.assert_allclose(mean, colours.numpy().mean((0, 2, 3)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, colours.numpy().std((0, 2, 3)) / 255, rtol=1e-12)


def test_a_constant_channel_divides_by_one() -> None:
    mean, std = channel_moments(TensorStore(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)), torch.arange(3), 255.0)
    assert (mean, std) == ([pytest.approx(0.2)], [1.0])


def test_evaluation_is_in_order_and_augments_nothing() -> None:
    loader = a_loader([WholeImage()], EvalSampler(10, 4))
    loader.sampler.set_epoch(3)
    assert [batch["index"].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("batch", [{"image": torch.zeros(2, 1, 4, 4)}, {}])
def test_a_dict_without_views_is_no_batch(batch: dict) -> None:
    with pytest.raises(ValueError, match=r"a batch that is a dict must hold 'views', got ('image'|none)"):
        as_batch(batch)


@pytest.mark.parametrize("together", [0, 500, 1 << 30])
def test_batches_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    """Bit for bit, with random and resized views, a ragged last batch and half an epoch done."""
    views: list[ImageView] = [CropFlip(1), WholeImage(7), CropFlip(2)]
    images = torch.randint(0, 256, (50, 1, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def batches() -> list[dict[str, Any]]:
        sampler = OrderSampler(37, 5, rank=1, world_size=2, seed=2)
        sampler.load_state_dict({"epoch": 3, "offset": 10})
        return list(a_loader(views, sampler, images))  # type: ignore[arg-type]

    wanted = batches()
    assert [batch["visit"] for batch in wanted] == [3, 3, 3]
    monkeypatch.setattr("dinopl.data.loader._TOGETHER", together)
    for one, other in zip(wanted, batches(), strict=True):
        assert one.keys() == other.keys()
        assert one.get("share") == other.get("share")
        for key in ("index", "label"):
            assert torch.equal(one[key], other[key])
        assert all(map(torch.equal, one["views"], other["views"]))


def test_augmentations_come_round_again() -> None:
    images = torch.randint(0, 256, (50, 1, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def view_in_epoch(epoch: int, cycle: int | None) -> Tensor:
        sampler = EvalSampler(30, 30)
        sampler.epoch = epoch
        loader = a_loader([CropFlip(1)], sampler, images)
        loader.cycle = cycle
        return next(iter(loader))["views"][0]

    assert torch.equal(view_in_epoch(5, 4), view_in_epoch(1, None))
    assert not torch.equal(view_in_epoch(5, 4), view_in_epoch(5, None))
