"""The networks of both papers, and their best-known descendants, by name."""

import re
from collections.abc import Collection
from typing import Any

from resjax import paths
from resjax.errors import BadInput, unknown
from resjax.models.spec import Spec

IMAGENET_STAGES = {  # v1 Table 1; 200 from v2 section 5
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
CIFAR_BOTTLENECK = (164, 1001)  # v2's 9n+2 networks; 164 = 6 * 27 + 2 too, but no paper has that one
CIFAR_FAMILIES = ("v1", "v2", "plain", "highway")
V15 = {"stride_on": "3x3"}
V2 = V15 | {"order": "full_preactivation"}
# Family -> what may follow the depth -> the fields that it sets.
IMAGENET_FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "v1": {"": {}},
    # d: "ResNet-D" of arXiv 1812.01187
    "v1.5": {"": V15, "d": V15 | {"stem": "deep", "shortcut_pool": True}},
    # raw: the stem without BN and ReLU, the first unit with its own (timm's resnetv2)
    "v2": {"": V2, "raw": V2 | {"stem_raw": True}},
    "plain": {"": V15 | {"shortcut": "none"}},
    # groups x width of a group in the first stage (arXiv 1611.05431)
    "resnext": {
        "32x4d": V15 | {"groups": 32, "squeeze": 2},
        "32x8d": V15 | {"groups": 32, "squeeze": 1},
        "64x4d": V15 | {"groups": 64, "squeeze": 1},
    },
    "wide": {"2": V15 | {"squeeze": 2}},  # how much wider inside (arXiv 1605.07146, torchvision's form)
    "se": {"": V15 | {"excitation": 16}},  # arXiv 1709.01507
}


def cifar(name: str) -> Spec:
    """A CIFAR network: `v1-20`, `plain-56`, `v2-110`, `v2-164`, `v1-1001`, `highway-110`.

    Depths are 6n+2 in basic units (v1 section 4.2; shortcut A) or 9n+2 in bottleneck units (v2 appendix; 164,
    1001 and every depth that is not 6n+2; projections). `highway-110` is the network of `highway`.

    Raises:
      BadInput: for an unknown family or a depth that it does not have.
    """
    family, depth = _plain_name(name, CIFAR_FAMILIES, "v1-20")
    if family == "highway":
        return highway(depth)
    bottleneck = family != "plain" and (depth in CIFAR_BOTTLENECK or (depth % 9 == 2 and depth % 6 != 2))
    step = 9 if bottleneck else 6
    if depth % step != 2 or depth <= 2:
        lower = max(8, depth - (depth - 2) % 6)
        also = "" if family == "plain" else " or 9n+2 (164, 1001)"
        raise BadInput(
            f"network {name!r}: CIFAR depths are 6n+2 (20, 32, 44, 56, 110, 1202){also}; "
            f"nearest: {family}-{lower} and {family}-{lower + 6}"
        )
    n = (depth - 2) // step
    return Spec(
        units=(n, n, n),
        widths=(64, 128, 256) if bottleneck else (16, 32, 64),
        unit="bottleneck" if bottleneck else "basic",
        order="full_preactivation" if family == "v2" else "original",
        shortcut="none" if family == "plain" else "B" if bottleneck else "A",
    )


def highway(depth: int) -> Spec:
    """The 6n+2 highway network of Srivastava's comparison with ResNet-110 (2,649,918 parameters at depth 110).

    Two-convolution branches and gates with BN, the gates' last beta at -6, no activation after the addition,
    projections with BN where dimensions change, widths times 0.875.

    Raises:
      BadInput: for a depth that is not 6n+2.
    """
    if depth % 6 != 2 or depth <= 2:
        raise BadInput(f"network 'highway-{depth}': depths are 6n+2 (20, 32, 110)")
    n = (depth - 2) // 6
    return Spec(
        units=(n, n, n),
        widths=(14, 28, 56),
        order="relu_before_addition",
        shortcut="B",
        gate="exclusive",
        gate_layers="unit",
        gate_bias=-6.0,
        init="fan_in",
    )


def highway_original(layers: int, width: int, features: int, classes: int) -> Spec:
    """A fully connected highway network as first published (arXiv 1505.00387): y = H(x) T(x) + x (1 - T(x)).

    `layers` highway layers of `width` units after one plain layer; H = ReLU(W x + b), T = sigmoid(W_T x + b_T)
    with b_T starting at -2; no BN. `features` is the side of a square one-channel input.
    """
    return Spec(
        units=(layers,),
        widths=(width,),
        unit="dense_single",
        stem="dense",
        stem_width=width,
        order="relu_before_addition",
        gate="exclusive",
        gate_layers="unit",
        gate_bias=-2.0,
        norm="none",
        init="fan_in",
        input_size=features,
        input_channels=1,
        num_classes=classes,
    )


def imagenet(name: str) -> Spec:
    """An ImageNet network: `v1-50`, `v1.5-50`, `v1.5-50-d`, `v2-200`, `v2-50-raw`, `plain-34`, `se-50`,
    `resnext-50-32x4d`, `wide-50-2`.

    v1 strides on the first 1x1 as the released models do, all others on the 3x3, v2 as FAIR's ResNet-200, the only
    one whose code is released. Projections where dimensions change (option B).

    Raises:
      BadInput: for an unknown family, or a depth or variant that it does not have.
    """
    family, depth, variant = _parse(name, IMAGENET_FAMILIES, "v1-50")
    variants = IMAGENET_FAMILIES[family]
    if variant not in variants:
        names = ", ".join("-".join(part for part in (family, str(depth), v) if part) for v in variants)
        raise BadInput(f"network {name!r}: there is no such variant of {family}-{depth}; known: {names}")
    bottleneck = "squeeze" in variants[variant]
    depths = tuple(d for d, (unit, _) in IMAGENET_STAGES.items() if unit == "bottleneck" or not bottleneck)
    depths = (18, 34) if family == "plain" else depths
    if depth not in depths:
        near = min(depths, key=lambda d: abs(d - depth))
        nearest = "-".join(part for part in (family, str(near), variant) if part)
        raise BadInput(f"network {name!r}: {family} depths on ImageNet are {depths}; nearest: {nearest}")
    unit, units = IMAGENET_STAGES[depth]
    fields: dict[str, Any] = {"stem": "conv7", "shortcut": "B"}
    return Spec(
        units=units,
        widths=(64, 128, 256, 512) if unit == "basic" else (256, 512, 1024, 2048),
        unit=unit,
        stem_width=64,
        input_size=224,
        num_classes=1000,
        **fields | variants[variant],
    )


def dense(name: str, features: int, width: int) -> Spec:
    """A fully connected residual network on `features` x `features` grey images: `v1-21`, `v2-21`, `plain-21`.

    Depth 4n+1: n two-layer units as wide as the input, n units of `width`, the classifier. W_s, needed once where
    the widths differ, is zero-padding (`shortcut=A`) or learned (`shortcut=B`): v1 eq. 2. `highway-N` has N-2
    highway layers of 50, as in arXiv 1505.00387, which leaves out the classifier: its 50 layers are `highway-51`.

    Raises:
      BadInput: for an unknown family or a depth that it does not have.
    """
    family, depth = _plain_name(name, ("v1", "v2", "plain", "highway"), "v1-21")
    if family == "highway":
        if depth < 3:
            raise BadInput(
                f"network {name!r}: a highway network has at least one highway layer; nearest: highway-3"
            )
        return highway_original(depth - 2, 50, features, classes=10)
    if depth % 4 != 1 or depth <= 1:
        lower = max(5, depth - (depth - 1) % 4)
        raise BadInput(
            f"network {name!r}: dense depths are 4n+1; nearest: {family}-{lower} and {family}-{lower + 4}"
        )
    n = depth // 4
    return Spec(
        units=(n, n),
        widths=(features**2, width),
        unit="dense",
        stem="none",
        order="full_preactivation" if family == "v2" else "original",
        shortcut="none" if family == "plain" else "A",
        input_size=features,
        input_channels=1,
    )


def _plain_name(name: str, families: Collection[str], example: str) -> tuple[str, int]:
    family, depth, variant = _parse(name, families, example)
    if variant:
        raise BadInput(f"network {name!r}: nothing follows the depth here; did you mean {family}-{depth}?")
    return family, depth


def _parse(name: str, families: Collection[str], example: str) -> tuple[str, int, str]:
    """Family, depth and what follows them, "" for nothing."""
    match = re.fullmatch(r"([a-z0-9.]+)-(\d{1,6})(?:-([a-z0-9]+))?", name, re.ASCII)
    if not match:
        raise BadInput(
            f"network {paths.short(name)}: give FAMILY-DEPTH, such as {example} (families: {', '.join(families)})"
        )
    family, depth, variant = match.groups(default="")
    if family not in families:
        raise BadInput("network " + unknown("family", family, families))
    return family, int(depth), variant
