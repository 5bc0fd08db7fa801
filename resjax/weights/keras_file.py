"""HDF5 files of Keras' applications (.h5), and what of them is written in another way here.

ResNet50, ResNet101 and ResNet152 of keras.applications are v1: the stride is on the first 1x1. A file holds a group
for each layer, conv2_block1_1_conv, in which arrays lie, kernel:0; a whole model has these groups in model_weights.
Three things are changed, none of which changes what the network computes:

- Its convolutions have biases. BN subtracts its mean next, so mean - bias is the mean without them.
- Its BN has an epsilon of 1.001e-5, ours 1e-5: the difference is added to the variance.
- It takes channels in the order BGR, we RGB: the stem's input channels are turned.

HDF5 can do far more than hold arrays: links to other files, arrays in other files, compression, arrays that were
never written. h5py opens the file, and is asked for nothing but float arrays that lie in it as they are, each once.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resjax import paths
from resjax.errors import BadInput
from resjax.weights.tensors import Tensors

SIGNATURE = b"\x89HDF"
WITHIN = "model_weights"  # of a whole model, beside the optimiser's state
MOST_OBJECTS = 10**5  # groups and arrays; ResNet-152 has some 2,000
MOST_AXES = 8
STEM = "conv1_conv/kernel"
EPSILON, OURS = 1.001e-5, 1e-5
SAVE = 'save the model with Keras: model.save("NEW.h5")'


def is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of every layer as they are stored, as LAYER/ARRAY.

    Raises:
        BadInput: without h5py, or for a damaged file or one that asks for more than arrays.
    """
    try:
        import h5py
    except ImportError as error:
        raise BadInput(f"{path} is an HDF5 file, which needs h5py: pip install -e '.[keras]'") from error
    try:
        with h5py.File(path, "r") as file:
            return _arrays(h5py, file, path.stat().st_size)
    except Exception as error:  # HDF5 has a kind of error for everything
        reason = paths.one_line(error)[:200] or type(error).__name__
        raise BadInput(f"{path} is not a plain HDF5 file of arrays ({reason}): get it again, or {SAVE}") from error


def changed(arrays: Tensors) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of a ResNet of Keras with the three changes, and what a person should know, a line each."""
    arrays, notes, folded = dict(arrays), [], 0
    for name in list(arrays):
        layer, _, leaf = name.partition("/")
        mean = f"{layer.removesuffix('_conv')}_bn/moving_mean"
        if leaf == "bias" and mean in arrays and arrays[mean].shape == arrays[name].shape:
            arrays[mean] = (arrays[mean].astype(np.float64) - arrays.pop(name)).astype(np.float32)
            folded += 1
        elif leaf == "moving_variance":
            arrays[name] = (arrays[name].astype(np.float64) + (EPSILON - OURS)).astype(np.float32)
    if folded:
        notes.append(f"biases of {folded} convolutions are taken off the running means of BN, to the same effect")
    notes.append(f"BN's epsilon is {EPSILON:g} in Keras: the variances have the difference to {OURS:g} in them")
    if arrays[STEM].ndim == 4 and arrays[STEM].shape[2] == 3:
        arrays[STEM] = arrays[STEM][:, :, ::-1]
        notes.append(
            "taken to be trained as keras.applications.resnet50.preprocess_input has it, on BGR less ImageNet's "
            "mean; the stem's channels are turned to RGB"
        )
    return arrays, tuple(notes)


def _arrays(h5py: Any, file: Any, size: int) -> dict[str, np.ndarray]:
    """The arrays by the name of their group and their own; raises ValueError for anything that is not plain."""
    found: dict[str, np.ndarray] = {}
    left = size
    for where, dataset in _datasets(h5py, file):
        *_, layer, leaf = ("", *where.split("/"))
        if layer == "vars":
            raise ValueError("it is a .weights.h5, which does not call the layers by their names")
        name = f"{layer}/{leaf.removesuffix(':0')}"
        if name in found:
            raise ValueError(f"two arrays are called {paths.short(name)}")
        left -= _stored(h5py, where, dataset, size)
        if left < 0:
            raise ValueError("its arrays take more than the file")
        found[name] = dataset[()]
    return found


def _datasets(h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Every array with its path, from groups that the file holds itself; nothing is reached twice."""
    seen: set[int] = set()
    waiting = [("", file)]
    while waiting:
        at, group = waiting.pop()
        names = list(group)
        for name in [WITHIN] if not at and WITHIN in names else names:
            where = f"{at}{name}"
            paths.check_text("a name", where)
            if "/" in name or name in ("", "."):
                raise ValueError(f"{paths.short(where)} is no name")
            if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                raise ValueError(f"{paths.short(where)} is a link")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or len(seen) == MOST_OBJECTS:
                raise ValueError(f"{paths.short(where)} comes twice, or is one of more than {MOST_OBJECTS:,}")
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append((f"{where}/", item))
            elif isinstance(item, h5py.Dataset):
                yield where, item
            else:
                raise ValueError(f"{paths.short(where)} is neither a group nor an array")


def _stored(h5py: Any, where: str, dataset: Any, size: int) -> int:
    """The bytes that an array takes, if all of them lie in the file in one piece; raises ValueError else."""
    stored, shown = dataset.id.get_create_plist(), paths.short(where)
    if stored.get_layout() != h5py.h5d.CONTIGUOUS or stored.get_external_count() or stored.get_nfilters():
        raise ValueError(f"{shown} is chunked, compressed, virtual or in another file")
    kind = dataset.id.get_type()
    if kind not in (h5py.h5t.IEEE_F16LE, h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F64LE):
        raise ValueError(f"{shown} does not hold little-endian floats")
    shape = dataset.shape
    if shape is None or len(shape) > MOST_AXES:
        raise ValueError(f"{shown} has no shape, or more than {MOST_AXES} axes")
    count, offset = math.prod(shape) * kind.get_size(), dataset.id.get_offset()
    if offset is None or offset + count > size or dataset.id.get_storage_size() != count:
        raise ValueError(f"{shown} of shape {list(shape)} is not in the file as a whole")
    return count
