"""Which part of an image a view shows, or loses: pure functions of its shape and of uniform draws."""

from collections.abc import Sequence

import numpy as np

# Inception crops (Szegedy et al. 2015): share of the area, aspect ratio.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)

SHORT_SIDES = (256, 480)  # v1 section 3.4, for crops of 224; both included

# Random erasing (Zhong et al. 2020), with torchvision's numbers.
ERASED_AREA = (0.02, 0.33)
ERASED_RATIO = (0.3, 3.3)

Box = tuple[float, float, float, float]


def crop_box(shape: Sequence[int], draws: np.ndarray) -> Box:
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


def fb_crop_box(shape: Sequence[int], draws: np.ndarray) -> Box:
    """The crop of an image of `shape` (H, W) that uniform `draws` [TRIES, 5] choose: left, top, right, bottom.

    As fb.resnet.torch has it (datasets/transforms.lua, RandomSizedCrop): the numbers of a try set the area in
    8-100 %, the factor r in 3/4-4/3 between each side and that of a square, whether width and height change places,
    and where it lies. So the aspect ratio is r squared, in 9/16-16/9. If no try fits, it is the largest square, at
    the centre.
    """
    height, width = shape
    for area_draw, ratio_draw, swap_draw, y_draw, x_draw in draws.tolist():
        side = (height * width * _between(AREA, area_draw)) ** 0.5
        ratio = _between(RATIO, ratio_draw)
        w, h = round(side * ratio), round(side / ratio)
        if swap_draw < 0.5:
            w, h = h, w
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x_draw * (width - w + 0.99)), int(y_draw * (height - h + 0.99))
            return left, top, left + w, top + h
    side = min(height, width)
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    return left, top, left + side, top + side


def scale_crop_box(shape: Sequence[int], draws: np.ndarray, size: int) -> Box:
    """The part of an image of `shape` (H, W) that becomes a random crop of size x size of it, resized.

    As in v1 section 3.4: the short side is resized to a whole number of pixels, uniform in 256-480 for crops of 224
    and in proportion for others, and the crop lies anywhere. Uniform `draws` [3] choose the side and where the crop
    lies. Sides of the box need not be whole: left, top, right, bottom.
    """
    height, width = shape
    side_draw, y_draw, x_draw = draws.tolist()
    least, greatest = SHORT_SIDES
    short = round((least + int(side_draw * (greatest - least + 1))) * size / 224)
    scale = short / min(height, width)
    h, w = round(height * scale), round(width * scale)
    left, top = int(x_draw * (w - size + 1)), int(y_draw * (h - size + 1))
    # The product first: what ends at the border then ends there exactly.
    return left * width / w, top * height / h, (left + size) * width / w, (top + size) * height / h


def erased_box(shape: Sequence[int], draws: np.ndarray) -> tuple[int, int, int, int]:
    """The part of an image of `shape` (H, W) that uniform `draws` [TRIES, 4] erase: left, top, right, bottom.

    As torchvision has it: 2-33 % of the area, a log-uniform ratio of height to width in 0.3-3.3, lower and narrower
    than the image. If no try is, it is empty, four zeros.
    """
    height, width = shape
    low, high = ERASED_RATIO
    for area_draw, ratio_draw, y_draw, x_draw in draws.tolist():
        area = height * width * _between(ERASED_AREA, area_draw)
        ratio = low * (high / low) ** ratio_draw
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if h < height and w < width:
            left, top = int(x_draw * (width - w + 1)), int(y_draw * (height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, 0, 0


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + draw * (limits[1] - limits[0])
