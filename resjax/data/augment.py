"""What happens to images on the host: pure functions of arrays and random draws.

Every draw is made for the whole batch before any image is looked at, so row i of a batch depends on the batch's
generator and on image i alone, and a host that reads only some rows of a batch can make the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

AUGMENTATIONS = ("none", "crop", "crop_flip", "resized_crop_flip")
NORMALIZATIONS = ("pixel_mean", "channel")

# Mean and standard deviation of ImageNet's training images by channel, on the scale of bytes.
IMAGENET_MEAN = 255 * np.array([0.485, 0.456, 0.406])
IMAGENET_STD = 255 * np.array([0.229, 0.224, 0.225])

# Inception crops (Szegedy et al. 2015): share of the area, aspect ratio, tries before the centre crop.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10

# Published single-crop results resize the short side to 256 and keep the central 224.
SHORT_SIDE = 256 / 224


# One array if all images have one size, else a list of them.
Images = Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class Normalize:
    """(image - mean) / std, in the units of the stored pixels.

    Attributes:
        mean: float32, [H, W, C] (per pixel) or [C] (per channel).
        std: float32, scalar or [C].
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def per_pixel(cls, images: np.ndarray) -> "Normalize":
        """Per-pixel mean of uint8 images [N, H, W, C] and one standard deviation of what is left.

        The papers subtract the mean and do not divide; one scalar leaves that geometry alone and brings pixels to
        unit variance, so that initialisation and learning rates do not depend on the range they are stored in.
        """
        mean, mean_square = _moments(images)
        return cls(mean.astype(np.float32), _std((mean_square - mean**2).mean()))

    @classmethod
    def per_channel(cls, images: np.ndarray) -> "Normalize":
        """Mean and standard deviation by channel of uint8 images [N, H, W, C]."""
        mean, mean_square = (moment.mean(axis=(0, 1)) for moment in _moments(images))
        return cls(mean.astype(np.float32), _std(mean_square - mean**2))

    @classmethod
    def imagenet(cls) -> "Normalize":
        """The usual constants, for sets that are too large to be read before training."""
        return cls(IMAGENET_MEAN.astype(np.float32), IMAGENET_STD.astype(np.float32))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, C] uint8 -> float32."""
        result = images.astype(np.float32)
        result -= self.mean
        result *= 1 / self.std
        return result


@dataclass(frozen=True)
class Processing:
    """How stored images become network inputs.

    Attributes:
        augment: one of AUGMENTATIONS.
        pad: zeros put on each side before a random crop, in pixels ('crop', 'crop_flip').
        size: side of the square result in pixels, or 0 to keep the images as stored.
        normalize: applied between resizing and padding, so the padded zeros are the mean image.
    """

    augment: str
    pad: int
    size: int
    normalize: Normalize

    def train(self, images: Images, rng: np.random.Generator) -> np.ndarray:
        """Random views: B uint8 images [H, W, C] -> float32 [B, H', W', C]."""
        if self.augment == "resized_crop_flip":
            result = self.normalize(random_resized_crop(images, self.size, rng))
        else:
            result = self.normalize(self._whole(images))
        if self.augment in ("crop", "crop_flip"):
            result = random_crop(result, self.pad, rng)
        if self.augment in ("crop_flip", "resized_crop_flip"):
            result = random_flip(result, rng)
        return result

    def evaluate(self, images: Images) -> np.ndarray:
        """The one fixed view: B uint8 images [H, W, C] -> float32 [B, H', W', C]."""
        return self.normalize(self._whole(images))

    def _whole(self, images: Images) -> np.ndarray:
        if self.size:
            return np.stack([centre_view(image, self.size) for image in images])
        return np.asarray(images)


def random_crop(images: np.ndarray, pad: int, rng: np.random.Generator) -> np.ndarray:
    """Puts `pad` zeros on each side of [B, H, W, C] and crops each image back to H x W at random."""
    batch, height, width, channels = images.shape
    offsets = rng.integers(0, 2 * pad + 1, size=(batch, 2))
    padded = np.zeros((batch, height + 2 * pad, width + 2 * pad, channels), images.dtype)
    padded[:, pad : pad + height, pad : pad + width] = images
    result = np.empty_like(images)
    for i, (y, x) in enumerate(offsets.tolist()):
        result[i] = padded[i, y : y + height, x : x + width]
    return result


def random_flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors each image of [B, H, W, C] left to right with probability 1/2."""
    mirror = rng.random(len(images)) < 0.5
    result = images.copy()
    result[mirror] = images[mirror, :, ::-1]
    return result


def random_resized_crop(images: Images, size: int, rng: np.random.Generator) -> np.ndarray:
    """Inception crops: B uint8 images [H, W, C] of any sizes -> uint8 [B, size, size, C].

    Each crop has 8-100 % of the image's area and a log-uniform aspect ratio in 3/4-4/3; it is resized with Pillow's
    bilinear filter, which averages over the source pixels when it shrinks (antialiasing).
    """
    draws = rng.random((len(images), TRIES, 4))
    return np.stack(
        [_resize(image, crop_box(image.shape[:2], d), (size, size)) for image, d in zip(images, draws, strict=True)]
    )


def crop_box(shape: Sequence[int], draws: np.ndarray) -> tuple[int, int, int, int]:
    """The crop of an image of `shape` (H, W) that uniform `draws` [TRIES, 4] choose: left, top, right, bottom.

    The four numbers of a try set its area, its aspect ratio and where it lies. If no try fits, the centre is taken:
    all of it if its aspect ratio is allowed, else as much as is.
    """
    height, width = shape
    for area_draw, ratio_draw, y_draw, x_draw in draws:
        area = height * width * (AREA[0] + area_draw * (AREA[1] - AREA[0]))
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio_draw
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x_draw * (width - w + 1)), int(y_draw * (height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * RATIO[1])))
    h = max(1, min(height, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def centre_view(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes the short side of a uint8 image [H, W, C] to 256/224 * size and crops the central size x size."""
    height, width = image.shape[:2]
    scale = round(SHORT_SIDE * size) / min(height, width)
    h, w = max(size, round(height * scale)), max(size, round(width * scale))
    resized = _resize(image, (0, 0, width, height), (w, h))
    top, left = (h - size) // 2, (w - size) // 2
    return resized[top : top + size, left : left + size]


def _resize(image: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Resizes box (left, top, right, bottom) of a uint8 image [H, W, C] to size (width, height), antialiased."""
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized).reshape(size[1], size[0], image.shape[-1])


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and of x^2 over uint8 images [N, H, W, C], exact up to the division: float64 [H, W, C]."""
    total = np.zeros(images.shape[1:], np.int64)
    total_square = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), 1024):  # so that no copy of the whole set is made; 1024 * 255^2 < 2^31
        chunk = images[start : start + 1024].astype(np.int32)
        total += chunk.sum(axis=0)
        total_square += np.square(chunk).sum(axis=0)
    return total / len(images), total_square / len(images)


def _std(variance: np.ndarray) -> np.ndarray:
    """Standard deviation, or 1 where images are constant: there is nothing to scale."""
    return np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1).astype(np.float32)
