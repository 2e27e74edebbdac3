import numpy as np
import pytest
import torch
from torch import Tensor

from dinopl.core.random import sample_keys
from dinopl.data.views import CropFlip, WholeImage, crop_flip


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
