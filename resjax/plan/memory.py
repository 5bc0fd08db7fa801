"""What a training step keeps in memory, by formula.

At its peak, where the backward pass begins, a step holds besides its state what the forward pass kept: the input of
every weight layer and of every BN, each once, in the network's type. ReLU's masks and normalised maps are computed
again. With `model.remat` the inputs of the units are kept, and the inside of one unit at a time.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from resjax.models import layout
from resjax.models.layout import Layer
from resjax.models.spec import Spec
from resjax.train import sharding

KEEP_INPUT = (*layout.WEIGHTS, "norm")


def kept(spec: Spec) -> int:
    """Bytes that the forward pass of one image keeps for its backward pass."""
    inside: dict[layout.Path, int] = {}  # elements of every part: stem, units, head
    for path, row in layout.parts(spec):
        inside[path[:2]] = inside.get(path[:2], 0) + _kept(path, row)
    if spec.remat:
        inputs: dict[layout.Path, int] = {
            shape.path: shape.in_width * shape.size**2 for shape in spec.unit_shapes()
        }
        inside[()] += max(inside[path] for path in inputs)
        inside |= inputs
    return sum(inside.values()) * np.dtype(spec.dtype).itemsize


def written(spec: Spec) -> int:
    """Bytes of the maps that one image's passes write for later, whether they are kept or computed again."""
    return kept(dataclasses.replace(spec, remat=False))


def widest(spec: Spec) -> int:
    """Bytes of the largest map of one image."""
    maps = (layer.width * layer.out_size**2 for _, row in layout.parts(spec) for layer in row)
    return max(maps) * np.dtype(spec.dtype).itemsize


def share(shapes: Any, fsdp: int) -> int:
    """Bytes of a tree of arrays on one device, laid out by the rule of `resjax.train.sharding`."""
    placed = sharding.state_shardings(sharding.make_mesh(1, fsdp), shapes)
    sizes = jax.tree.map(
        lambda x, where: math.prod(where.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize, shapes, placed
    )
    return sum(jax.tree.leaves(sizes))


def _kept(path: layout.Path, row: layout.Layers) -> int:
    """Elements that a row of layers keeps of one image."""
    place = path[-1] if path else ""
    # A shortcut and a gate start from what the branch keeps already.
    first = 1 if place in ("shortcut", "gate") else 0
    elements = sum(_input(layer) for layer in row[first:] if layer.kind in KEEP_INPUT)
    if row and place == "gate":  # multiplies the branch: both factors are kept
        elements += 2 * row[-1].width * row[-1].out_size ** 2
    if row and place == "excitation":  # multiplies the branch's output
        elements += _input(row[0])
    return elements


def _input(layer: Layer) -> int:
    return layer.in_width * layer.size**2
