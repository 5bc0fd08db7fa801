"""Random views of training images: what is drawn for a batch, and what the host makes of it.

All draws are made for the whole batch, so row i of a batch depends only on the batch's generator and on image i: a
process that reads only some rows makes the same ones. `resident` makes the same views on the device.
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

Draws = dict[str, np.ndarray]


def draw(share: Share, augment: str, pad: int, rng: np.random.Generator) -> Draws:
    """All that is random in the views of a batch, of the B rows of a share; what an augmentation lacks is left out.

    Args:
        share: which rows of the batch.
        augment: one of AUGMENTATIONS.
        pad: as in `views`.

    Returns:
        'box' float64 [B, TRIES, 4] in [0, 1), see `crop_box`; 'offset' int32 [B, 2] in 0 ... 2 pad, the upper left
        corner of a crop of the padded image; 'mirror' bool [B], true with probability 1/2.
    """
    draws = {}
    if augment == "resized_crop_flip":
        draws["box"] = rng.random((share.batch_size, TRIES, 4))[share.rows]
    if augment in ("crop", "crop_flip"):
        offsets = rng.integers(0, 2 * pad + 1, size=(share.batch_size, 2))[share.rows]
        draws["offset"] = offsets.astype(np.int32)
    if augment in ("crop_flip", "resized_crop_flip"):
        draws["mirror"] = rng.random(share.batch_size)[share.rows] < 0.5
    return draws


def views(images: Images, draws: Draws, pad: int, preprocessing: Preprocessing) -> np.ndarray:
    """Views for training: B uint8 images [H, W, C] -> float32 [B, H', W', C].

    Args:
        draws: what `draw` returned.
        pad: zeros put on each side before a random crop, in pixels. They come after normalisation, so they stand
            for the mean image.
    """
    if "box" in draws:
        whole = resized_crop(images, draws["box"], preprocessing.size, preprocessing.interpolation)
    else:
        whole = preprocessing.view(images)
    result = preprocessing.normalize(whole)
    if "offset" in draws:
        result = crop(result, draws["offset"], pad)
    if "mirror" in draws:
        result = flip(result, draws["mirror"])
    return result


def crop(images: np.ndarray, offsets: np.ndarray, pad: int) -> np.ndarray:
    """Puts `pad` zeros on each side of [B, H, W, C] and crops each image back to H x W at its offset [B, 2]."""
    batch, height, width, channels = images.shape
    padded = np.zeros((batch, height + 2 * pad, width + 2 * pad, channels), images.dtype)
    padded[:, pad : pad + height, pad : pad + width] = images
    result = np.empty_like(images)
    for i, (y, x) in enumerate(offsets.tolist()):
        result[i] = padded[i, y : y + height, x : x + width]
    return result


def flip(images: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Mirrors the images of [B, H, W, C] for which `mirror` [B] is true, left to right."""
    result = images.copy()
    result[mirror] = images[mirror, :, ::-1]
    return result


def resized_crop(images: Images, draws: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Inception crops: B uint8 images [H, W, C] of any sizes, uniform draws [B, TRIES, 4] -> [B, size, size, C].

    Each crop has 8-100 % of the image's area and a log-uniform aspect ratio in 3/4-4/3.
    """
    boxes = [crop_box(image.shape[:2], own) for image, own in zip(images, draws, strict=True)]
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
