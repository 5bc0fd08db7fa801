"""What the host makes of images as they are stored: uint8 of one size, which `device` finishes."""

import numpy as np

from resjax.data.augment import boxes, policies
from resjax.data.augment.draw import Draws
from resjax.data.preprocess import Images, Preprocessing, resize


def views(images: Images, draws: Draws, preprocessing: Preprocessing, policy: str = "") -> np.ndarray:
    """B uint8 images [H, W, C] -> uint8 [B, H', W', C]: random parts of them, or the view that is evaluated.

    Args:
        draws: what `draw` returned, of which those ON_HOST are applied.
        policy: the name of an augmentation policy, for which there are draws, or ''.
    """
    result = cut(images, draws, preprocessing)
    if "mirror_first" in draws:
        result = np.where(draws["mirror_first"][:, None, None, None], result[:, :, ::-1], result)
    if not policy:
        return result
    chosen = policies.policy(policy)
    own = (draws["policy_op"], draws["policy_level"], draws["policy_filter"])
    return np.stack([policies.apply(image, chosen, *row) for image, *row in zip(result, *own, strict=True)])


def cut(images: Images, draws: Draws, preprocessing: Preprocessing) -> np.ndarray:
    """The part of each image that is drawn, resized; without such draws the view that is evaluated."""
    size = preprocessing.size
    if "box" in draws:
        parts = [boxes.crop_box(x.shape[:2], own) for x, own in zip(images, draws["box"], strict=True)]
    elif "fb_box" in draws:
        parts = [boxes.fb_crop_box(x.shape[:2], own) for x, own in zip(images, draws["fb_box"], strict=True)]
    elif "scale_box" in draws:
        own_draws = draws["scale_box"]
        parts = [boxes.scale_crop_box(x.shape[:2], own, size) for x, own in zip(images, own_draws, strict=True)]
    else:
        return preprocessing.view(images)
    to = (size, size)
    return np.stack([resize(x, box, to, preprocessing.interpolation) for x, box in zip(images, parts, strict=True)])
