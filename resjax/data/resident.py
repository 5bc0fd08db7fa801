"""A data set in device memory: from what the host draws, the device reads the batches, inside its program.

They are those of `Dataset.train` and `Dataset.evaluate`; `augment.device` makes views of both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.data.sources import InMemory


class Resident(NamedTuple):
    """One split; an argument of the functions that read it, never a constant in them.

    Attributes:
        images: uint8 [N, H, W, C]; at the end there may be blank ones, which fill up the devices' parts.
        labels: int32 [N].
        count: how many images there are, int32.
    """

    images: Any
    labels: Any
    count: Any

    @classmethod
    def of(cls, stored: InMemory, parts: int = 1) -> "Resident":
        """A split in host memory, with as many images that `parts` divides it."""
        images, labels = stored.images, stored.labels
        if missing := -len(labels) % parts:
            images = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
            labels = np.pad(labels, (0, missing))
        return cls(images, labels, np.int32(len(stored)))


def training_batch(data: Resident, draws: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch that the draws of `Dataset.draws` choose: image uint8 [B, H, W, C], label, and the other draws."""
    images, labels = _read(data, draws["index"])
    return {"image": images, "label": labels} | {key: x for key, x in draws.items() if key != "index"}


def evaluation_batch(data: Resident, number: jax.Array, batch_size: int) -> dict[str, jax.Array]:
    """Batch `number` of a split in stored order: image uint8, label, and mask [B], 0 for what fills it up."""
    rows = number * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    there = rows < data.count
    images, labels = _read(data, jnp.minimum(rows, data.count - 1))
    return {
        "image": jnp.where(there[:, None, None, None], images, 0),
        "label": jnp.where(there, labels, 0),
        "mask": there.astype(jnp.float32),
    }


def _read(data: Resident, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images [B, H, W, C] and labels [B]; every index is one of an image."""
    images = data.images.at[index].get(mode="promise_in_bounds")
    return images, data.labels.at[index].get(mode="promise_in_bounds")
