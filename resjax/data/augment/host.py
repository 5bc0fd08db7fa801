"""What the host makes of images as they are stored: uint8 of one size, which `device` finishes."""

import math
from collections.abc import Sequence

import numpy as np

from resjax.data.augment import boxes, policies
from resjax.data.augment.draw import Draws
from resjax.data.jpeg import LeastOf, Shape
from resjax.data.preprocess import Box, Images, Preprocessing, resize, with_shapes


def views(
    images: Images,
    draws: Draws,
    preprocessing: Preprocessing,
    policy: str = "",
    shapes: Sequence[Shape] | None = None,
) -> np.ndarray:
    """B uint8 images [H, W, C] -> uint8 [B, H', W', C]: random parts of them, or the view that is evaluated.

    Args:
        draws: what `draw` returned, of which those ON_HOST are applied.
        preprocessing: to the size of the views.
        policy: the name of an augmentation policy, for which there are draws, or ''.
        shapes: as in `Preprocessing.view`.
    """
    result = cut(images, draws, preprocessing, shapes)
    if "mirror_first" in draws:
        result = np.where(draws["mirror_first"][:, None, None, None], result[:, :, ::-1], result)
    if not policy:
        return result
    chosen = policies.policy(policy)
    own = (draws["policy_op"], draws["policy_level"], draws["policy_filter"])
    return np.stack([policies.apply(image, chosen, *row) for image, *row in zip(result, *own, strict=True)])


def cut(
    images: Images, draws: Draws, preprocessing: Preprocessing, shapes: Sequence[Shape] | None = None
) -> np.ndarray:
    """The part of each image that is drawn, resized; without such draws the view that is evaluated."""
    if not has_parts(draws):
        return preprocessing.view(images, shapes)
    size, parts = preprocessing.size, []
    for row, (image, shape) in enumerate(with_shapes(images, shapes)):
        left, top, right, bottom = part(draws, row, shape, size)
        (height, width), (h, w) = shape, image.shape[:2]  # of the photo, and of a JPEG at a scale
        # The product first: what ends at the border then ends there exactly.
        box = (left * w / width, top * h / height, right * w / width, bottom * h / height)
        parts.append(resize(image, box, (size, size), preprocessing.interpolation))
    return np.stack(parts)


def least(draws: Draws, preprocessing: Preprocessing) -> LeastOf | None:
    """To what JPEGs may be decoded so that every part that is shown has at least the size of the view.

    None for all their pixels.
    """
    if not has_parts(draws) or preprocessing.decode == "full":
        return preprocessing.least
    size = preprocessing.size

    def of(row: int, shape: Shape) -> Shape:
        left, top, right, bottom = part(draws, row, shape, size)
        wanted = shape[0] * size / (bottom - top), shape[1] * size / (right - left)
        height, width = (math.ceil(side - 1e-6) for side in wanted)  # which floats may have made a little more
        return height, width

    return of


def has_parts(draws: Draws) -> bool:
    """Whether random parts of images are drawn."""
    return not draws.keys().isdisjoint(("box", "fb_box", "scale_box"))


def part(draws: Draws, row: int, shape: Shape, size: int) -> Box:
    """The part of a photo of `shape` (H, W) that is drawn for a row of the batch, for a view of `size`."""
    if "fb_box" in draws:
        return boxes.fb_crop_box(shape, draws["fb_box"][row])
    if "scale_box" in draws:
        return boxes.scale_crop_box(shape, draws["scale_box"][row], size)
    return boxes.crop_box(shape, draws["box"][row])
