"""What the host makes of images as they are stored: uint8 of one size, which `device` finishes."""

from collections.abc import Sequence

import numpy as np

from resjax.data.augment.draw import Draws
from resjax.data.preprocess import Images, Preprocessing, resize

# Inception crops (Szegedy et al. 2015): share of the area, aspect ratio.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def views(images: Images, draws: Draws, preprocessing: Preprocessing) -> np.ndarray:
    """B uint8 images [H, W, C] -> uint8 [B, H', W', C]: random parts of them, or the view that is evaluated.

    Args:
        draws: what `draw` returned, of which those ON_HOST are applied.
    """
    if "box" in draws:
        return resized_crop(images, draws["box"], preprocessing.size, preprocessing.interpolation)
    return preprocessing.view(images)


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
