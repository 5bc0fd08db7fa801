"""What is random in the views of a batch.

All draws are made for the whole batch, so row i of a batch depends only on the batch's generator and on image i: a
process that reads only some rows makes the same ones. Draws of a new kind come after those that are here, so that
older recipes keep their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resjax.data.augment import policies
from resjax.data.augment.boxes import erased_box
from resjax.data.order import Share

# Those of photos: each view is a random part of one, resized.
PHOTO_CROPS = ("resized_crop_flip", "scale_crop_flip", "fb_crop_flip")
AUGMENTATIONS = ("none", "crop", "crop_flip", *PHOTO_CROPS)

TRIES = 10  # of a random part of a photo, before the one at its centre; of a box to erase, before none

# What the host applies, to images of any size or with Pillow; the device applies the rest.
ON_HOST = ("box", "fb_box", "scale_box", "mirror_first", "policy_op", "policy_level", "policy_filter")

# Of the covariance of ImageNet's pixels in [0, 1] (Krizhevsky et al. 2012), as in fb.resnet.torch; each eigenvector
# is a column.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

Draws = dict[str, np.ndarray]


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images: fields of `config.data`, which `resolve` explains, by their names."""

    augment: str
    pad: int = 0
    jitter: float = 0.0
    lighting: float = 0.0
    policy: str = ""
    erase: float = 0.0


def draw(share: Share, augmentation: Augmentation, shape: Sequence[int], rng: np.random.Generator) -> Draws:
    """All that is random in the views of a batch, of the B rows of a share; what is switched off is left out.

    Args:
        share: which rows of the batch.
        shape: H and W of a view.

    Returns:
        Where a part of a photo lies, uniform in [0, 1): 'box' float64 [B, TRIES, 4], 'fb_box' float64 [B, TRIES, 5]
        or 'scale_box' float64 [B, 3], see `boxes`. 'offset' int32 [B, 2] in 0 ... 2 pad, the upper left corner of a
        crop of the padded image. 'mirror' bool [B], true with probability 1/2; with a policy, which comes after it,
        'mirror_first'. What `policies.draw`, `jitter`, `light` and `erased` return.
    """
    draws, a = {}, augmentation
    if a.augment == "resized_crop_flip":
        draws["box"] = rng.random((share.batch_size, TRIES, 4))[share.rows]
    if a.augment == "fb_crop_flip":
        draws["fb_box"] = rng.random((share.batch_size, TRIES, 5))[share.rows]
    if a.augment == "scale_crop_flip":
        draws["scale_box"] = rng.random((share.batch_size, 3))[share.rows]
    if a.augment in ("crop", "crop_flip"):
        offsets = rng.integers(0, 2 * a.pad + 1, size=(share.batch_size, 2))[share.rows]
        draws["offset"] = offsets.astype(np.int32)
    if a.augment in ("crop_flip", *PHOTO_CROPS):
        draws["mirror_first" if a.policy else "mirror"] = rng.random(share.batch_size)[share.rows] < 0.5
    if a.policy:
        draws |= policies.draw(share, policies.policy(a.policy), rng)
    if a.jitter:
        draws |= jitter(share, a.jitter, rng)
    if a.lighting:
        draws["light"] = light(share, a.lighting, rng)
    if a.erase:
        draws["erased"] = erased(share, shape, a.erase, rng)
    return draws


def jitter(share: Share, strength: float, rng: np.random.Generator) -> Draws:
    """What `colour.jitter` does.

    Returns:
        'jitter' float32 [B, 3], alphas uniform in 1 - strength ... 1 + strength; 'jitter_kind' int32 [B, 3], the
        three kinds in a random order.
    """
    alphas = 1 + rng.uniform(-strength, strength, (share.batch_size, 3))
    kinds = rng.random((share.batch_size, 3)).argsort(axis=1)
    return {"jitter": alphas[share.rows].astype(np.float32), "jitter_kind": kinds[share.rows].astype(np.int32)}


def light(share: Share, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """AlexNet's colour noise: float32 [B, 3], what is added to each channel of pixels in 0 ... 255.

    It is the sum over the eigenvectors of a normal number of that deviation times the eigenvalue times the vector.
    """
    factors = rng.normal(0, deviation, (share.batch_size, 3)) * EIGENVALUES
    return (255 * factors @ EIGENVECTORS.T)[share.rows].astype(np.float32)


def erased(share: Share, shape: Sequence[int], probability: float, rng: np.random.Generator) -> np.ndarray:
    """int32 [B, 4]: boxes of images of `shape` (H, W), see `boxes.erased_box`; empty if nothing is erased."""
    chosen = rng.random(share.batch_size)[share.rows] < probability
    tries = rng.random((share.batch_size, TRIES, 4))[share.rows]
    boxes = np.zeros((len(chosen), 4), np.int32)
    for i in np.flatnonzero(chosen):
        boxes[i] = erased_box(shape, tries[i])
    return boxes
