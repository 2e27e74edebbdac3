"""Views of images: what a network sees of a sample.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 3 and appendix E: the paper distils on the
whole image, without augmentation. Each object makes one view, of a whole batch at once, on the images' device. Random
numbers come from the samples' keys, never from a generator, so that a view of a sample does not depend on what else is
in the batch. What differs from that paper's published code: a whole image is a plain resize, where it takes a random
crop whose area is always 1.

Several crops with roles, and augmentation, are those of DINO (Caron et al., ICCV 2021) as the published code of "Random
Teachers" has them. What differs from DINO's own code: crops are resized bilinearly, where it interpolates bicubically.
The operations are torchvision's v2, on the whole batch where they can be: mirroring, grey, solarising, and all colour
jitter but hue, which v2 shifts by one number for all images it gets. Blur, whose numbers v2 draws itself, runs on one
image at a time under a generator seeded by the image's key. v2 crops a batch at one place only; ``resized_crop`` gives
each image its own, with the same result.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dinopl.core.random import derived_keys, integers, uniform

Role = Literal["both", "teacher", "student"]
SIDES = ("teacher", "student")


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, anti-aliased resize, ``(B, C, H, W) -> (B, C, height, width)``; the input itself at that size."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)


def crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crops each image ``(B, C, H, W)`` out of its zero-padded self, then mirrors some; the shape stays.

    Args:
        images: ``(B, C, H, W)``.
        top: first row of each crop in the padded image, ``(B,)`` in ``[0, 2 * padding]``.
        left: first column, likewise.
        flip: whether to mirror left and right, ``(B,)`` bool.
        padding: pixels of zeros on each side.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = top[:, None] + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device).expand(batch, width)
    columns = left[:, None] + torch.where(flip[:, None], across.flip(1), across)
    pixels = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).reshape(batch, 1, -1)
    return padded.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view_as(images)


def resized_crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """Crops each image ``(B, C, H, W)`` at its own place and resizes it: ``(B, C, size, size)``.

    The result is that of torchvision's ``resized_crop`` for each image, bilinear and anti-aliased: a resize is a matrix
    of weights from the left, over rows, and one from the right, over columns.

    Args:
        images: ``(B, C, H, W)``, floating point.
        top: first row of each crop, ``(B,)``.
        left: first column, ``(B,)``.
        height: rows of each crop, ``(B,)``.
        width: columns, ``(B,)``.
        size: side of the result.
    """

    def weights(first: Tensor, count: Tensor, pixels: int) -> Tensor:
        """A triangle around the centre of each new pixel, cut at the crop's ends: ``(B, size, pixels)``."""
        first, count = first.to(images)[:, None, None], count.to(images)[:, None, None]
        new, old = torch.arange(size).to(images)[:, None], torch.arange(pixels).to(images)
        step = count / size  # old pixels per new one; the triangle spans two of the larger
        triangle = (1 - (old + 0.5 - first - (new + 0.5) * step).abs() / step.clamp(min=1)).clamp(min=0)
        triangle = triangle * ((old >= first) & (old < first + count))
        return triangle / triangle.sum(dim=-1, keepdim=True)

    rows, columns = weights(top, height, images.shape[-2]), weights(left, width, images.shape[-1])
    return rows[:, None] @ images @ columns[:, None].mT


def each_image(transform: Callable[[Tensor], Tensor], images: Tensor, keys: Tensor, chosen: Tensor) -> Tensor:
    """Applies a transform that draws from torch's generator to some images, each with the numbers of its own key.

    Args:
        transform: of one image ``(C, H, W)``, such as torchvision's v2 have.
        images: ``(B, C, H, W)``.
        keys: one per image, ``(B,)`` int64.
        chosen: which images it is applied to, ``(B,)`` bool.
    """
    images = images.clone()
    with torch.random.fork_rng(devices=[]):
        for row, key in zip(chosen.nonzero()[:, 0].tolist(), keys[chosen].tolist(), strict=True):
            torch.default_generator.manual_seed(key)
            images[row] = transform(images[row])
    return images


def jitter_colours(images: Tensor, keys: Tensor, strength: Sequence[float], chosen: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of each image, changed in an order of its own, as v2's ``ColorJitter``.

    The first three blend an image with black, with its mean grey, and with its grey self, which is what v2 makes of it
    at factor 0; so a batch takes one blend for each.

    Args:
        images: ``(B, C, H, W)``; 0 is black, 1 is white.
        keys: one per image, ``(B,)`` int64.
        strength: of each of the four: factors are even in ``[max(0, 1 - s), 1 + s]``, shifts of hue in ``[-s, s]``.
        chosen: which images are changed, ``(B,)`` bool.
    """
    from torchvision.transforms.v2 import functional as transforms

    draws = uniform(keys, 0, 8)
    order = draws[:4].argsort(dim=0)  # which change comes at each place
    least = [max(0.0, 1 - s) for s in strength[:3]]
    factors = [low + (1 + s - low) * draw for low, s, draw in zip(least, strength, draws[4:7], strict=False)]
    shift = (2 * draws[7] - 1) * strength[3]
    changes = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
    images = images.clone()
    for place in order:
        for number, change in enumerate(changes):
            rows = (chosen & (place == number)).nonzero()[:, 0]
            part, factor = images[rows], factors[number][rows, None, None, None].to(images)
            base = change(part, 0.0)
            images[rows] = (base + factor * (part - base)).clamp(0, 1)
        if images.shape[1] == 3:
            rows = (chosen & (place == 3)).nonzero()[:, 0]
            for row, by in zip(rows.tolist(), shift[rows].tolist(), strict=True):
                images[row] = transforms.adjust_hue(images[row], by)
    return images


class ImageView(ABC):
    """Makes one view of each image of a batch.

    Attributes:
        seen_by: which networks see the view, of "teacher" and "student".
    """

    seen_by: tuple[str, ...] = SIDES

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """Whether the view depends on the image alone, so that what is computed from it may be kept."""

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Makes the views ``(B, C, h, w)``, which may share the input's storage, and must not change it.

        Args:
            images: ``(B, C, H, W)`` floating point, before normalisation: 0 is black, 1 is white.
            keys: one key per sample, ``(B,)`` int64, for ``dinopl.core.random.uniform`` and ``integers``.
        """

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the view of an image of that height and width."""
        return height, width

    def __repr__(self) -> str:
        public = (f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(public)})"


class WholeImage(ImageView):
    """The whole image, without augmentation.

    Args:
        size: what the image is resized to: the side of a square, or height and width; None keeps the data's size (see
            ``ImageDataModule``).
    """

    def __init__(self, size: int | tuple[int, int] | None = None) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size={size}: give positive numbers of pixels, or None for the data's own")

    @property
    def deterministic(self) -> bool:
        """True."""
        return True

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that was chosen, or else the image's own."""
        return self.size or (height, width)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Resizes; a no-op at native size."""
        return resize(images, *self.out_size(*images.shape[-2:]))


class CropFlip(ImageView):
    """Random crop out of the zero-padded image, and random mirroring: the usual augmentation of small images.

    Args:
        padding: pixels of zeros added on each side before cropping.
        flip: whether half of the images, chosen at random, are mirrored left and right.
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        if padding < 0:
            raise ValueError(f"padding={padding}: give 0 or more pixels")
        self.padding = padding
        self.flip = flip

    @property
    def deterministic(self) -> bool:
        """True only if there is nothing to draw."""
        return self.padding == 0 and not self.flip

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Crops and mirrors each image by its key."""
        places = 2 * self.padding + 1
        top, left, flip = integers(keys, 0, (places, places, 2 if self.flip else 1))
        return crop_flip(images, top, left, flip.bool(), self.padding)


class ResizedCrop(ImageView):
    """A random part of the image, resized: a crop of DINO.

    Args:
        size: side of the result in pixels.
        scale: least and largest share of the image's area.
        ratio: least and largest width over height, drawn evenly in logarithm.

    Raises:
        ValueError: if the size, the scale or the ratio cannot be.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.4, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        if size < 1:
            raise ValueError(f"size={size}: give a positive number of pixels")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale={list(scale)}: give two increasing shares of the area in (0, 1]")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio={list(ratio)}: give two increasing positive numbers")
        self.size, self.scale, self.ratio = size, tuple(scale), tuple(ratio)

    @property
    def deterministic(self) -> bool:
        """False."""
        return False

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that was chosen."""
        return self.size, self.size

    def places(self, keys: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where each image is cropped: top, left, height and width, ``(B,)`` int64 each.

        As torchvision's ``RandomResizedCrop`` draws them: area and ratio up to ten times until the crop fits into
        the image; else the largest crop in its centre whose ratio is allowed.
        """
        tries = 10
        area, ratio = uniform(keys, 0, 2 * tries).double().view(tries, 2, -1).unbind(1)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        low, high = map(math.log, self.ratio)
        ratio = torch.exp(low + (high - low) * ratio)
        w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = torch.where(fits.any(0), fits.int().argmax(0), tries)[None]  # of a last row: the crop that always fits
        widest, highest = round(height * self.ratio[1]), round(width / self.ratio[0])
        w = torch.cat([w, w.new_full(w[:1].shape, min(width, widest))]).gather(0, first)[0]
        h = torch.cat([h, h.new_full(h[:1].shape, min(height, highest))]).gather(0, first)[0]
        free_rows, free_columns = height - h, width - w
        down, right = uniform(keys, 2 * tries, 2).double()
        centre = first[0] == tries
        top = torch.where(centre, free_rows // 2, (down * (free_rows + 1)).long())
        return top, torch.where(centre, free_columns // 2, (right * (free_columns + 1)).long()), h, w

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Crops and resizes each image by its key."""
        return resized_crop(images, *self.places(keys, *images.shape[-2:]), self.size)


class DINOAugmentation(ImageView):
    """DINO's changes of colour and sharpness: one of three pipelines for each image.

    All mirror (probability ``flip``), jitter colours (0.8) and turn to grey (0.2). The first pipeline (probability 0.4)
    also blurs; the second (0.4) blurs with probability 0.1 and solarises with 0.2; the third (0.2) blurs with 0.5.
    That is how the published code of "Random Teachers" draws them. What differs from DINO: the pipeline does not
    depend on whether the crop is a global one.

    Args:
        flip: probability of mirroring left and right.
        jitter: strength of brightness, contrast, saturation and hue.
        blur_from: side of the image, in pixels, from which on images are blurred: the code of "Random Teachers" spares
            smaller ones.
    """

    def __init__(
        self,
        flip: float = 0.5,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
        blur_from: int = 64,
    ) -> None:
        if not 0 <= flip <= 1:
            raise ValueError(f"flip={flip}: give a probability in [0, 1]")
        if min(jitter) < 0 or jitter[3] > 0.5:
            raise ValueError(f"jitter={list(jitter)}: give four numbers of at least 0, the last of at most 0.5")
        self.flip, self.jitter, self.blur_from = flip, tuple(jitter), blur_from

    @property
    def deterministic(self) -> bool:
        """False."""
        return False

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Changes each image by its key."""
        from torchvision.transforms import v2
        from torchvision.transforms.v2 import functional as transforms

        pipeline, flip, jitter, grey, blur, solarise = uniform(keys, 0, 6)
        first, second = pipeline < 0.4, (pipeline >= 0.4) & (pipeline < 0.8)
        colour_keys, blur_keys = derived_keys(keys, 6, 2)

        def where(chosen: Tensor, changed: Tensor, others: Tensor) -> Tensor:
            return torch.where(chosen[:, None, None, None], changed, others)

        images = where(flip < self.flip, transforms.horizontal_flip(images), images)
        images = jitter_colours(images, colour_keys, self.jitter, jitter < 0.8)
        images = where(grey < 0.2, transforms.rgb_to_grayscale(images, images.shape[1]), images)
        if min(images.shape[-2:]) >= self.blur_from:
            blurred = first | (second & (blur < 0.1)) | (~first & ~second & (blur < 0.5))
            images = each_image(v2.GaussianBlur(9, (0.1, 2.0)), images, blur_keys, blurred)
        return where(second & (solarise < 0.2), transforms.solarize(images, 128 / 255), images)


class MultiCrop:
    """Several crops of one image, by the names of the published code of "Random Teachers".

    ``2x32+4x32`` is two global crops of 32 pixels, of 0.4 to 1.0 of the area, for both networks, and four local ones of
    32 pixels, of 0.05 to 0.4, for the student; ``2x32`` is two of 0.14 to 1.0 for both; ``1x32`` is the whole image,
    resized. Other numbers of crops are formed alike.

    Args:
        spec: the name: number and size of the global crops and, after a plus, of the local ones.
        then: what is done to each crop, in order.
        global_scale: least and largest share of the area of the global crops; None: as above.
        local_scale: likewise, of the local ones.

    Attributes:
        views: one for each crop, the global ones first.

    Raises:
        ValueError: if ``spec`` is no such name, or has no crop for the teacher.
    """

    def __init__(
        self,
        spec: str = "2x32+4x32",
        then: Sequence[ImageView] = (),
        global_scale: tuple[float, float] | None = None,
        local_scale: tuple[float, float] = (0.05, 0.4),
    ) -> None:
        match = re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+)x(\d+))?", spec)
        if match is None:
            raise ValueError(f"spec={spec}: must be like 2x32+4x32, 2x32 or 1x32: numbers and sizes of crops")
        count, size, local, local_size = (int(number or 0) for number in match.groups())
        if count < 1:
            raise ValueError(f"spec={spec}: leaves the teacher without a crop; give at least one global crop")
        self.spec, self.then = spec, list(then)
        scale = global_scale or ((0.4, 1.0) if local else (0.14, 1.0))
        whole = count == 1 and not local and global_scale is None
        crop = WholeImage(size) if whole else ResizedCrop(size, scale)
        self.views: list[ImageView] = [Chain([crop, *then]) for _ in range(count)]
        if local:
            crop = ResizedCrop(local_size, local_scale)
            self.views += [Chain([crop, *then], role="student") for _ in range(local)]


_STEP = 1 << 19  # draws below this number are a view's own, those from it on give each step of a chain its key


class Chain(ImageView):
    """One view after another: the next sees what the one before it made.

    Args:
        steps: in order; the image's key gives each step its own.
        role: which networks see the result: ``both``, ``teacher`` or ``student``.
    """

    def __init__(self, steps: Sequence[ImageView], role: Role = "both") -> None:
        self.steps = list(steps)
        self.seen_by = SIDES if role == "both" else (role,)

    @property
    def deterministic(self) -> bool:
        """Whether every step is."""
        return all(step.deterministic for step in self.steps)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """The size after the last step."""
        for step in self.steps:
            height, width = step.out_size(height, width)
        return height, width

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Makes each view of the one before it."""
        for number, step in enumerate(self.steps):
            images = step(images, keys if step.deterministic else derived_keys(keys, _STEP + number)[0])
        return images
