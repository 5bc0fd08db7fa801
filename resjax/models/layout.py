"""A network as layers: stem, units and head, each described here and nowhere else.

`resjax.models.layers` runs the description, `resjax.models.counts` counts it, `resjax.benchmark` builds it in
PyTorch and in stock Flax, `resjax.analysis` finds its way by it. A layer's name and the module that holds it are
its place in the parameter tree: `stage1/unit0/conv1`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from resjax.models.spec import ORDERS, SHORTCUT_STEPS, SHORTCUTS, STEMS, UNITS, Order, Spec, UnitShape

WEIGHTS = ("conv", "dense", "classifier")  # the kinds that multiply by a kernel
Path = tuple[str, ...]


class Layer(NamedTuple):
    """One layer in its place.

    conv           a convolution padded by dilation * (kernel // 2) on all sides
    dense          a matrix product
    classifier     the dense layer of the logits
    norm           BN
    relu, sigmoid
    max_pool       padded by kernel // 2 on all sides
    average_pool   of kernel x kernel pixels from every stride-th one on; where the map ends, of those that it has
    subsample      every stride-th pixel
    zero_pad       new channels of zeros after the others
    mean           over all pixels
    flatten        pixels and channels into one row

    `size` is the side of the input map, 1 where there is no map. `name` is "" for a layer without parameters.
    `dilation` is the distance between the pixels that a conv or an average_pool takes together.
    Parameters start at: `bias` of a conv or dense layer (None: it has none), `gamma` and `beta` of BN.
    """

    kind: str
    in_width: int
    width: int
    size: int
    name: str = ""
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    bias: float | None = None
    gamma: float = 1.0
    beta: float = 0.0

    @property
    def out_size(self) -> int:
        """Side of the output map."""
        return 1 if self.kind in ("mean", "flatten") else -(-self.size // self.stride)


Layers = tuple[Layer, ...]


class UnitLayout(NamedTuple):
    """The layers of a unit: x -> after(shortcut(x) + branch(lead(x))), v2 eq. 1 and 2.

    `lead` is a pre-activation, `excitation` what the branch's output is multiplied by, `gate` what weighs branch
    against shortcut; they are empty where the unit has none. `lead`, `branch` and `after` lie in the unit itself,
    the others in modules of their names.
    """

    lead: Layers
    branch: Layers
    excitation: Layers
    shortcut: Layers
    gate: Layers
    after: Layers
    activated: bool  # shortcut and gate start from the lead's output, not from x


def stem(spec: Spec) -> Layers:
    """What comes before the first unit, in the module `stem`."""
    spec.check_complete()
    kind, chain = STEMS[spec.stem], Chain(spec, spec.input_channels, spec.input_size)
    if spec.dense:
        chain.add("flatten", spec.input_channels * spec.input_size**2)
    for i, (kernel, share, stride) in enumerate(kind.layers, 1):
        bias = unit_bias(spec)
        chain.add(kind.kind, int(spec.stem_width * share), kernel=kernel, stride=stride, name=f"conv{i}", bias=bias)
        if not (spec.stem_raw and i == len(kind.layers)):
            chain.norm(f"norm{i}")
            chain.add(spec.activation)
    if kind.pool:
        chain.add("max_pool", kernel=3, stride=2)
    return chain.take()


def unit(spec: Spec, shape: UnitShape) -> UnitLayout:
    """A residual unit in its place; a plain network's unit has no shortcut."""
    order, weights = ORDERS[spec.order], unit_weights(spec, shape)
    chain = Chain(spec, shape.in_width, shape.size)

    def add(tokens: str, i: int) -> None:
        last = i == len(weights)
        for token in tokens:
            if token == "c":
                chain.add(name=f"conv{i}", bias=unit_bias(spec), **weights[i - 1])
            elif token == "n":
                chain.norm(f"norm{i}", gamma=0.0 if spec.zero_gamma and last else 1.0)
            else:
                chain.add(spec.activation)

    # v2, appendix: an activated stem is the first unit's pre-activation.
    if spec.stem_raw or not shape.first:
        add(order.lead, 1)
    lead = chain.take()
    for i in range(1, len(weights) + 1):
        tokens = order.last if i == len(weights) else order.layer
        add(tokens.removeprefix(order.lead) if i == 1 else tokens, i)
    branch = chain.take()
    add(order.after, len(weights))
    steps = shortcut_steps(spec, shape)
    return UnitLayout(
        lead=lead,
        branch=branch,
        excitation=excitation(spec, shape),
        shortcut=shortcut(spec, shape, steps, order),
        gate=gate(spec, shape),
        after=chain.take(),
        # v2, appendix: a projection is fed by the activated signal; every other shortcut carries x as it came.
        activated="p" in steps,
    )


def shortcut_steps(spec: Spec, shape: UnitShape) -> str:
    """The steps of a unit's shortcut; "" for an identity and for none."""
    kind = SHORTCUTS[spec.shortcut]
    steps = kind.changing if shape.changes else kind.same
    return steps.replace("p", "ap") if spec.shortcut_pool else steps


def shortcut(spec: Spec, shape: UnitShape, steps: str, order: Order) -> Layers:
    """x in the shape of the branch's output, W_s of v1 eq. 2."""
    chain = Chain(spec, shape.in_width, shape.size)
    for step in steps:
        kind, fits_size, fits_width = SHORTCUT_STEPS[step]
        stride = shape.stride if fits_size and chain.size == shape.size else 1
        width = shape.width if fits_width else chain.width
        if kind == "projection":
            chain.add(UNITS[spec.unit].kind, width, stride=stride, name="conv")
            if not order.lead:
                chain.norm("norm")
        elif kind == "average_pool":
            if (cell := stride * shape.removed) > 1:
                chain.add(kind, kernel=cell, stride=stride, dilation=shape.dilation)
        elif stride > 1 or width != chain.width:
            chain.add(kind, width, stride=stride)
    return chain.take()


def gate(spec: Spec, shape: UnitShape) -> Layers:
    """g(x) = sigmoid(W_g x + b_g), v2 section 3.1, with b_g starting at `gate_bias` (BN's beta where BN follows).

    One 1x1 convolution without BN (v2), or the unit's own layers (highway networks, arXiv 1505.00387).
    """
    if spec.gate == "none":
        return ()
    weights: list[dict[str, Any]] = [{"kind": UNITS[spec.unit].kind, "width": shape.width, "stride": shape.stride}]
    normalized = spec.gate_layers == "unit" and spec.norm == "batch"
    if spec.gate_layers == "unit":
        weights = unit_weights(spec, shape)
    chain = Chain(spec, shape.in_width, shape.size)
    for i, weight in enumerate(weights, 1):
        last = i == len(weights)
        start = spec.gate_bias if last else 0.0
        chain.add(name=f"conv{i}", bias=None if normalized else start, **weight)
        if normalized:
            chain.norm(f"norm{i}", beta=start)
        chain.add("sigmoid" if last else spec.activation)
    return chain.take()


def excitation(spec: Spec, shape: UnitShape) -> Layers:
    """One factor in (0, 1) for every channel of the branch's output, from its means (arXiv 1709.01507, Fig. 2)."""
    if not spec.excitation:
        return ()
    chain = Chain(spec, shape.width, shape.out_size)
    chain.add("mean")
    chain.add("dense", shape.width // spec.excitation, name="conv1", bias=0.0)
    chain.add("relu")
    chain.add("dense", shape.width, name="conv2", bias=0.0)
    chain.add("sigmoid")
    return chain.take()


def head(spec: Spec) -> Layers:
    """What comes after the last unit: a pre-activated network ends in one more activation, v2 appendix."""
    *_, last = spec.unit_shapes()
    chain = Chain(spec, last.width, last.out_size)
    for token in ORDERS[spec.order].lead:
        if token == "n":
            chain.norm("norm")
        else:
            chain.add(spec.activation)
    if not spec.dense:
        chain.add("mean")
    chain.add("classifier", spec.num_classes, name="head", bias=0.0)
    return chain.take()


class FeatureMap(NamedTuple):
    """The map after a stage: its channels, and the input pixels from one of its pixels to the next."""

    width: int
    stride: int


def features(spec: Spec) -> dict[str, FeatureMap]:
    """The maps that `ResNet.features` returns, by name, from input to output.

    Networks with ImageNet's stems, which reduce by 4, have C2 to C5 as detectors call them (C_k has stride 2^k
    unless `output_stride` says less), all others `stage1`, `stage2` and so on. Without maps every stride is 1.

    Raises:
      BadInput: for a spec that leaves a field to the data set.
    """
    found, stride = {}, spec.stem_stride
    for shape in spec.unit_shapes():
        stride *= shape.stride
        name = f"C{shape.stage + 1}" if STEMS[spec.stem].pool else f"stage{shape.stage}"
        found[name] = FeatureMap(shape.width, stride)
    return found


def unit_bias(spec: Spec) -> float | None:
    """Where the bias of stem and branch layers starts; None, no bias, in networks with BN."""
    return None if spec.norm == "batch" else 0.0


def unit_weights(spec: Spec, shape: UnitShape) -> list[dict[str, Any]]:
    """Kind, width, kernel, stride, groups and dilation of every weight layer of a unit's branch."""
    kind, kernels, _ = UNITS[spec.unit]
    last = len(kernels) - 1
    strided = 1 if spec.unit == "bottleneck" and spec.stride_on == "3x3" else 0
    return [
        {
            "kind": kind,
            "width": shape.width if i == last else shape.width // spec.inner_share,
            "kernel": kernel,
            "stride": shape.stride if i == strided else 1,
            "groups": spec.groups if kernel > 1 else 1,
            # by the strides that are gone before it: the layer that would stride still has the unit's own
            "dilation": shape.dilation * (shape.removed if i > strided else 1) if kernel > 1 else 1,
        }
        for i, kernel in enumerate(kernels)
    ]


def parts(spec: Spec) -> Iterator[tuple[Path, Layers]]:
    """Every row of layers from input to output, with the module that holds it."""
    yield ("stem",), stem(spec)
    for shape in spec.unit_shapes():
        at, own = shape.path, unit(spec, shape)
        yield at, own.lead
        yield at, own.branch
        yield (*at, "excitation"), own.excitation
        yield (*at, "shortcut"), own.shortcut
        yield (*at, "gate"), own.gate
        yield at, own.after
    yield (), head(spec)


def weight_layers(spec: Spec) -> list[tuple[Path, Layer]]:
    """The layers that depth counts, from input to output: stem, branches and classifier, each with its place."""
    rows: list[tuple[Path, Layers]] = [(("stem",), stem(spec))]
    rows += [(shape.path, unit(spec, shape).branch) for shape in spec.unit_shapes()]
    rows += [((), head(spec))]
    return [((*path, layer.name), layer) for path, row in rows for layer in row if layer.kind in WEIGHTS]


class Chain:
    """Builds layers in a row: each takes the width and the map size that the one before it ends with."""

    def __init__(self, spec: Spec, width: int, size: int) -> None:
        self.spec, self.width, self.size = spec, width, size
        self._layers: list[Layer] = []

    def add(self, kind: str, width: int | None = None, **fields: Any) -> None:
        """Adds a layer, of the same width unless one is given."""
        layer = Layer(kind, self.width, width or self.width, self.size, **fields)
        self._layers.append(layer)
        self.width, self.size = layer.width, layer.out_size

    def norm(self, name: str, **start: Any) -> None:
        """Adds BN, where the network has it."""
        if self.spec.norm == "batch":
            self.add("norm", name=name, **start)

    def take(self) -> Layers:
        """The layers since the last call; the next ones go on from here."""
        layers, self._layers = tuple(self._layers), []
        return layers
