"""A data set in device memory: from what the host draws, the device makes the batches, inside its program.

They are those of `augment.views` and `Dataset.evaluate` to the last bit: the same operations on float32 in the same
order, which no compiler may change.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.data.preprocess import Preprocessing
from resjax.data.sources import InMemory


class Resident(NamedTuple):
    """One split, and what normalises it; an argument of the functions that read it, never a constant in them.

    Attributes:
        images: uint8 [N, H, W, C]; at the end there may be blank ones, which fill up the devices' parts.
        labels: int32 [N].
        count: how many images there are, int32.
        mean: float32 [C] or [H, W, C].
        scale: float32 [] or [C]; what is left after the mean is multiplied by it.
    """

    images: Any
    labels: Any
    count: Any
    mean: Any
    scale: Any

    @classmethod
    def of(cls, stored: InMemory, preprocessing: Preprocessing, parts: int = 1) -> "Resident":
        """A split in host memory, with as many images that `parts` divides it."""
        images, labels = stored.images, stored.labels
        if missing := -len(labels) % parts:
            images = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
            labels = np.pad(labels, (0, missing))
        # As Preprocessing.normalize has it, and computed where it is: a device may divide in another way.
        scale = np.asarray(1 / preprocessing.std, np.float32)
        return cls(images, labels, np.int32(len(stored)), preprocessing.mean, scale)


def training_batch(data: Resident, draws: dict[str, jax.Array], pad: int) -> dict[str, jax.Array]:
    """The batch that the draws of `Dataset.draws` choose: image float32 [B, H, W, C], label int32 [B]."""
    images, labels = _read(data, draws["index"])
    if "offset" in draws:
        images = crop(images, draws["offset"], pad)
    if "mirror" in draws:
        images = jnp.where(draws["mirror"][:, None, None, None], images[:, :, ::-1], images)
    return {"image": images, "label": labels}


def evaluation_batch(data: Resident, number: jax.Array, batch_size: int) -> dict[str, jax.Array]:
    """Batch `number` of a split in stored order: image, label, and mask [B] float32, 0 for what fills it up."""
    rows = number * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    there = rows < data.count
    images, labels = _read(data, jnp.minimum(rows, data.count - 1))
    return {
        "image": jnp.where(there[:, None, None, None], images, 0),
        "label": jnp.where(there, labels, 0),
        "mask": there.astype(jnp.float32),
    }


def crop(images: jax.Array, offsets: jax.Array, pad: int) -> jax.Array:
    """Puts `pad` zeros on each side of [B, H, W, C] and crops each image back to H x W at its offset [B, 2]."""
    padded = jnp.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])

    def one(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], jnp.int32(0)), images.shape[1:])

    return jax.vmap(one)(padded, offsets)


def _read(data: Resident, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalised images [B, H, W, C], and labels [B]; every index is one of an image."""
    images = data.images.at[index].get(mode="promise_in_bounds").astype(jnp.float32)
    mean = jnp.broadcast_to(data.mean, images.shape)  # explicit, as all promotions of ranks are
    scale = jnp.broadcast_to(data.scale, images.shape)
    return (images - mean) * scale, data.labels.at[index].get(mode="promise_in_bounds")
