"""Tables of "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027). Other people's rows are left out."""

from typing import Any

from resjax.papers.table import IMAGENET, Published, Row, Table

FAIL_ABOVE = 20.0  # section 3: "fail" is a CIFAR-10 test error above this
RUNS = 5
MEDIANS = "The paper's numbers are medians of 5 runs."
CIFAR100 = {"data.name": "cifar100"}


def median(error: float | None) -> Published:
    """A number of the CIFAR tables; None is the paper's "fail"."""
    return Published(error, words="fail" if error is None else "", statistic="median of 5 runs")


def case(name: str, label: str, error: float | None, note: str = "", **model: Any) -> Row:
    """A row of Table 1: ResNet-110 with one thing changed in all of its units."""
    return Row(name, label, "v1-110", median(error), model, note=note)


def order(letter: str, label: str, name: str, error_110: float, error_164: float) -> tuple[Row, Row]:
    """Two rows of Table 2: one order in two-layer and in three-layer units."""
    errors = {110: error_110, 164: error_164}
    model = {} if name == "original" else {"order": name}
    rows = [
        Row(f"{letter}-{depth}", f"({letter}) {label}, {depth} layers", f"v1-{depth}", median(error), model)
        for depth, error in errors.items()
    ]
    return rows[0], rows[1]


def pair(depth: int, original: float, preactivated: float, *, classes: int = 10) -> tuple[Row, Row]:
    """Two rows of Table 3: the original unit and the pre-activated one."""
    suffix, where, fields = ("", "", {}) if classes == 10 else ("-cifar100", ", CIFAR-100", CIFAR100)
    rows = [
        Row(
            f"{kind}-{depth}{suffix}",
            f"{label} ResNet-{depth}{where}",
            f"{family}-{depth}",
            median(error),
            {},
            fields,
        )
        for family, kind, label, error in (
            ("v1", "original", "original", original),
            ("v2", "preact", "pre-activation", preactivated),
        )
    ]
    return rows[0], rows[1]


def imagenet(family: str, depth: int, crop: int, top1: float, top5: float, augmentation: str = "scale") -> Row:
    """A row of Table 5."""
    kind, label = {"v1": ("original", "original"), "v2": ("preact", "pre-activation")}[family]
    aspect = "-aspect" if augmentation != "scale" else ""
    return Row(
        f"{kind}-{depth}-{crop}{aspect}",
        f"{label} ResNet-{depth}, {augmentation} augmentation, test crop {crop}",
        f"{family}-{depth}",
        Published(top1, top5),
    )


ONE_LAYER = {"unit": "single", "units": (36, 36, 36)}

TABLES = (
    Table(
        "v2-table1",
        "kinds of shortcuts on ResNet-110, CIFAR-10",
        "v2 Table 1: test error",
        (
            case("original", "original", 6.61),
            case("scale-0", "constant scaling, shortcut 0, F 1", None, shortcut_scale=0.0),
            case("scale-0.5", "constant scaling, shortcut 0.5, F 1", None, shortcut_scale=0.5),
            case(
                "scale-0.5-0.5",
                "constant scaling, shortcut 0.5, F 0.5",
                12.35,
                shortcut_scale=0.5,
                branch_scale=0.5,
            ),
            case(
                "exclusive-5",
                "exclusive gating, b_g = 0 to -5",
                None,
                "run with b_g = -5, the nearest to one that works",
                gate="exclusive",
                gate_bias=-5.0,
            ),
            case("exclusive-6", "exclusive gating, b_g = -6", 8.70, gate="exclusive", gate_bias=-6.0),
            case("exclusive-7", "exclusive gating, b_g = -7", 9.81, gate="exclusive", gate_bias=-7.0),
            case("gated-0", "shortcut-only gating, b_g = 0", 12.86, gate="shortcut_only", gate_bias=0.0),
            case("gated-6", "shortcut-only gating, b_g = -6", 6.91, gate="shortcut_only", gate_bias=-6.0),
            case("conv1x1", "1x1 conv shortcut", 12.22, "option C in every unit, with BN", shortcut="C"),
            case(
                "dropout",
                "dropout shortcut, rate 0.5",
                None,
                "survivors are not rescaled: the shortcut is scaled by 0.5 in expectation, as the paper says",
                shortcut_dropout=0.5,
            ),
        ),
        seeds=RUNS,
        note=MEDIANS
        + " It does not say what gates and shortcuts do where dimensions change: here option A, and a gate "
        "with the unit's stride.",
    ),
    Table(
        "v2-table2",
        "orders of BN and ReLU on ResNet-110 and ResNet-164, CIFAR-10",
        "v2 Table 2: test error",
        (
            *order("a", "original", "original", 6.61, 5.93),
            *order("b", "BN after addition", "bn_after_addition", 8.17, 6.50),
            *order("c", "ReLU before addition", "relu_before_addition", 7.84, 6.14),
            *order("d", "ReLU-only pre-activation", "relu_only_preactivation", 6.71, 5.91),
            *order("e", "full pre-activation", "full_preactivation", 6.37, 5.46),
        ),
        seeds=RUNS,
        note=MEDIANS,
    ),
    Table(
        "v2-table3",
        "original against pre-activated units up to 1001 layers, CIFAR-10 and CIFAR-100",
        "v2 Table 3: test error",
        (
            Row("original-110-one", "original ResNet-110, one-layer skips", "v1-110", median(9.90), ONE_LAYER),
            Row("preact-110-one", "pre-activation ResNet-110, one-layer skips", "v2-110", median(8.91), ONE_LAYER),
            *pair(110, 6.61, 6.37),
            *pair(164, 5.93, 5.46),
            *pair(1001, 7.61, 4.92),
            *pair(164, 25.16, 24.33, classes=100),
            *pair(1001, 27.82, 22.71, classes=100),
        ),
        seeds=RUNS,
        note=MEDIANS,
    ),
    Table(
        "v2-table5",
        "original and pre-activated ResNet-152 and ResNet-200, ImageNet",
        "v2 Table 5: top-1 / top-5 error of single crops, validation set",
        (
            imagenet("v1", 152, 224, 23.0, 6.7),
            imagenet("v1", 152, 320, 21.3, 5.5),
            imagenet("v2", 152, 320, 21.1, 5.5),
            imagenet("v1", 200, 320, 21.8, 6.0),
            imagenet("v2", 200, 320, 20.7, 5.3),
            imagenet("v2", 200, 320, 20.1, 4.8, "scale and aspect ratio"),
        ),
        data=IMAGENET,
        note="Most of the paper's rows are tested on crops of 320 pixels; this version tests centre crops of 224. "
        "It trains with random resized crops, which vary scale and aspect ratio.",
    ),
)
