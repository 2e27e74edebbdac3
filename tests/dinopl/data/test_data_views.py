from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinopl.core.random import sample_keys, uniform
from dinopl.data import ImageDataModule
from dinopl.data.views import (
    Chain,
    CropFlip,
    DINOAugmentation,
    ImageView,
    MultiCrop,
    ResizedCrop,
    WholeImage,
    crop_flip,
    each_image,
    jitter_colours,
    resized_crop,
)


def naive_crop_flip(images: Tensor, top: list[int], left: list[int], flip: list[bool], padding: int) -> np.ndarray:
    """One image at a time, in numpy."""
    out = []
    for image, row, column, mirrored in zip(images.numpy(), top, left, flip, strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        crop = padded[:, row : row + image.shape[1], column : column + image.shape[2]]
        out.append(crop[:, :, ::-1] if mirrored else crop)
    return np.stack(out)


@pytest.mark.parametrize(("shape", "padding"), [((6, 3, 5, 7), 2), ((4, 1, 8, 8), 4), ((1, 3, 4, 4), 0)])
def test_crop_flip_agrees_with_the_naive_form(shape: tuple[int, ...], padding: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape, generator=generator)
    top, left = torch.randint(2 * padding + 1, (2, shape[0]), generator=generator)
    flip = torch.arange(shape[0]) % 2 == 0
    wanted = naive_crop_flip(images, top.tolist(), left.tolist(), flip.tolist(), padding)
    np.testing.assert_array_equal(crop_flip(images, top, left, flip, padding).numpy(), wanted)


def test_crop_flip_takes_images_in_any_layout() -> None:
    images = torch.rand(3, 5, 5, 2).permute(0, 3, 1, 2)
    place, flip = torch.tensor([0, 1, 2]), torch.tensor([True, False, True])
    wanted = crop_flip(images.contiguous(), place, place, flip, 1)
    assert torch.equal(crop_flip(images, place, place, flip, 1), wanted)


def test_a_view_of_a_sample_does_not_depend_on_the_rest_of_the_batch() -> None:
    view, images, keys = CropFlip(2), torch.rand(16, 3, 8, 8), sample_keys(0, 1, torch.arange(16))
    whole = view(images, keys)
    assert torch.equal(view(images[5:6], keys[5:6])[0], whole[5])
    assert torch.equal(view(images.flip(0), keys.flip(0)).flip(0), whole)


def test_crops_and_flips_take_every_form() -> None:
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    made = CropFlip(1)(image.expand(2000, -1, -1, -1), sample_keys(0, 0, torch.arange(2000)))
    assert len(made.flatten(1).unique(dim=0)) == 3 * 3 * 2
    mirrored = (made[:, 0, 1, 0] > made[:, 0, 1, 2]).float().mean()  # the centre row is in every crop, increasing
    assert 0.2 < mirrored < 0.8
    unmirrored = CropFlip(1, flip=False)(image.expand(500, -1, -1, -1), sample_keys(0, 0, torch.arange(500)))
    assert len(unmirrored.flatten(1).unique(dim=0)) == 3 * 3


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.arange(4.0).view(1, 1, 1, 4).expand(4000, -1, -1, -1)
    made = CropFlip(0)(images, sample_keys(2, 0, torch.arange(4000)))
    assert float((made[:, 0, 0, 0] == 3).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_a_whole_image_at_native_size_is_the_image_itself() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert WholeImage()(images, torch.arange(2)) is images
    assert WholeImage(8)(images, torch.arange(2)) is images


@pytest.mark.parametrize("size", [4, 13])
def test_a_whole_image_is_a_plain_resize(size: int) -> None:
    from torchvision.transforms.v2.functional import resize

    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(WholeImage(size)(images, torch.arange(2)), resize(images, [size, size], antialias=True))


def test_the_papers_crop_of_area_one_is_a_plain_resize() -> None:
    """The authors' view ``1xS`` is a random resized crop with all of the area."""
    from torchvision.transforms.v2 import RandomResizedCrop

    images = torch.rand(4, 3, 32, 32)
    for size in (28, 32, 64):
        theirs = RandomResizedCrop(size, scale=(1.0, 1.0), antialias=True)(images)
        torch.testing.assert_close(WholeImage(size)(images, torch.arange(4)), theirs)


def test_sizes_and_determinism_are_told() -> None:
    assert WholeImage().out_size(5, 7) == (5, 7)
    assert WholeImage(9).out_size(5, 7) == (9, 9)
    assert WholeImage((4, 6)).out_size(5, 7) == (4, 6)
    assert CropFlip().out_size(5, 7) == (5, 7)
    assert WholeImage().deterministic
    assert not CropFlip().deterministic
    assert CropFlip(0, flip=False).deterministic


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="size=0: give"):
        WholeImage(0)
    with pytest.raises(ValueError, match="padding=-1: give"):
        CropFlip(-1)


@pytest.mark.parametrize(("shape", "size"), [((12, 3, 9, 14), 8), ((12, 1, 8, 8), 8), ((12, 3, 20, 20), 5)])
def test_crops_of_a_batch_are_those_of_torchvision(shape: tuple[int, ...], size: int) -> None:
    from torchvision.transforms.v2 import functional

    images = torch.rand(shape)
    keys = sample_keys(3, 0, torch.arange(shape[0]))
    places = ResizedCrop(size, (0.05, 1.0)).places(keys, *shape[-2:])
    made = resized_crop(images, *places, size)
    for image, crop, *place in zip(images, made, *(numbers.tolist() for numbers in places), strict=True):
        torch.testing.assert_close(crop, functional.resized_crop(image, *place, [size, size], antialias=True))


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(32, 32, (0.05, 0.4)), (24, 40, (0.4, 1.0)), (8, 40, (0.9, 1.0))]
)
def test_crops_are_drawn_as_torchvision_draws_them(height: int, width: int, scale: tuple[float, float]) -> None:
    """Means over 2,000 crops, of both within five standard errors; in the last image no crop fits but the central."""
    from torchvision.transforms.v2 import RandomResizedCrop as Theirs

    top, left, h, w = ResizedCrop(8, scale).places(sample_keys(0, 0, torch.arange(2000)), height, width)
    assert bool(((top >= 0) & (left >= 0) & (h > 0) & (w > 0) & (top + h <= height) & (left + w <= width)).all())
    draw = Theirs(8, scale=scale)
    theirs = [draw.make_params([torch.empty(1, height, width)]) for _ in range(2000)]
    for own, name in ((top, "top"), (left, "left"), (h, "height"), (w, "width")):
        other = torch.tensor([place[name] for place in theirs]).double()
        error = ((own.double().var() + other.var()) / 2000).sqrt()
        assert abs(float(own.double().mean() - other.mean())) <= 5 * float(error) + 1e-9, name


@pytest.mark.parametrize(
    "view", [ResizedCrop(6), DINOAugmentation(blur_from=8), MultiCrop("2x6", [CropFlip(1)]).views[1]]
)
def test_a_random_view_depends_on_the_samples_key_alone(view: ImageView) -> None:
    images, keys = torch.rand(16, 3, 8, 8), sample_keys(0, 1, torch.arange(16))
    whole = view(images, keys)
    torch.testing.assert_close(view(images.flip(0), keys.flip(0)).flip(0), whole)
    torch.testing.assert_close(view(images[5:6], keys[5:6])[0], whole[5])
    assert not torch.equal(view(images, sample_keys(0, 2, torch.arange(16))), whole)
    assert not view.deterministic


def test_an_images_own_numbers_are_those_of_a_generator_seeded_by_its_key() -> None:
    from torchvision.transforms.v2 import ColorJitter

    transform, images, keys = ColorJitter(0.4, 0.4, 0.2, 0.1), torch.rand(4, 3, 8, 8), torch.tensor([5, -9, 2, 1 << 40])
    state = torch.get_rng_state()
    made = each_image(transform, images, keys, torch.tensor([True, True, False, True]))
    assert torch.equal(torch.get_rng_state(), state)
    for row, key in enumerate(keys.tolist()):
        torch.manual_seed(key)
        assert torch.equal(made[row], images[row] if row == 2 else transform(images[row]))


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_those_of_torchvisions_jitter(channels: int) -> None:
    """Each image alone, by torchvision's own transform with the same order and numbers."""
    from torchvision.transforms.v2 import ColorJitter

    strength, images, keys = (0.4, 1.5, 0.2, 0.1), torch.rand(40, channels, 6, 6), sample_keys(7, 0, torch.arange(40))
    made = jitter_colours(images, keys, strength, torch.arange(40) < 35)
    draws = uniform(keys, 0, 8).double()
    for row in range(35):
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        lows = (0.6, 0.0, 0.8, -0.1)
        highs = (1.4, 2.5, 1.2, 0.1)
        numbers = zip(names, lows, highs, draws[4:, row].tolist(), strict=True)
        params: dict[str, Any] = {name: low + (high - low) * u for name, low, high, u in numbers}
        params["fn_idx"] = draws[:4, row].argsort()
        expected = ColorJitter(0.4, 1.5, 0.2, 0.1).transform(images[row], params)
        torch.testing.assert_close(made[row], expected, atol=1e-5, rtol=0)
    assert torch.equal(made[35:], images[35:])


def test_the_three_pipelines_have_the_papers_shares() -> None:
    """Of 2,000 images with a dark left and a light right half, all coloured; five standard errors are 0.056."""
    image = torch.full((3, 4, 4), 0.05)
    image[0, :, :2], image[1, :, 2:] = 0.1, 0.95
    keys = sample_keys(4, 0, torch.arange(2000))
    made = DINOAugmentation(jitter=(0, 0, 0, 0))(image.expand(2000, -1, -1, -1), keys)
    grey = (made[:, 0] - made[:, 1]).abs().amax((1, 2)) < 1e-6
    mirrored = made.sum(1)[:, 0, 0] > made.sum(1)[:, 0, -1]
    solarised = made.amax((1, 2, 3)) < 0.5  # what is light is turned over
    assert float(grey.float().mean()) == pytest.approx(0.2, abs=0.056)
    assert float((solarised & ~grey).float().sum() / (~grey).sum()) == pytest.approx(0.4 * 0.2, abs=0.056)
    assert float(mirrored[~solarised].float().mean()) == pytest.approx(0.5, abs=0.06)


def test_small_images_are_not_blurred_and_large_ones_are_by_pipeline() -> None:
    images = (torch.arange(64) % 2).float().expand(300, 1, 64, 64).contiguous()
    keys = sample_keys(5, 0, torch.arange(300))
    options: dict[str, Any] = {"flip": 0.0, "jitter": (0, 0, 0, 0)}
    sharp = DINOAugmentation(**options, blur_from=65)(images, keys)
    blurred = (DINOAugmentation(**options)(images, keys) != sharp).any(dim=3).any(dim=2)[:, 0]
    assert bool(((sharp == images) | (sharp == 1 - images)).all())
    assert float(blurred.float().mean()) == pytest.approx(0.4 + 0.4 * 0.1 + 0.2 * 0.5, abs=0.15)


@pytest.mark.parametrize("size", [8, 28])
def test_named_crops_have_the_papers_numbers_scales_and_roles(size: int) -> None:
    both, student = ("teacher", "student"), ("student",)
    crops = MultiCrop(f"2x{size}+4x{size - 2}").views
    assert [view.seen_by for view in crops] == [both] * 2 + [student] * 4
    assert [view.out_size(32, 32)[0] for view in crops] == [size] * 2 + [size - 2] * 4
    found = [(crop.steps[0].scale, crop.steps[0].ratio) for crop in crops]  # type: ignore[attr-defined]
    assert found == [((0.4, 1.0), (3 / 4, 4 / 3))] * 2 + [((0.05, 0.4), (3 / 4, 4 / 3))] * 4
    two = MultiCrop(f"2x{size}").views
    assert [(view.seen_by, view.steps[0].scale) for view in two] == [(both, (0.14, 1.0))] * 2  # type: ignore[attr-defined]
    (one,) = MultiCrop(f"1x{size}").views
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(one(images, torch.arange(2)), WholeImage(size)(images, torch.arange(2)))
    assert one.deterministic
    assert one.seen_by == both
    assert not MultiCrop(f"1x{size}", [CropFlip()]).views[0].deterministic


def test_batches_name_roles_and_hold_the_same_crops_whatever_their_size() -> None:
    """The crops of a sample in the second epoch, from batches of 16 and of 50, and after an offset."""

    def crops(batch_size: int, skip: int = 0) -> dict[int, list[Tensor]]:
        views = MultiCrop("2x8+1x6", [DINOAugmentation()])
        data = ImageDataModule(views=views, batch_size=batch_size, train_size=100, seed=3)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.load_state_dict({"epoch": 1, "offset": skip})
        found = {}
        for batch in loader:
            assert batch["teacher_views"] == [0, 1]
            assert "student_views" not in batch
            for row, index in enumerate(batch["index"].tolist()):
                found[index] = [view[row] for view in batch["views"]]
        return found

    whole, other, rest = crops(16), crops(50), crops(16, 32)
    assert len(whole) == len(other) == 100
    assert len(rest) == 68
    for index, views in whole.items():
        assert [view.shape for view in views] == [(1, 8, 8), (1, 8, 8), (1, 6, 6)]
        for found in (other, rest):
            torch.testing.assert_close(found.get(index, views), views)
    assert not torch.equal(whole[0][0], whole[0][1])


def test_a_view_says_what_it_is_without_an_address() -> None:
    """A fingerprint of data is made of it."""
    assert repr(Chain([CropFlip(2), WholeImage()])) == (
        "Chain(steps=[CropFlip(padding=2, flip=True), WholeImage(size=None)], seen_by=('teacher', 'student'))"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiCrop("4x"), "spec=4x: must be like 2x32"),
        (lambda: MultiCrop("0x32+4x32"), "spec=0x32.4x32: leaves the teacher without a crop"),
        (lambda: MultiCrop("2x0"), "size=0: give"),
        (lambda: ResizedCrop(8, (0.5, 0.2)), r"scale=\[0.5, 0.2\]: give two increasing"),
        (lambda: ResizedCrop(8, (0.0, 0.2)), r"scale=\[0.0, 0.2\]: give"),
        (lambda: ResizedCrop(8, ratio=(2, 1)), r"ratio=\[2, 1\]: give two increasing"),
        (lambda: DINOAugmentation(flip=2), "flip=2: give a probability"),
        (lambda: DINOAugmentation(jitter=(0, 0, 0, 0.7)), r"jitter=\[0, 0, 0, 0.7\]: give four"),
    ],
)
def test_views_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
