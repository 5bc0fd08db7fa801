"""A network as a value: one frozen `Spec` says everything about it.

Every row of both ResNet papers (v1 arXiv 1512.03385, v2 arXiv 1603.05027) is a choice of these fields; none of
them needs a module of its own. `resjax.models.resnet.ResNet` interprets a spec, `resjax.models.counts` counts
its parameters and multiply-adds by formula, `resjax.models.published` lists the specs of the papers.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from resjax.errors import BadInput, unknown


class UnitKind(NamedTuple):
    """The weight layers of a residual branch: kernel sizes (0 = fully connected) and the bottleneck's squeeze."""

    kernels: tuple[int, ...]
    squeeze: int = 1


UNITS = {
    "basic": UnitKind((3, 3)),
    "bottleneck": UnitKind((1, 3, 1), squeeze=4),
    "single": UnitKind((3,)),  # one-layer skips, v2 Table 3
    "dense": UnitKind((0, 0)),
    "dense_single": UnitKind((0,)),
}


class Order(NamedTuple):
    """Where a unit convolves (c), normalises (n) and activates (a): v2 Fig. 4.

    `layer` is the pattern of every weight layer of the branch but the last, `last` that of the last one and
    `after` what follows the addition.
    """

    layer: str
    last: str
    after: str

    @property
    def lead(self) -> str:
        """What precedes the first weight layer: empty unless the order is a pre-activation."""
        return self.layer[: self.layer.index("c")]


ORDERS = {
    "original": Order("cna", "cn", "a"),  # v2 Fig. 4 (a)
    "bn_after_addition": Order("cna", "c", "na"),  # (b)
    "relu_before_addition": Order("cna", "cna", ""),  # (c)
    "relu_only_preactivation": Order("acn", "acn", ""),  # (d)
    "full_preactivation": Order("nac", "nac", ""),  # (e)
}

CHOICES = {
    "unit": tuple(UNITS),
    "order": tuple(ORDERS),
    "stem": ("conv3", "conv7", "deep", "dense", "none"),
    "stride_on": ("1x1", "3x3"),
    "shortcut": ("none", "A", "B", "C"),
    "gate": ("none", "exclusive", "shortcut_only"),
    "gate_layers": ("conv1", "unit"),
    "norm": ("batch", "none"),
    "activation": ("relu", "sigmoid"),
    "init": ("fan_out", "fan_in"),
    "dtype": ("float32", "bfloat16"),
}


@dataclasses.dataclass(frozen=True)
class UnitShape:
    """One unit in its place: what `Unit` needs beside the spec. `size` is the side of its input map."""

    stage: int
    index: int
    in_width: int
    width: int
    stride: int
    size: int
    survival: float

    @property
    def changes(self) -> bool:
        """True where an identity shortcut cannot fit: another width or another map size."""
        return self.in_width != self.width or self.stride != 1

    @property
    def first(self) -> bool:
        """True for the first unit of the network."""
        return self.stage == 1 and self.index == 0

    @property
    def out_size(self) -> int:
        """Side of the output map: padding is symmetric, so strides round up."""
        return -(-self.size // self.stride)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything about one network. The default is ResNet-20 for CIFAR (v1 section 4.2).

    Raises:
      BadInput: from the constructor, for a field whose value or combination is impossible.
    """

    # Shape: units and output widths by stage. Every stage but the first halves the map in its first unit.
    units: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (16, 32, 64)
    unit: str = "basic"
    # conv3 (CIFAR) | conv7 (7x7/2 and a 3x3/2 max-pool) | deep (ResNet-D: three 3x3) | dense | none
    stem: str = "conv3"
    stem_width: int = 16
    # Bottleneck stride: on the first 1x1 as in v1, or on the 3x3 ("v1.5").
    stride_on: str = "1x1"

    # The residual unit.
    order: str = "original"
    # none (a plain network) | A zero-padding | B projection where dimensions change | C projection everywhere
    shortcut: str = "A"
    shortcut_pool: bool = False  # ResNet-D: 2x2 average pool, then a projection of stride 1
    shortcut_scale: float = 1.0  # v2 eq. 6, lambda; with branch_scale the "constant scaling" of v2 Table 1
    branch_scale: float = 1.0
    shortcut_dropout: float = 0.0  # v2 Table 1: rate on the shortcut; survivors are not rescaled in training
    gate: str = "none"  # v2 section 3.1, highway networks
    gate_layers: str = "conv1"  # the gate: one 1x1 convolution, or the unit's own layers as highway networks have
    gate_bias: float = 0.0
    stochastic_depth: float = 0.0  # drop rate of the last unit; grows linearly from the first

    # Layers.
    norm: str = "batch"  # without it every weight layer has a bias
    bn_group: int = 0  # images normalised together: 0 = the global batch, 64 = CIFAR papers, 32 = ImageNet papers
    bn_momentum: float = 0.9  # share of the running statistics that a step keeps
    bn_epsilon: float = 1e-5
    zero_gamma: bool = False  # the branch's last BN starts at 0, so that every unit starts as its shortcut
    activation: str = "relu"
    init: str = "fan_out"  # variance of a weight: init_gain / fan
    init_gain: float = 2.0  # He's; 1 is LeCun's

    # Input and output.
    input_size: int = 32
    input_channels: int = 3
    num_classes: int = 10

    # Execution: same function, same parameters up to `resjax.models.scan`'s exact conversion.
    dtype: str = "float32"  # of convolutions; parameters, statistics and logits stay float32
    scan: bool = False  # the identical units of a stage as one compiled body
    remat: bool = False  # recompute each unit's activations in the backward pass

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(self.units))
        object.__setattr__(self, "widths", tuple(self.widths))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise BadInput(unknown(f"model.{name}", getattr(self, name), choices))
        for ok, message in self._rules():
            if not ok:
                raise BadInput(f"model.{message}")

    def _rules(self) -> Iterator[tuple[bool, str]]:
        yield (
            len(self.units) == len(self.widths) > 0,
            f"units={self.units} and model.widths={self.widths}: give one of each per stage",
        )
        yield min(self.units) >= 1, f"units={self.units}: every stage needs at least one unit"
        yield min(self.widths) >= 1, f"widths={self.widths}: every stage needs at least one channel"
        squeeze = UNITS[self.unit].squeeze
        yield (
            all(w % squeeze == 0 for w in self.widths),
            f"widths={self.widths}: a bottleneck's output widths must be multiples of {squeeze}",
        )
        for name in ("stem_width", "input_size", "input_channels", "num_classes"):
            value = getattr(self, name)
            yield value >= 1, f"{name}={value}: must be at least 1"
        yield (
            self.bn_group >= 0,
            f"bn_group={self.bn_group}: must be 0 (the whole batch) or a number of images",
        )
        yield 0 <= self.bn_momentum < 1, f"bn_momentum={self.bn_momentum}: must lie in [0, 1)"
        yield self.bn_epsilon > 0, f"bn_epsilon={self.bn_epsilon}: must be positive"
        yield self.init_gain > 0, f"init_gain={self.init_gain}: must be positive"
        for name in ("shortcut_dropout", "stochastic_depth"):
            value = getattr(self, name)
            yield 0 <= value < 1, f"{name}={value}: must lie in [0, 1)"
        yield (
            (self.stem in ("dense", "none")) == self.dense,
            f"stem={self.stem}: fully connected units take stem=dense or none, convolutional units a convolution",
        )
        growing = (self.stem_out, *self.widths)
        yield (
            self.shortcut != "A" or all(a <= b for a, b in itertools.pairwise(growing)),
            f"shortcut=A pads with zeros and cannot narrow {growing}; use shortcut=B",
        )
        plain = self.shortcut == "none"
        extras = (self.gate != "none", self.shortcut_dropout, self.stochastic_depth, self.shortcut_pool)
        yield (
            not (plain and any(extras)),
            "shortcut=none is a plain network: it has no gate, shortcut_dropout, shortcut_pool or stochastic_depth",
        )
        yield (
            not self.shortcut_pool or (self.shortcut in "BC" and not self.dense),
            f"shortcut_pool=True belongs to convolutional projections; use shortcut=B instead of {self.shortcut}",
        )
        yield (
            not self.zero_gamma or (self.norm == "batch" and ORDERS[self.order].last.endswith("n")),
            f"zero_gamma=True needs norm=batch and a branch that ends in BN; model.order={self.order} does not",
        )

    @property
    def dense(self) -> bool:
        """True for fully connected units."""
        return UNITS[self.unit].kernels[0] == 0

    @property
    def depth(self) -> int:
        """Weighted layers as the papers count them: stem, branches and classifier, no shortcuts or gates."""
        stem = {"deep": 3, "none": 0}.get(self.stem, 1)
        return stem + sum(self.units) * len(UNITS[self.unit].kernels) + 1

    @property
    def stem_out(self) -> int:
        """Width of the first unit's input."""
        return self.input_size**2 * self.input_channels if self.stem == "none" else self.stem_width

    @property
    def stem_out_size(self) -> int:
        """Side of the first unit's input map; 1 for fully connected networks."""
        if self.dense:
            return 1
        halvings = 0 if self.stem == "conv3" else 2  # stride-2 convolution and stride-2 pool
        return -(-self.input_size // 2**halvings)

    def weight_layers(self, shape: UnitShape) -> list[tuple[int, int, int]]:
        """Kernel, output width and stride of every weight layer of a unit's branch."""
        kernels, squeeze = UNITS[self.unit]
        widths = [shape.width // squeeze] * (len(kernels) - 1) + [shape.width]
        strided = 1 if len(kernels) == 3 and self.stride_on == "3x3" else 0
        strides = [shape.stride if i == strided else 1 for i in range(len(kernels))]
        return list(zip(kernels, widths, strides, strict=True))

    def unit_shapes(self) -> Iterator[UnitShape]:
        """Yields every unit from input to output."""
        width, size, seen, total = self.stem_out, self.stem_out_size, 0, sum(self.units)
        for stage, (n, out) in enumerate(zip(self.units, self.widths, strict=True), 1):
            for index in range(n):
                seen += 1
                stride = 2 if stage > 1 and index == 0 and not self.dense else 1
                shape = UnitShape(stage, index, width, out, stride, size, 1 - self.stochastic_depth * seen / total)
                yield shape
                width, size = out, shape.out_size
