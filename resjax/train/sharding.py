"""One mesh with the axes `data` and `fsdp`, and the rules that lay arrays over it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SMALLEST = 2**12  # elements; sharding less costs more in messages than it saves in memory


def make_mesh(data: int, fsdp: int) -> Mesh:
    """The first data x fsdp devices as a mesh."""
    devices = np.asarray(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    return Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images over all devices, along axis 0."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


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
