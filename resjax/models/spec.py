"""A network as a value: one frozen `Spec` says everything about it.

Every row of both ResNet papers (v1 arXiv 1512.03385, v2 arXiv 1603.05027) is a choice of these fields; none of
them needs a module of its own. `resjax.models.layout` turns a spec into layers, `resjax.models.resnet.ResNet` runs
them, `resjax.models.counts` counts them, `resjax.models.published` lists the specs of the papers.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple

from resjax.errors import BadInput, unknown


class UnitKind(NamedTuple):
    """The weight layers of a residual branch: conv or dense, their kernels, and the share of the width inside."""

    kind: str
    kernels: tuple[int, ...]
    squeeze: int = 1


UNITS = {
    "basic": UnitKind("conv", (3, 3)),
    "bottleneck": UnitKind("conv", (1, 3, 1), squeeze=4),
    "single": UnitKind("conv", (3,)),  # one-layer skips, v2 Table 3
    "dense": UnitKind("dense", (1, 1)),
    "dense_single": UnitKind("dense", (1,)),
}


class StemKind(NamedTuple):
    """The stem's weight layers (kernel, width as a share of stem_width, stride) and whether a max-pool follows."""

    kind: str
    layers: tuple[tuple[int, float, int], ...]
    pool: bool = False


STEMS = {
    "conv3": StemKind("conv", ((3, 1.0, 1),)),
    "conv7": StemKind("conv", ((7, 1.0, 2),), pool=True),
    "deep": StemKind("conv", ((3, 0.5, 2), (3, 0.5, 1), (3, 1.0, 1)), pool=True),
    "dense": StemKind("dense", ((1, 1.0, 1),)),
    "none": StemKind("dense", ()),
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


class ShortcutStep(NamedTuple):
    """A step of a shortcut: its layer's kind, and whether it fits map size and width to the branch's output."""

    kind: str
    size: bool = False
    width: bool = False


SHORTCUT_STEPS = {
    "s": ShortcutStep("subsample", size=True),
    "a": ShortcutStep("average_pool", size=True),
    "z": ShortcutStep("zero_pad", width=True),
    "p": ShortcutStep("projection", size=True, width=True),  # 1x1, with BN unless the units are pre-activated
}


class ShortcutKind(NamedTuple):
    """A shortcut as a row of steps: where the unit changes width or map size, and where it changes neither.

    Steps that have nothing left to fit are left out, but never a projection.
    """

    changing: str
    same: str = ""

    @property
    def meaning(self) -> str:
        """The steps in words."""
        changing, same = (
            " and ".join(SHORTCUT_STEPS[step].kind for step in steps) for steps in (self.changing, self.same)
        )
        if changing == same:
            return f"{same} everywhere" if same else "no shortcut: a plain network"
        return f"{changing} where dimensions change, {same or 'identity'} elsewhere"


# v1 section 4.1. A new shortcut is one line here.
SHORTCUTS = {
    "none": ShortcutKind(""),
    "A": ShortcutKind("sz"),
    "B": ShortcutKind("p"),
    "C": ShortcutKind("p", "p"),
}

CHOICES = {
    "unit": tuple(UNITS),
    "order": tuple(ORDERS),
    "stem": tuple(STEMS),
    "stride_on": ("1x1", "3x3"),
    "shortcut": {name: kind.meaning for name, kind in SHORTCUTS.items()},
    "gate": ("none", "exclusive", "shortcut_only"),
    "gate_layers": ("conv1", "unit"),
    "norm": ("batch", "none"),
    "activation": ("relu", "sigmoid"),
    "init": ("fan_out", "fan_in"),
    "dtype": ("float32", "bfloat16", "float64"),
    "convolution": ("auto", "onednn", "products", "xla"),
}
GATE = ("gate", "gate_layers", "gate_bias")
# Far beyond any network, and small enough that nothing counted from them exceeds what a machine counts.
MOST_UNITS = 20_000
LARGEST = 10**7  # of a width, or classes
LARGEST_INPUT = 10**5  # pixels of a side
FROM_DATA = ("input_size", "input_channels", "num_classes")  # 0: as the data set has it


@dataclasses.dataclass(frozen=True)
class UnitShape:
    """What `Unit` needs besides the spec: the unit's place, shape and survival; `size` is its input map's side.

    `removed` is a stride that the unit would have but for `Spec.output_stride`, `dilation` the product of those
    before it.
    """

    stage: int
    index: int
    in_width: int
    width: int
    stride: int
    size: int
    survival: float
    dilation: int = 1
    removed: int = 1

    @property
    def changes(self) -> bool:
        """True where an identity shortcut cannot fit: another width or map size, with the stride that is gone."""
        return self.in_width != self.width or self.stride * self.removed != 1

    @property
    def first(self) -> bool:
        """True for the first unit of the network."""
        return self.stage == 1 and self.index == 0

    @property
    def out_size(self) -> int:
        """Side of the output map: padding is symmetric, so strides round up."""
        return -(-self.size // self.stride)

    @property
    def path(self) -> tuple[str, str]:
        """The unit's place in the unrolled parameter tree."""
        return f"stage{self.stage}", f"unit{self.index}"


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything about one network. The default is ResNet-20 for CIFAR (v1 section 4.2).

    Raises:
      BadInput: from the constructor, for an impossible value or combination of fields.
    """

    # Shape: units and output widths by stage. Every stage but the first halves the map in its first unit.
    units: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (16, 32, 64)
    unit: str = "basic"
    squeeze: int = 0  # output width over the width inside a unit; 0 = as `unit` has it (bottleneck: 4, others: 1)
    groups: int = 1  # of the bottleneck's 3x3 convolution: ResNeXt, arXiv 1611.05431
    # conv3 (CIFAR) | conv7 (7x7/2 and a 3x3/2 max-pool) | deep (ResNet-D: three 3x3) | dense | none
    stem: str = "conv3"
    stem_width: int = 16
    # No BN and activation after the stem's last layer; a pre-activated first unit then has its own.
    stem_raw: bool = False
    # Bottleneck stride: on the first 1x1 as in v1, or on the 3x3 ("v1.5").
    stride_on: str = "1x1"
    # Input pixels from one pixel of the last map to the next; 0 = the network's own (ImageNet: 32). A smaller one
    # takes the strides of the last stages away, and kernels dilate by the strides that are gone before them (arXiv
    # 1606.00915; torchvision's replace_stride_with_dilation). Parameters stay the same, and so, but for excitation
    # and BN in training, does the map: it has further pixels between the network's own.
    output_stride: int = 0

    # The residual unit.
    order: str = "original"
    excitation: int = 0  # squeeze-and-excitation of the branch: its reduction (arXiv 1709.01507: 16); 0 = none
    # none (a plain network) | A zero-padding | B projection where dimensions change | C projection everywhere;
    # SHORTCUTS lists their steps
    shortcut: str = "A"
    shortcut_pool: bool = False  # ResNet-D: 2x2 average pool, then a projection of stride 1
    shortcut_scale: float = 1.0  # v2 eq. 6, lambda; with branch_scale the "constant scaling" of v2 Table 1
    branch_scale: float = 1.0
    shortcut_dropout: float = 0.0  # v2 Table 1: rate on the shortcut; survivors are not rescaled in training
    gate: str = "none"  # v2 section 3.1, highway networks
    gate_layers: str = "conv1"  # conv1: one 1x1 convolution | unit: layers as in the branch (highway networks)
    gate_bias: float = 0.0
    stochastic_depth: float = 0.0  # drop rate of the last unit; it grows linearly with depth

    # Layers.
    norm: str = "batch"  # without it every weight layer has a bias
    bn_group: int = 0  # images normalised together: 0 = the global batch, 64 = CIFAR papers, 32 = ImageNet papers
    bn_momentum: float = 0.9  # share of the running statistics that a step keeps
    bn_epsilon: float = 1e-5
    zero_gamma: bool = False  # the branch's last BN starts at 0, so that every unit starts as its shortcut
    activation: str = "relu"
    init: str = "fan_out"  # variance of a weight: init_gain / fan
    init_gain: float = 2.0  # He's; 1 is LeCun's

    # Input and output; 0 = as the data set has it, to be filled in before the network is built or counted.
    input_size: int = 32
    input_channels: int = 3
    num_classes: int = 10

    # Execution: the function is the same, and so are the parameters, up to the exact conversion of
    # `resjax.models.scan`.
    # Of convolutions; parameters and statistics stay float32, logits are at least that. float64 is for checks.
    dtype: str = "float32"
    # auto: on a CPU matrix products where they are faster, and oneDNN where it pays | onednn | products
    # | xla: its own everywhere
    convolution: str = "auto"
    # The identical units of a stage as one compiled body. It draws other fresh weights than the unrolled form.
    scan: bool = False
    remat: bool = False  # recompute each unit's activations in the backward pass

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, field.default)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise BadInput(unknown(f"model.{name}", getattr(self, name), choices))
        for ok, message in self._rules():
            if not ok:
                raise BadInput(f"model.{message}")
        for name, part in self._without_effect():
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default:
                raise BadInput(f"model.{name}={value}: {part} ignores it; set model.{name}={default}")

    def _check_type(self, name: str, default: Any) -> None:
        """Raises BadInput unless the field has its default's type; lists become tuples."""
        value = getattr(self, name)
        if isinstance(default, tuple):
            value = tuple(value) if isinstance(value, list | tuple) else value
            object.__setattr__(self, name, value)
            ok = isinstance(value, tuple) and all(whole(one) for one in value)
            wanted = "whole numbers, one per stage"
        elif isinstance(default, bool):
            ok, wanted = isinstance(value, bool), "True or False"
        elif isinstance(default, int):
            ok, wanted = whole(value), "a whole number"
        elif isinstance(default, float):
            ok = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            wanted = "a finite number"
        else:
            ok, wanted = isinstance(value, str), "a word"
        if not ok:
            raise BadInput(f"model.{name}={value!r}: must be {wanted}, such as {default!r}")

    def _rules(self) -> Iterator[tuple[bool, str]]:
        yield (
            len(self.units) == len(self.widths) > 0,
            f"units={self.units} and model.widths={self.widths}: give one of each per stage",
        )
        yield min(self.units) >= 1, f"units={self.units}: every stage needs at least one unit"
        yield sum(self.units) <= MOST_UNITS, f"units={self.units}: at most {MOST_UNITS} in all"
        yield max(self.widths) <= LARGEST, f"widths={self.widths}: must be at most {LARGEST}"
        yield min(self.widths) >= 1, f"widths={self.widths}: every stage needs at least one channel"
        yield self.squeeze >= 0, f"squeeze={self.squeeze}: must be 0 (the unit's own) or a divisor of the widths"
        yield (
            all(w % self.inner_share == 0 for w in self.widths),
            f"widths={self.widths}: the widths of {self.unit} units must be multiples of {self.inner_share}",
        )
        inner = tuple(w // self.inner_share for w in self.widths)
        yield self.groups >= 1, f"groups={self.groups}: must be at least 1"
        yield (
            all(w % self.groups == 0 for w in inner),
            f"groups={self.groups}: must divide the widths inside the units, {inner}",
        )
        yield self.excitation >= 0, f"excitation={self.excitation}: must be 0 (none) or a reduction, such as 16"
        yield (
            not self.excitation or all(w % self.excitation == 0 for w in self.widths),
            f"excitation={self.excitation}: must divide the widths {self.widths}",
        )
        yield not self.excitation or not self.dense, f"excitation={self.excitation}: needs convolutional units"
        least = 2 if self.stem == "deep" else 1
        yield self.stem_width >= least, f"stem_width={self.stem_width}: must be at least {least}"
        yield self.stem_width <= LARGEST, f"stem_width={self.stem_width}: must be at most {LARGEST}"
        for name in FROM_DATA:
            value = getattr(self, name)
            yield value >= 0, f"{name}={value}: must be at least 1, or 0 for what the data set has"
            most = LARGEST_INPUT if name == "input_size" else LARGEST
            yield value <= most, f"{name}={value}: must be at most {most}"
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
        stems = [name for name, stem in STEMS.items() if stem.kind == UNITS[self.unit].kind]
        yield self.stem in stems, f"stem={self.stem}: {self.unit} units take {' or '.join(stems)}"
        strides = [self.stem_stride * 2**i for i in range(min(len(self.units), LARGEST_INPUT.bit_length()))]
        yield (
            self.dense or self.output_stride in (0, *strides),
            f"output_stride={self.output_stride}: must be a stride of this network's stages, "
            f"{', '.join(map(str, strides))}, or 0 for its own",
        )
        shortcut = SHORTCUTS[self.shortcut]
        growing = (self.stem_out, *self.widths)
        narrows = any(a > b for a, b in itertools.pairwise(growing))
        yield (
            not (narrows and "z" in shortcut.changing),
            f"shortcut={self.shortcut} pads with zeros and cannot narrow {growing}; use shortcut=B",
        )
        projects_alone = shortcut.changing == "p"  # no other step has fitted the size before
        yield (
            not self.shortcut_pool or self.shortcut == "none" or (projects_alone and not self.dense),
            f"shortcut_pool=True needs convolutional units with shortcut=B or C, not {self.unit} units with "
            f"shortcut={self.shortcut}; set it to False",
        )
        yield (
            not self.zero_gamma or (self.norm == "batch" and ORDERS[self.order].last.endswith("n")),
            f"zero_gamma=True needs a branch that ends in BN, not norm={self.norm} with order={self.order}; "
            "set it to False",
        )
        yield (
            not (self.zero_gamma and self.shortcut == "none"),
            "zero_gamma=True starts every unit as its shortcut, and a plain network has none; set it to False",
        )

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        """The fields that the rest of the spec leaves without effect, each with the part that ignores it."""
        if self.shortcut == "none":
            names = ("pool", "scale", "dropout")
            for name in ("branch_scale", *(f"shortcut_{n}" for n in names), *GATE, "stochastic_depth"):
                yield name, "a plain network (model.shortcut=none)"
        if self.gate == "none":
            for name in GATE[1:]:
                yield name, "a network without gates (model.gate=none)"
        if len(UNITS[self.unit].kernels) == 1:
            yield "squeeze", f"a unit of one layer (model.unit={self.unit})"
        if self.unit != "bottleneck":
            yield "groups", f"model.unit={self.unit}"
        if self.dense:
            yield "output_stride", f"a network without maps (model.unit={self.unit})"
        if self.stem == "none":
            yield "stem_width", "model.stem=none"
        if not ORDERS[self.order].lead and self.stem == "none":
            yield "stem_raw", "a network without a stem or pre-activation"

    def check_complete(self) -> None:
        """Raises BadInput if a field is still 0, that is, left to the data set."""
        for name in FROM_DATA:
            if getattr(self, name) == 0:
                raise BadInput(f"model.{name}=0 leaves it to the data set, and none is known here: give a number")

    @property
    def dense(self) -> bool:
        """True for fully connected units."""
        return UNITS[self.unit].kind == "dense"

    @property
    def inner_share(self) -> int:
        """A unit's output width over the width of its layers but the last."""
        return self.squeeze or UNITS[self.unit].squeeze

    @property
    def parts(self) -> tuple[str, ...]:
        """What comes before the head, from input to output: `stem`, `stage1`, `stage2` and so on."""
        return ("stem", *(f"stage{i}" for i in range(1, len(self.units) + 1)))

    @property
    def depth(self) -> int:
        """Weighted layers as the papers count them: stem, branches and classifier, no shortcuts or gates."""
        return len(STEMS[self.stem].layers) + sum(self.units) * len(UNITS[self.unit].kernels) + 1

    @property
    def stem_out(self) -> int:
        """Width of the first unit's input."""
        return self.stem_width if STEMS[self.stem].layers else self.input_size**2 * self.input_channels

    @property
    def stem_stride(self) -> int:
        """Input pixels from one pixel of the first unit's input map to the next."""
        stem = STEMS[self.stem]
        return math.prod(stride for _, _, stride in stem.layers) * (2 if stem.pool else 1)

    @property
    def stem_out_size(self) -> int:
        """Side of the first unit's input map; 1 for fully connected networks."""
        return 1 if self.dense else -(-self.input_size // self.stem_stride)

    def unit_shapes(self) -> Iterator[UnitShape]:
        """Yields every unit from input to output.

        Raises:
          BadInput: for a spec that leaves a field to the data set.
        """
        self.check_complete()
        width, size, seen, total = self.stem_out, self.stem_out_size, 0, sum(self.units)
        reached, dilation = self.stem_stride, 1
        for stage, (n, out) in enumerate(zip(self.units, self.widths, strict=True), 1):
            for index in range(n):
                seen += 1
                stride, removed = 2 if stage > 1 and index == 0 and not self.dense else 1, 1
                if reached == self.output_stride:
                    stride, removed = 1, stride
                survival = 1 - self.stochastic_depth * seen / total
                shape = UnitShape(stage, index, width, out, stride, size, survival, dilation, removed)
                yield shape
                width, size = out, shape.out_size
                reached, dilation = reached * stride, dilation * removed


def whole(value: Any) -> bool:
    """True for an integer, but not for a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)
