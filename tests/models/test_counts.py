"""Every published or derived size: the formula, the initialised tree and the traced program agree."""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Jaxpr

from resjax.models import counts, layout, published
from resjax.models.counts import Cost
from resjax.models.resnet import ResNet
from resjax.models.scan import unroll
from resjax.models.spec import Spec, UnitShape
from resjax.models.units import Unit

# Depth: parameters of B, of A and plain, of C, then GMAC of B, of v1.5, and of A and plain.
IMAGENET = {
    18: (11_689_512, 11_515_688, 12_043_816, 1.8141, 1.8141, 1.7948),
    34: (21_797_672, 21_623_848, 22_716_840, 3.6638, 3.6638, 3.6445),
    50: (25_557_032, 22_780_456, 40_128_552, 3.8580, 4.0892, 3.4983),
    101: (44_549_160, 41_772_584, 76_981_288, 7.5702, 7.8014, 7.2105),
    152: (60_192_808, 57_416_232, 107_335_720, 11.2824, 11.5136, 10.9228),
    200: (64_673_832, 61_897_256, 116_027_432, 14.7763, 15.0075, 14.4166),
}
IMAGENET_PREACTIVATION = {
    18: 11_687_720,
    34: 21_795_880,
    50: 25_549_352,
    101: 44_541_480,
    152: 60_185_128,
    200: 64_666_152,
}
# What torchvision and timm have.
DESCENDANTS = {
    "resnext-50-32x4d": 25_028_904,
    "resnext-101-32x8d": 88_791_336,
    "resnext-101-64x4d": 83_455_272,
    "wide-50-2": 68_883_240,
    "wide-101-2": 126_886_696,
    "v1.5-18-d": 11_708_744,
    "v1.5-50-d": 25_576_264,
    "se-50": 28_088_024,
    "v2-50-raw": 25_549_352,
}
# The FLOPs that v1 Table 1 prints, in billions; 34 is the plain or option A network.
IMAGENET_PRINTED = {18: 1.8, 34: 3.6, 50: 3.8, 101: 7.6, 152: 11.3}
# Depth: parameters of A and plain, those of them without BN, of B, of C, and MMAC of A and plain.
CIFAR = {
    20: (269_722, 268_346, 272_474, 283_962, 40.55),
    32: (464_154, 461_882, 466_906, 489_594, 68.86),
    44: (658_586, 655_418, 661_338, 695_226, 97.17),
    56: (853_018, 848_954, 855_770, 900_858, 125.49),
    110: (1_727_962, 1_719_866, 1_730_714, 1_826_202, 252.89),
    1202: (19_421_274, 19_331_642, 19_424_026, 20_538_714, 2829.24),
}
# Depth: parameters, those without BN, with 100 classes, of the original unit, and MMAC.
CIFAR_BOTTLENECK = {
    164: (1_703_258, 1_679_034, 1_726_388, 1_704_154, 244.5),
    1001: (10_327_706, 10_178_490, 10_350_836, 10_328_602, 1487.8),
}


@cache
def tree(spec: Spec) -> dict:
    """The abstract parameters, unit by unit; traced scanned, which takes a tenth of the time."""
    net = ResNet(dataclasses.replace(spec, scan=True))
    images = jnp.zeros((1, spec.input_size, spec.input_size, spec.input_channels))
    return jax.eval_shape(lambda: unroll(net.init(jax.random.key(0), images)["params"]))


def size(params: dict, *, norms: bool = True) -> int:
    """Parameters in a tree, with or without those of the BN layers."""
    leaves = jax.tree.leaves_with_path(params)
    return sum(x.size for path, x in leaves if norms or "norm" not in jax.tree_util.keystr(path))


def unit_cost(spec: Spec, shape: UnitShape) -> Cost:
    """Cost of one unit, from its layers."""
    parts = layout.unit(spec, shape)
    rows = (parts.lead, parts.branch, parts.excitation, parts.shortcut, parts.gate, parts.after)
    return counts.added(layer for row in rows for layer in row)


def check(spec: Spec, params: int) -> None:
    assert counts.total(spec).params == params
    assert size(tree(spec)) == params


@pytest.mark.parametrize("depth", IMAGENET)
@pytest.mark.parametrize("column", ["B", "A", "plain", "C", "v1.5"])
def test_imagenet(depth: int, column: str) -> None:
    b, a, c, gmac_b, gmac_v15, gmac_a = IMAGENET[depth]
    params, gmac = {
        "B": (b, gmac_b),
        "A": (a, gmac_a),
        "plain": (a, gmac_a),
        "C": (c, None),
        "v1.5": (b, gmac_v15),
    }[column]
    spec = published.imagenet(f"v1.5-{depth}" if column == "v1.5" else f"v1-{depth}")
    if column != "v1.5":
        spec = dataclasses.replace(spec, shortcut="none" if column == "plain" else column)
    assert spec.depth == depth
    check(spec, params)
    if gmac is not None:
        assert round(counts.total(spec).macs / 1e9, 4) == gmac


@pytest.mark.parametrize("depth", [18, 34])
def test_published_plain_nets_are_the_residual_ones_without_shortcuts(depth: int) -> None:
    plain, residual = published.imagenet(f"plain-{depth}"), published.imagenet(f"v1-{depth}")
    assert plain.shortcut == "none"
    assert counts.total(plain) == counts.total(dataclasses.replace(residual, shortcut="A"))


@pytest.mark.parametrize(("depth", "printed"), IMAGENET_PRINTED.items())
def test_imagenet_flops_as_printed(depth: int, printed: float) -> None:
    spec = published.imagenet(f"v1-{depth}")
    spec = dataclasses.replace(spec, shortcut="A") if depth == 34 else spec
    assert counts.total(spec).macs / 1e9 == pytest.approx(printed, abs=0.1)


@pytest.mark.parametrize(("depth", "params"), IMAGENET_PREACTIVATION.items())
def test_imagenet_preactivation(depth: int, params: int) -> None:
    check(published.imagenet(f"v2-{depth}"), params)


def macs_by_hand(
    units: tuple[int, ...], *, inside: int, groups: int, basic: bool, deep: bool, se: int, least: int = 7
) -> int:
    """Multiply-adds at 224 pixels of the networks that stride on the 3x3 and project where dimensions change.

    `least` is the side of the smallest maps.
    """
    total = (9 * 3 * 32 + 9 * 32 * 32 + 9 * 32 * 64) * 112**2 if deep else 49 * 3 * 64 * 112**2
    width = 64
    for stage, n in enumerate(units):
        side, out = max(56 // 2**stage, least), 64 * 2**stage * (1 if basic else 4)
        hidden = inside * 2**stage
        for i in range(n):
            before = max(112 // 2**stage, least) if i == 0 and stage > 0 else side
            if basic:
                total += 9 * (width + out) * out * side**2
            else:
                total += width * hidden * before**2
                total += (9 * hidden * hidden // groups + hidden * out) * side**2
            if width != out:
                total += width * out * side**2
            total += 2 * out * (out // se) if se else 0
            width = out
    return total + width * 1000


BY_HAND = {
    "resnext-50-32x4d": {"inside": 128, "groups": 32},
    "resnext-101-32x8d": {"inside": 256, "groups": 32},
    "resnext-101-64x4d": {"inside": 256, "groups": 64},
    "wide-50-2": {"inside": 128},
    "wide-101-2": {"inside": 128},
    "v1.5-18-d": {"basic": True, "deep": True},
    "v1.5-50-d": {"deep": True},
    "se-50": {"se": 16},
    "v2-50-raw": {},
}


@pytest.mark.parametrize(("name", "params"), DESCENDANTS.items())
def test_descendants(name: str, params: int) -> None:
    spec = published.imagenet(name)
    assert spec.depth == int(name.split("-")[1]) + (2 if spec.stem == "deep" else 0)
    check(spec, params)
    fields = {"inside": 64, "groups": 1, "basic": False, "deep": False, "se": 0} | BY_HAND[name]
    assert counts.total(spec).macs == macs_by_hand(spec.units, **fields)


@pytest.mark.parametrize(("stride", "least"), [(8, 28), (16, 14), (32, 7)])
def test_an_output_stride_costs_pixels_and_no_parameters(stride: int, least: int) -> None:
    spec = published.imagenet("v1.5-50")
    dilated = dataclasses.replace(spec, output_stride=stride)
    assert tree(dilated) == tree(spec)
    assert counts.total(dilated).params == counts.total(spec).params
    fields = {"inside": 64, "groups": 1, "basic": False, "deep": False, "se": 0}
    assert counts.total(dilated).macs == macs_by_hand(spec.units, least=least, **fields)


@pytest.mark.parametrize("depth", CIFAR)
@pytest.mark.parametrize("column", ["A", "plain", "v2", "B", "C"])
def test_cifar(depth: int, column: str) -> None:
    a, without_norms, b, c, mmac = CIFAR[depth]
    spec = published.cifar(f"v1-{depth}")
    if column in ("plain", "v2"):
        spec = published.cifar(f"{column}-{depth}")
    else:
        spec = dataclasses.replace(spec, shortcut=column)
    assert spec.depth == depth
    check(spec, {"B": b, "C": c}.get(column, a))
    if column not in "BC":
        assert size(tree(spec), norms=False) == without_norms
        assert round(counts.total(spec).macs / 1e6, 2) == mmac
        n = spec.units[0]
        assert a == 97_216 * n - 21_926
        assert counts.total(dataclasses.replace(spec, num_classes=100)).params == a + 65 * 90


@pytest.mark.parametrize("depth", CIFAR_BOTTLENECK)
def test_cifar_bottleneck(depth: int) -> None:
    params, without_norms, hundred_classes, original, mmac = CIFAR_BOTTLENECK[depth]
    spec = published.cifar(f"v2-{depth}")
    check(spec, params)
    assert spec.depth == depth
    assert params == 92_736 * spec.units[0] + 34_010
    assert size(tree(spec), norms=False) == without_norms
    assert round(counts.total(spec).macs / 1e6, 1) == mmac
    check(dataclasses.replace(spec, num_classes=100), hundred_classes)
    check(published.cifar(f"v1-{depth}"), original)


def test_gates_of_resnet_110() -> None:
    original, gated = CIFAR[110][0], dataclasses.replace(published.cifar("v1-110"), gate="exclusive")
    check(gated, original + 96_224)
    check(dataclasses.replace(gated, gate="shortcut_only"), original + 96_224)


def test_highway_110() -> None:
    check(published.cifar("highway-110"), 2_649_918)


@pytest.mark.parametrize(
    ("unit", "weights", "with_norms"), [("basic", 1_179_648, 1_180_672), ("bottleneck", 69_632, 70_400)]
)
def test_a_pair_of_3x3_against_a_bottleneck_at_256_channels(unit: str, weights: int, with_norms: int) -> None:
    spec = Spec(units=(2,), widths=(256,), unit=unit, stem_width=256, shortcut="B")
    shape = UnitShape(stage=1, index=1, in_width=256, width=256, stride=1, size=1, survival=1.0)
    # On a 1x1 map every weight is used once.
    assert unit_cost(spec, shape) == Cost(with_norms, weights)
    params = jax.eval_shape(lambda: Unit(spec, shape).init(jax.random.key(0), jnp.zeros((1, 1, 1, 256)), False))
    assert size(params["params"]) == with_norms
    assert size(params["params"], norms=False) == weights
    # A projection in place of the identity adds 256 * 256 weights.
    assert counts.added(layout.unit(dataclasses.replace(spec, shortcut="C"), shape).shortcut).macs == 65_536


@pytest.mark.parametrize("width", [128, 256])
@pytest.mark.parametrize("shortcut", ["none", "A", "B"])
def test_fully_connected_unit(width: int, shortcut: str) -> None:
    fan, hidden = 128, width
    spec = Spec(
        units=(1,), widths=(width,), unit="dense", stem="dense", stem_width=fan, shortcut=shortcut, norm="none"
    )
    count = fan * hidden + hidden + hidden * width + width
    learned = width * fan if shortcut == "B" and width != fan else 0
    (shape,) = spec.unit_shapes()
    assert unit_cost(spec, shape).params == count + learned
    params = jax.eval_shape(lambda: Unit(spec, shape).init(jax.random.key(0), jnp.zeros((1, fan)), False))
    assert size(params["params"]) == count + learned
    assert learned in (0, 32_768)


def test_lines_add_up_and_name_the_maps() -> None:
    lines = counts.lines(published.imagenet("v1-50"))
    assert sum((line.cost for line in lines), Cost()) == counts.total(published.imagenet("v1-50"))
    assert [line.output for line in lines] == [
        (56, 56, 64),
        (56, 56, 256),
        (28, 28, 512),
        (14, 14, 1024),
        (7, 7, 2048),
        (1000,),
    ]


def traced_macs(jaxpr: Jaxpr) -> int:
    """Multiply-adds of the convolutions and matrix products in a program, padding included."""
    macs = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            out, (_, kernel) = eqn.outvars[0].aval, eqn.invars
            macs += out.size * math.prod(kernel.aval.shape) // out.shape[-1]
        macs += sum(traced_macs(p.jaxpr) for p in eqn.params.values() if hasattr(p, "jaxpr"))
    return macs


SMALL = {"units": (2, 2, 2)}
ZOO = {
    "v1-20": published.cifar("v1-20"),
    "v2-20": published.cifar("v2-20"),
    "v2 bottlenecks": dataclasses.replace(published.cifar("v2-164"), **SMALL),
    "v1-50": published.imagenet("v1-50"),
    "v1.5-50": published.imagenet("v1.5-50"),
    "odd maps": dataclasses.replace(published.imagenet("v1-18"), input_size=93),
    "dilated": dataclasses.replace(published.imagenet("v1-50"), output_stride=8, input_size=93),
    "ResNet-D": published.imagenet("v1.5-50-d"),
    "groups": published.imagenet("resnext-50-32x4d"),
    "wide": published.imagenet("wide-50-2"),
    "squeeze-and-excitation": published.imagenet("se-50"),
    "raw stem": published.imagenet("v2-50-raw"),
    "raw dense stem": dataclasses.replace(published.dense("v2-9", features=8, width=64), stem_raw=True),
    "projections everywhere": dataclasses.replace(published.cifar("v1-20"), shortcut="C"),
    "gates": dataclasses.replace(published.cifar("v1-20"), gate="exclusive"),
    "highway": published.cifar("highway-20"),
    "dense highway": published.highway_original(layers=3, width=50, features=28, classes=10),
    "no norm": dataclasses.replace(published.cifar("plain-20"), norm="none", activation="sigmoid"),
    "one-layer skips": dataclasses.replace(published.cifar("v1-20"), unit="single"),
    "dense": Spec(units=(2, 2), widths=(32, 64), unit="dense", stem="none", input_size=4, shortcut="B"),
    **{
        order: dataclasses.replace(published.cifar("v1-20"), **SMALL, order=order, shortcut="B")
        for order in ("bn_after_addition", "relu_before_addition", "relu_only_preactivation")
    },
}


@pytest.mark.parametrize("name", ZOO)
def test_formula_agrees_with_the_tree_and_the_program(name: str) -> None:
    spec = ZOO[name]
    params = {"params": tree(spec)}
    stats = jax.eval_shape(lambda: _variables(spec).get("batch_stats", {}))
    images = jax.ShapeDtypeStruct((1, spec.input_size, spec.input_size, spec.input_channels), jnp.float32)
    program = jax.make_jaxpr(ResNet(spec).apply)(params | {"batch_stats": stats}, images)
    assert counts.total(spec) == Cost(size(params), traced_macs(program.jaxpr))
    weights = layout.weight_layers(spec)
    assert len(weights) == spec.depth
    for path, layer in weights:
        kernel = params["params"]
        for name in (*path, "kernel"):
            kernel = kernel[name]
        assert kernel.shape[-2:] == (layer.in_width // layer.groups, layer.width), path


def test_a_layer_with_parameters_but_no_formula_is_not_counted_as_free() -> None:
    with pytest.raises(NotImplementedError, match="median"):
        counts.cost(layout.Layer("median", in_width=4, width=4, size=1, name="median1"))


def _variables(spec: Spec) -> dict:
    images = jnp.zeros((1, spec.input_size, spec.input_size, spec.input_channels))
    return ResNet(spec).init(jax.random.key(0), images)
