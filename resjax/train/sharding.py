"""One mesh with the axes `data` and `fsdp`, and the rules that lay arrays over it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resjax.errors import BadInput

SMALLEST = 2**12  # elements; sharding less costs more in messages than it saves in memory


AXES = ("data", "fsdp")


def make_mesh(data: int, fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The first data x fsdp of `devices` (all by default) as a mesh whose neighbours are linked directly.

    Over several TPU slices `data` is the axis that crosses the network between them.

    Raises:
      BadInput: for a mesh that leaves out devices of a job of several processes, or splits `fsdp` over slices.
    """
    devices, types = (devices or jax.devices())[: data * fsdp], (AxisType.Auto,) * 2
    if jax.process_count() > 1 and len(devices) < jax.device_count():
        raise BadInput(
            f"mesh.data={data} x mesh.fsdp={fsdp} leaves out some of the {jax.device_count()} devices of the "
            f"{jax.process_count()} processes: use all of them"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh((data, fsdp), AXES, axis_types=types, devices=devices)
    if data % slices:
        raise BadInput(f"mesh.data={data}: must be a multiple of the {slices} slices, which fsdp cannot cross")
    grid = mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), devices)
    return Mesh(grid, AXES, axis_types=types)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Images over all devices, along `axis`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that the devices of this process hold, ascending; consecutive on most hardware."""
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    parts = {index[0].indices(batch_size)[:2] for index in indices if index is not None}
    return np.concatenate([np.arange(start, stop) for start, stop in sorted(parts)])


def place_rows(mesh: Mesh, batch: Any, axis: int = 0) -> Any:
    """Lays a batch over the devices of all processes, along `axis`; each gives its `local_rows` of every array."""
    sharding = batch_sharding(mesh, axis)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)

    def one(x: np.ndarray) -> jax.Array:
        size = x.shape[axis] * jax.process_count()
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        rows = local_rows(batch_sharding(mesh), size)

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[axis].indices(size)
            at = np.searchsorted(rows, start)
            return x[:, at : at + stop - start] if axis else x[at : at + stop - start]

        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(one, batch)


def put(value: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has whole, laid over the devices of all."""
    value = jax.device_get(value)
    return jax.make_array_from_callback(np.shape(value), sharding, lambda index: np.asarray(value)[index])


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, shapes: Any) -> Any:
    """The sharding of every leaf of a state, by rule: its largest axis that `fsdp` divides is split over `fsdp`.

    Small leaves, and leaves without such an axis, are replicated.
    """
    size = mesh.shape["fsdp"]

    def rule(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [a for a, n in enumerate(leaf.shape) if n % size == 0]
        if size == 1 or leaf.size < SMALLEST or not axes:
            return replicated(mesh)
        split = max(axes, key=lambda a: leaf.shape[a])
        return NamedSharding(mesh, PartitionSpec(*(["fsdp" if a == split else None for a in range(split + 1)])))

    return jax.tree.map(rule, shapes)
