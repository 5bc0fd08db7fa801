"""What is random in the views of a batch.

All draws are made for the whole batch, so row i of a batch depends only on the batch's generator and on image i: a
process that reads only some rows makes the same ones. Draws of a new kind come after those that are here, so that
older recipes keep their numbers.
"""

import numpy as np

from resjax.data.order import Share

AUGMENTATIONS = ("none", "crop", "crop_flip", "resized_crop_flip")

TRIES = 10  # of a random part of a photo, before the crop at its centre

# What the host applies, to images of any size; the device applies the rest.
ON_HOST = ("box",)

Draws = dict[str, np.ndarray]


def draw(share: Share, augment: str, pad: int, rng: np.random.Generator) -> Draws:
    """All that is random in the views of a batch, of the B rows of a share; what an augmentation lacks is left out.

    Args:
        share: which rows of the batch.
        augment: one of AUGMENTATIONS.
        pad: zeros put on each side before a random crop, in pixels.

    Returns:
        'box' float64 [B, TRIES, 4] in [0, 1), see `host.crop_box`; 'offset' int32 [B, 2] in 0 ... 2 pad, the upper
        left corner of a crop of the padded image; 'mirror' bool [B], true with probability 1/2.
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
