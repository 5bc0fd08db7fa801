"""What the device makes of uint8 images, inside its program: they are normalised there, cropped and mirrored.

Batches from the host and those of a set in device memory pass through the same functions, so they are equal to the
last bit. What normalises is an argument of a program, never a constant in it: a compiler may not change what it
does to float32, and runs that differ in it alone share a program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.data.augment import colour
from resjax.data.preprocess import Preprocessing

Batch = dict[str, jax.Array]


class Normalization(NamedTuple):
    """What normalises images: (image - mean) * scale.

    Attributes:
        mean: float32 [C] or [H, W, C], in the units of the stored pixels.
        scale: float32 [] or [C], 1 / std.
    """

    mean: Any
    scale: Any

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> "Normalization":
        """That of a preprocessing, in host memory; the host divides, as a device may do it in another way."""
        return cls(preprocessing.mean, np.asarray(1 / preprocessing.std, np.float32))


def training_views(batch: Batch, normalization: Normalization, pad: int) -> Batch:
    """A batch as the network trains on it: image float32 [B, H, W, C], label int32 [B].

    Args:
        batch: image uint8 [B, H, W, C], label, and the draws that are not `draw.ON_HOST`.
        pad: zeros put on each side before a random crop, in pixels. They come after normalisation, so they stand
            for the mean image.

    Colours come first, then normalisation, crop, flip and erasing. Others flip before or after the colours: those
    are the same for a mirrored image, but for the rounding of its mean grey.
    """
    images = batch["image"].astype(jnp.float32)
    if "jitter" in batch:
        # Compiled by itself: a product and a sum may be rounded as one, whatever surrounds them.
        images = jax.lax.optimization_barrier(images)
        images = jax.lax.optimization_barrier(colour.jitter(images, batch["jitter_kind"], batch["jitter"]))
    if "light" in batch:
        images = colour.light(images, batch["light"])
    images = normalize(images, normalization)
    if "offset" in batch:
        images = crop(images, batch["offset"], pad)
    if "mirror" in batch:
        images = flip(images, batch["mirror"])
    if "erased" in batch:
        images = erase(images, batch["erased"])
    return {"image": images, "label": batch["label"]}


def evaluation_views(batch: Batch, normalization: Normalization) -> Batch:
    """A batch as the network is evaluated on it: image float32 [B, H, W, C], the rest as it is."""
    return batch | {"image": normalize(batch["image"], normalization)}


def normalize(images: jax.Array, normalization: Normalization) -> jax.Array:
    """(image - mean) * scale: uint8 [..., H, W, C] -> float32."""
    pixels = images.astype(jnp.float32)
    mean = jnp.broadcast_to(normalization.mean, images.shape)  # explicit, as all promotions of ranks are
    scale = jnp.broadcast_to(normalization.scale, images.shape)
    return (pixels - mean) * scale


def crop(images: jax.Array, offsets: jax.Array, pad: int) -> jax.Array:
    """Puts `pad` zeros on each side of [B, H, W, C] and crops each image back to H x W at its offset [B, 2]."""
    padded = jnp.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])

    def one(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], jnp.int32(0)), images.shape[1:])

    return jax.vmap(one)(padded, offsets)


def flip(images: jax.Array, mirror: jax.Array) -> jax.Array:
    """Mirrors the images of [B, H, W, C] for which `mirror` [B] is true, left to right."""
    return jnp.where(mirror[:, None, None, None], images[:, :, ::-1], images)


def erase(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Sets a box of each image [H, W, C] to 0: int32 [B, 4], left, top, right, bottom; empty ones do nothing."""
    _, height, width, _ = images.shape
    left, top, right, bottom = (boxes[:, i][:, None, None] for i in range(4))
    rows = jnp.arange(height, dtype=jnp.int32)[None, :, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None, None]
    inside = (left <= columns) & (columns < right) & (top <= rows) & (rows < bottom)
    return jnp.where(inside[..., None], 0, images)
