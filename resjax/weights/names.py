"""What every layer of a network is called in other libraries, and how its arrays lie there: one table, both ways.

A library's table gives, for a layer by its place in `resjax.models.layout`, the module that holds its arrays there.
In it {s} counts stages from 1 and {u} units from 0, as in resjax, {S} stages from 0, {i} layers from 1, {I} from 0;
{k} counts stages from 2 and {n} units from 1.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from resjax.errors import BadInput
from resjax.models import layout
from resjax.models.layout import Layer, Path
from resjax.models.spec import Spec
from resjax.weights.tensors import Tensors

TORCHVISION = {
    "stem.conv1": "conv1",
    "stem.norm1": "bn1",
    "unit.conv": "layer{s}.{u}.conv{i}",
    "unit.norm": "layer{s}.{u}.bn{i}",
    "shortcut.conv": "layer{s}.{u}.downsample.0",
    "shortcut.norm": "layer{s}.{u}.downsample.1",
    "head": "fc",
}
# As torchvision, where that has the layer. Its nn.Sequential counts layers without parameters too: the ReLUs of a
# deep stem, the average pool of a shortcut.
TIMM = TORCHVISION | {"excitation.conv": "layer{s}.{u}.se.fc{i}"}
TIMM_DEEP = {
    "stem.conv1": "conv1.0",
    "stem.norm1": "conv1.1",
    "stem.conv2": "conv1.3",
    "stem.norm2": "conv1.4",
    "stem.conv3": "conv1.6",
    "stem.norm3": "bn1",
}
TIMM_POOLED = {"shortcut.conv": "layer{s}.{u}.downsample.1", "shortcut.norm": "layer{s}.{u}.downsample.2"}
TIMM_V2 = {
    "stem.conv1": "stem.conv",
    "unit.conv": "stages.{S}.blocks.{u}.conv{i}",
    "unit.norm": "stages.{S}.blocks.{u}.norm{i}",
    "shortcut.conv": "stages.{S}.blocks.{u}.downsample.conv",
    "norm": "norm",
    "head": "head.fc",
}
TIMM_V2_DEEP = {f"stem.{layer}": f"stem.{layer}" for layer in ("conv1", "norm1", "conv2", "norm2", "conv3")}
TRANSFORMERS = {
    "stem.conv1": "resnet.embedder.embedder.convolution",
    "stem.norm1": "resnet.embedder.embedder.normalization",
    "unit.conv": "resnet.encoder.stages.{S}.layers.{u}.layer.{I}.convolution",
    "unit.norm": "resnet.encoder.stages.{S}.layers.{u}.layer.{I}.normalization",
    "shortcut.conv": "resnet.encoder.stages.{S}.layers.{u}.shortcut.convolution",
    "shortcut.norm": "resnet.encoder.stages.{S}.layers.{u}.shortcut.normalization",
    "head": "classifier.1",
}
KERAS = {
    "stem.conv1": "conv1_conv",
    "stem.norm1": "conv1_bn",
    "unit.conv": "conv{k}_block{n}_{i}_conv",
    "unit.norm": "conv{k}_block{n}_{i}_bn",
    "shortcut.conv": "conv{k}_block{n}_0_conv",
    "shortcut.norm": "conv{k}_block{n}_0_bn",
    "head": "predictions",
}
LIBRARIES = ("torchvision", "timm", "transformers", "keras", "resjax")
COUNTER = "num_batches_tracked"  # of every BN of PyTorch: an average of constant momentum has no use for it
# Leaf here -> what PyTorch calls it.
ARRAYS = {"kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean", "var": "running_var"}
KERAS_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
STATISTICS = ("mean", "var")


class Row(NamedTuple):
    """An array in both worlds.

    Attributes:
      own: its path in the variables, such as ("params", "stem", "conv1", "kernel").
      name: what the library calls it.
      shape: in the variables.
      axes: the order in which the library has these axes.
      ones: axes of 1 that the library has besides, at the end.
    """

    own: Path
    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    ones: int = 0

    @property
    def there(self) -> tuple[int, ...]:
        """Its shape in the library."""
        return tuple(self.shape[axis] for axis in self.axes) + (1,) * self.ones

    def leaf(self, variables: Mapping[str, Any]) -> np.ndarray:
        """The array in the variables."""
        node: Any = variables
        for key in self.own:
            node = node[key]
        return np.asarray(node)

    def read(self, array: np.ndarray) -> np.ndarray:
        """The library's array, of shape `there`, as float32 in resjax's order."""
        array = array.reshape(array.shape[: len(self.axes)]).astype(np.float32)
        return np.ascontiguousarray(array.transpose(np.argsort(self.axes)))

    def written(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `read`."""
        return np.ascontiguousarray(array.transpose(self.axes)).reshape(self.there)


def rows(spec: Spec, library: str) -> list[Row]:
    """Every array of a network, as one of LIBRARIES calls it.

    Raises:
      BadInput: for a layer that the library does not have.
    """
    table, found = _table(spec, library), []
    for path, layers in layout.parts(spec):
        for layer in layers:
            if layer.name:
                found += [
                    Row(
                        own,
                        _name(layer, own, module, library),
                        shape,
                        *_order(layer, shape, table, library),
                    )
                    for own, shape, module in _arrays(path, layer, table, library)
                ]
    return found


def counters(spec: Spec, library: str) -> list[str]:
    """The names of the counters that PyTorch's BN has besides, none of resjax's own."""
    ending = ARRAYS["mean"]
    named = (row.name for row in rows(spec, library)) if library != "resjax" else ()
    return [name.removesuffix(ending) + COUNTER for name in named if name.endswith(ending)]


def variables(spec: Spec, library: str, tensors: Tensors) -> dict[str, Any]:
    """`params` and `batch_stats` of the unrolled network, float32, from a library's arrays.

    Raises:
      BadInput: unless the arrays are those of the network, naming some of those that are missing, unexpected or of
        another shape.
    """
    own = rows(spec, library)
    if problems := differences(own, {name: array.shape for name, array in tensors.items()}):
        raise BadInput("; ".join(problems))
    found: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for row in own:
        node = found
        for key in row.own[:-1]:
            node = node.setdefault(key, {})
        node[row.own[-1]] = row.read(tensors[row.name])
    return found


def tensors(spec: Spec, library: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of the unrolled network as a library calls them, the counters with them; `variables` undone.

    Raises:
      BadInput: for a layer that the library does not have.
    """
    found = {row.name: row.written(row.leaf(variables)) for row in rows(spec, library)}
    return found | dict.fromkeys(counters(spec, library), np.zeros((), np.int64))


def differences(own: list[Row], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps arrays of these names and shapes from being those of `own`, as parts of a sentence; [] if nothing.

    Counters of batches are not looked at.
    """
    expected = {row.name: row.there for row in own}
    given = {name: tuple(shape) for name, shape in shapes.items() if name.rpartition(".")[2] != COUNTER}
    there = [name for name in expected if name in given]
    kinds = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {list(given[name])} for {list(expected[name])}"
            for name in there
            if given[name] != expected[name]
        ],
    }
    return [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _table(spec: Spec, library: str) -> dict[str, str]:
    """Place of a layer -> its module in the library; empty for resjax, whose own paths are its names."""
    preactivated = spec.order == "full_preactivation"
    if library == "timm" and preactivated:
        return TIMM_V2 | (TIMM_V2_DEEP if spec.stem == "deep" else {})
    if library == "timm":
        deep, pooled = spec.stem == "deep", spec.shortcut_pool
        return TIMM | (TIMM_DEEP if deep else {}) | (TIMM_POOLED if pooled else {})
    return {"torchvision": TORCHVISION, "transformers": TRANSFORMERS, "keras": KERAS, "resjax": {}}[library]


def _arrays(
    path: Path, layer: Layer, table: Mapping[str, str], library: str
) -> Iterator[tuple[Path, tuple[int, ...], str]]:
    """The path, the shape and the library's module of every array of a layer."""
    module = ""
    if table:
        kind, number = layer.name.rstrip("0123456789"), layer.name.lstrip("abcdefghijklmnopqrstuvwxyz")
        part = path[0] if path == ("stem",) else path[2] if len(path) == 3 else "unit" if path else ""
        place = ".".join(filter(None, (part, layer.name if part == "stem" or not number else kind)))
        if place not in table:
            raise BadInput(f"{library} has no layer for {'/'.join((*path, layer.name))}")
        counts = {}
        if len(path) > 1:
            stage, unit = int(path[0].removeprefix("stage")), int(path[1].removeprefix("unit"))
            counts = {"s": stage, "S": stage - 1, "k": stage + 1, "u": unit, "n": unit + 1}
        counts |= {"i": int(number), "I": int(number) - 1} if number else {}
        module = table[place].format(**counts)
    for leaf, shape in _leaves(layer).items():
        part = "batch_stats" if leaf in STATISTICS else "params"
        yield (part, *path, layer.name, leaf), shape, module


def _name(layer: Layer, own: Path, module: str, library: str) -> str:
    """What a library calls the array at `own` of a layer, which is its `module`."""
    if library == "resjax":
        return "/".join(own)
    leaf = own[-1]
    if library == "keras":
        return f"{module}/{KERAS_NORM[leaf] if layer.kind == 'norm' else leaf}"
    return f"{module}.{ARRAYS[leaf]}"


def _leaves(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Leaf -> shape, of a layer that has parameters."""
    if layer.kind == "norm":
        return dict.fromkeys(("scale", "bias", *STATISTICS), (layer.width,))
    sides = (layer.kernel, layer.kernel) if layer.kind == "conv" else ()
    bias = {} if layer.bias is None else {"bias": (layer.width,)}
    return {"kernel": (*sides, layer.in_width // layer.groups, layer.width)} | bias


def _order(
    layer: Layer, shape: tuple[int, ...], table: Mapping[str, str], library: str
) -> tuple[tuple[int, ...], int]:
    """How the library has the axes, and how many of 1 besides: in PyTorch HWIO is OIHW, and [I, O] is [O, I]."""
    if library in ("keras", "resjax") or len(shape) == 1:
        return tuple(range(len(shape))), 0
    # timm has 1x1 convolutions for the dense layers of an excitation, and for the head of pre-activated networks.
    convolved = layer.kind == "dense" or (layer.kind == "classifier" and table["head"] == TIMM_V2["head"])
    return ((3, 2, 0, 1), 0) if len(shape) == 4 else ((1, 0), 2 if convolved else 0)
