"""Where the data of a run lies, and how many steps a call takes: what is left open is chosen here."""

import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resjax import machine
from resjax.config import Durations
from resjax.data.augment.device import Normalization
from resjax.data.loader import Dataset
from resjax.data.resident import Resident
from resjax.errors import BadInput
from resjax.train import sharding

SHARE = 0.25  # of a device's memory is for the data; the rest is the run's
MOST_STEPS = 100  # of a call that is chosen here: a signal waits for its end
HORIZON = 10_000  # steps that the choice looks at


def lay(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> dict[str, Resident] | None:
    """The splits on the devices: whole on each if they fit, else split over them by images; None: on the host.

    Says so on stderr if they would be on the devices but for their size or a policy.

    Raises:
      BadInput: for `data.placement=device` and a set that does not fit.
    """
    placement = config.data.placement
    if placement == "host" or not dataset.ready or dataset.workers:
        return None
    if dataset.policy:
        say(f"data.policy={dataset.policy} is applied by the host: images stay there")
        return None
    size, room = sum(dataset.stored(split).nbytes for split in dataset.parts), device_room(mesh)
    if size > room * mesh.size:
        why = (
            f"data.placement={placement}: images and labels take {size / 1e6:,.2f} MB, and of the memory of "
            f"{mesh.size} devices {room * mesh.size / 1e6:,.2f} MB are for data"
        )
        if placement == "device":
            raise BadInput(f"{why}: use data.placement=host")
        say(f"{why}: they stay on the host")
        return None
    all_ = sharding.replicated(mesh)
    images = all_ if size <= room else sharding.batch_sharding(mesh)
    where = Resident(images, images, all_)
    parts = 1 if size <= room else mesh.size
    return {
        split: jax.tree.map(sharding.put, Resident.of(dataset.stored(split), parts), where)
        for split in dataset.parts
    }


def normalization(dataset: Dataset, mesh: Mesh) -> Normalization:
    """What normalises the images of a set, on the devices."""
    where = sharding.replicated(mesh)
    return Normalization(*(sharding.put(value, where) for value in Normalization.of(dataset.preprocessing)))


def say(text: str) -> None:
    """A line on stderr, of the first process alone."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr)


def name(data: dict[str, Resident] | None) -> str:
    """Where the data lie: on the `host`, `whole` on every device, or `split` over them."""
    if data is None:
        return "host"
    return "whole" if data["train"].images.sharding.is_fully_replicated else "split"


def device_room(mesh: Mesh) -> int:
    """Bytes of a device that data may take. One that does not say, such as a CPU, has its part of the machine's."""
    own = mesh.local_devices
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in own]
    return int(SHARE * min(limit or machine.memory() // len(own) for limit in limits))


def stride(config: ConfigDict, durations: Durations, on_device: bool) -> int:
    """Steps that one call takes.

    1 on a CPU, where a call costs next to nothing, and for batches from the host, which would have to wait for each
    other. Else so many that calls, whose last ones before an evaluation or a checkpoint are not filled, compute the
    least in all, if a call itself counts as one step.
    """
    if config.steps_per_call:
        return config.steps_per_call
    if jax.default_backend() == "cpu" or not on_device:
        return 1
    gaps = np.diff([0, *stops(durations, min(durations.total, HORIZON))])
    cost = [int((-(-gaps // k)).sum()) * (k + 1) for k in range(1, MOST_STEPS + 1)]
    return 1 + int(np.argmin(cost))


def stops(durations: Durations, until: int) -> Iterator[int]:
    """The steps up to `until`, and it, after which calls end."""
    step = 0
    while step < until:
        step = min(until, durations.next_stop(step))
        yield step
