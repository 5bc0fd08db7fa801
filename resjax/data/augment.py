"""Random views of training images, made on the host: pure functions of arrays and random draws.

All draws are made for the whole batch, so row i of a batch depends only on the batch's generator and on image i: a
process that reads only some rows makes the same ones.
"""

from collections.abc import Sequence

import numpy as np

from resjax.data.order import Share
from resjax.data.preprocess import Images, Preprocessing, resize

AUGMENTATIONS = ("none", "crop", "crop_flip", "resized_crop_flip")
NORMALIZATIONS = ("pixel_mean", "channel")

# Inception crops (Szegedy et al. 2015): share of the area, aspect ratio, tries before the centre crop.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10


def random_views(
    images: Images, share: Share, augment: str, pad: int, preprocessing: Preprocessing, rng: np.random.Generator
) -> np.ndarray:
    """Views for training: B uint8 images [H, W, C] -> float32 [B, H', W', C].

    Args:
        share: which rows of the batch these images are.
        augment: one of AUGMENTATIONS.
        pad: zeros put on each side before a random crop, in pixels ('crop', 'crop_flip'). They come after
            normalisation, so they stand for the mean image.
    """
    if augment == "resized_crop_flip":
        views = random_resized_crop(images, share, preprocessing.size, preprocessing.interpolation, rng)
    else:
        views = preprocessing.view(images)
    result = preprocessing.normalize(views)
    if augment in ("crop", "crop_flip"):
        result = random_crop(result, share, pad, rng)
    if augment in ("crop_flip", "resized_crop_flip"):
        result = random_flip(result, share, rng)
    return result


def random_crop(images: np.ndarray, share: Share, pad: int, rng: np.random.Generator) -> np.ndarray:
    """Puts `pad` zeros on each side of [B, H, W, C] and crops each image back to H x W at random."""
    batch, height, width, channels = images.shape
    offsets = rng.integers(0, 2 * pad + 1, size=(share.batch_size, 2))[share.rows]
    padded = np.zeros((batch, height + 2 * pad, width + 2 * pad, channels), images.dtype)
    padded[:, pad : pad + height, pad : pad + width] = images
    result = np.empty_like(images)
    for i, (y, x) in enumerate(offsets.tolist()):
        result[i] = padded[i, y : y + height, x : x + width]
    return result


def random_flip(images: np.ndarray, share: Share, rng: np.random.Generator) -> np.ndarray:
    """Mirrors each image of [B, H, W, C] left to right with probability 1/2."""
    mirror = rng.random(share.batch_size)[share.rows] < 0.5
    result = images.copy()
    result[mirror] = images[mirror, :, ::-1]
    return result


def random_resized_crop(
    images: Images, share: Share, size: int, interpolation: str, rng: np.random.Generator
) -> np.ndarray:
    """Inception crops: B uint8 images [H, W, C] of any sizes -> uint8 [B, size, size, C].

    Each crop has 8-100 % of the image's area and a log-uniform aspect ratio in 3/4-4/3.
    """
    draws = rng.random((share.batch_size, TRIES, 4))[share.rows]
    boxes = [crop_box(image.shape[:2], draw) for image, draw in zip(images, draws, strict=True)]
    return np.stack(
        [resize(image, box, (size, size), interpolation) for image, box in zip(images, boxes, strict=True)]
    )


def crop_box(shape: Sequence[int], draws: np.ndarray) -> tuple[int, int, int, int]:
    """The crop of an image of `shape` (H, W) that uniform `draws` [TRIES, 4] choose: left, top, right, bottom.

    The four numbers of a try set its area, its aspect ratio and where it lies. If no try fits, it is the largest
    crop at the centre whose aspect ratio is allowed.
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
