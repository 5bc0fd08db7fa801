"""Tables of "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027). Other people's rows are left out."""

import dataclasses
from typing import Any

from resjax.papers import pictures, v1
from resjax.papers.table import IMAGENET, MEDIAN, Picture, Published, Row, Table

FAIL_ABOVE = 20.0  # Table 1: "fail" is a CIFAR-10 test error above this
RUNS = 5
WITHOUT_BN = "the paper's 10.2M leaves out the parameters of BN"
MEDIANS = "The paper's numbers are medians of 5 runs."
CIFAR100 = {"data.name": "cifar100"}
FAIR = {"optimizer.nesterov": True, "optimizer.decay_mask": "all"}  # fb.resnet.torch, train.lua
# The same, datasets/imagenet.lua.
FAIR_VIEWS = {
    "data.augment": "fb_crop_flip",
    "data.jitter": 0.4,
    "data.lighting": 0.1,
    "data.interpolation": "bicubic",
}


def median(error: float | None, mean: float | None = None, std: float | None = None) -> Published:
    """A number of the CIFAR tables, with the mean where Table 4 gives it; None is the paper's "fail"."""
    return Published(error, mean=mean, std=std, words="fail" if error is None else "", statistic=MEDIAN)


def case(name: str, label: str, error: float | None, note: str = "", **model: Any) -> Row:
    """A row of Table 1: ResNet-110 with one thing changed in all of its units."""
    return Row(name, label, "v1-110", median(error), model, note=note)


def exclusive(bias: int, published: Published) -> Row:
    """Exclusive gating in all units of ResNet-110, from one b_g."""
    model = {"gate": "exclusive", "gate_bias": float(bias)}
    return Row(f"exclusive{bias or '-0'}", f"exclusive gating, b_g = {bias}", "v1-110", published, model)


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
    """A row of Table 5: the authors' implementation, which strides on the first 1x1; with aspect ratio, FAIR's."""
    kind, label = {"v1": ("original", "original"), "v2": ("preact", "pre-activation")}[family]
    aspect = "-aspect" if augmentation != "scale" else ""
    model = {} if aspect or family == "v1" else {"stride_on": "1x1"}
    fields = FAIR | FAIR_VIEWS if aspect else {}
    return Row(
        f"{kind}-{depth}-{crop}{aspect}",
        f"{label} ResNet-{depth}, {augmentation} augmentation, test crop {crop}",
        f"{family}-{depth}",
        Published(top1, top5),
        model,
        fields,
    )


TABLE1 = (
    case("original", "original", 6.61),
    case("scale-0", "constant scaling, shortcut 0, F 1", None, shortcut_scale=0.0),
    case("scale-0.5", "constant scaling, shortcut 0.5, F 1", None, shortcut_scale=0.5),
    case("scale-0.5-0.5", "constant scaling, shortcut 0.5, F 0.5", 12.35, shortcut_scale=0.5, branch_scale=0.5),
    *(exclusive(bias, median(None)) for bias in (0, -1, -2, -3, -4, -5)),
    exclusive(-6, median(8.70)),
    exclusive(-7, median(9.81)),
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
)
TABLE2 = (
    *order("a", "original", "original", 6.61, 5.93),
    *order("b", "BN after addition", "bn_after_addition", 8.17, 6.50),
    *order("c", "ReLU before addition", "relu_before_addition", 7.84, 6.14),
    *order("d", "ReLU-only pre-activation", "relu_only_preactivation", 6.71, 5.91),
    *order("e", "full pre-activation", "full_preactivation", 6.37, 5.46),
)
ONE_LAYER = {"unit": "single", "units": (36, 36, 36)}
TABLE3 = (
    Row("original-110-one", "original ResNet-110, one-layer skips", "v1-110", median(9.90), ONE_LAYER),
    Row("preact-110-one", "pre-activation ResNet-110, one-layer skips", "v2-110", median(8.91), ONE_LAYER),
    *pair(110, 6.61, 6.37),
    *pair(164, 5.93, 5.46),
    *pair(1001, 7.61, 4.92),
    *pair(164, 25.16, 24.33, classes=100),
    *pair(1001, 27.82, 22.71, classes=100),
)
# The released code's recipe for 4.62 % (resnet-1k-layers, on fb.resnet.torch): 200 epochs of 50k images, drops at
# the start of epochs 81 and 122, in steps of 64 images on two GPUs.
BATCH_64 = FAIR | {
    "batch_size": 64,
    "model.bn_group": 32,
    "total_steps": 156_250,
    "schedule.drop_steps": (62_500, 94_531),
    "schedule.warmup": "none",
    "data.normalize": "channel",
}


def named(rows: tuple[Row, ...], *names: str, **changes: Any) -> tuple[Row, ...]:
    """Some rows of another table, by name and in the order of the names, with fields replaced in all of them."""
    by_name = {row.name: row for row in rows}
    return tuple(dataclasses.replace(by_name[name], **changes) for name in names)


def curves(file: str, *rows: str) -> Picture:
    """Training losses and test errors of some rows."""
    return Picture(file, pictures.losses, rows)


TABLES = (
    Table(
        "v2-table1",
        "kinds of shortcuts on ResNet-110, CIFAR-10",
        "v2 Table 1: test error",
        TABLE1,
        seeds=RUNS,
        note=f"{MEDIANS} It has one row for exclusive gating with b_g = 0 to -5. It does not say what gates and "
        "shortcuts do where dimensions change: here option A, and a gate with the unit's stride. On "
        "CIFAR-10 b_g does not decay.",
    ),
    Table(
        "v2-table2",
        "orders of BN and ReLU on ResNet-110 and ResNet-164, CIFAR-10",
        "v2 Table 2: test error",
        TABLE2,
        seeds=RUNS,
        note=MEDIANS,
    ),
    Table(
        "v2-table3",
        "original against pre-activated units up to 1001 layers, CIFAR-10 and CIFAR-100",
        "v2 Table 3: test error",
        TABLE3,
        seeds=RUNS,
        note=MEDIANS,
    ),
    Table(
        "v2-table4",
        "the papers' own networks in the comparison with others, CIFAR-10 and CIFAR-100",
        "v2 Table 4: test error",
        (
            *map(v1.resnet, (110, 1202)),
            *named(TABLE3, "preact-164", size="1.7M"),
            *named(TABLE3, "preact-1001", published=median(4.92, 4.89, 0.14), size="10.2M", note=WITHOUT_BN),
            Row(
                "preact-1001-batch64",
                "pre-activation ResNet-1001, batch 64",
                "v2-1001",
                median(4.62, 4.69, 0.20),
                fields=BATCH_64,
                size="10.2M",
                note=f"the recipe of the released code; {WITHOUT_BN}",
            ),
            *named(TABLE3, "original-164-cifar100", "original-1001-cifar100", "preact-164-cifar100"),
            *named(TABLE3, "preact-1001-cifar100", published=median(22.71, 22.68, 0.22)),
        ),
        seeds=RUNS,
        note="The paper's numbers are medians of 5 runs, but for its first two rows, which are v1's.",
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
        note="The paper's rows are of v1's implementation, but for the last, FAIR's: it varies the aspect ratio "
        "and the colours more, strides on the 3x3, decays every parameter and has Nesterov's momentum. Most of the "
        "paper's rows are tested on crops of 320 pixels; this version tests centre crops of 224.",
    ),
    Table(
        "v2-bn-after",
        "BN after the addition in ResNet-101, ImageNet",
        "v2, in the text: top-1 / top-5 error of single crops of 224 pixels, validation set",
        (
            Row("original-101", "original ResNet-101", "v1-101", Published(23.6, 7.1)),
            Row(
                "bn-after-101",
                "ResNet-101, BN after addition",
                "v1-101",
                Published(24.6, 7.5),
                {"order": "bn_after_addition"},
            ),
        ),
        data=IMAGENET,
    ),
    Table(
        "v2-search",
        "the search over b_g of exclusive gating on ResNet-110, CIFAR-10",
        "v2 section 3.1: b_g from 0 to -10 by cross-validation on the training set; Table 1 has the test errors",
        tuple(exclusive(bias, Published(words="chosen" if bias == -6 else "")) for bias in range(0, -11, -1)),
        validation=True,
        note="One held-out tenth stands in for the paper's cross-validation. v2-table1 then trains on all images.",
    ),
    Table(
        "v2-fig1",
        "curves of original and pre-activated ResNet-1001, CIFAR-10",
        "v2 Fig. 1: training loss and test error; the numbers are Table 3's",
        named(TABLE3, "original-1001", "preact-1001"),
        training=True,
        seeds=RUNS,
        pictures=(curves("fig1.png"),),
        note=MEDIANS,
    ),
    Table(
        "v2-fig3",
        "curves of four kinds of shortcuts against the original ResNet-110, CIFAR-10",
        "v2 Fig. 3: training loss and test error; the numbers are Table 1's",
        named(TABLE1, "original", "scale-0.5-0.5", "exclusive-6", "gated-0", "conv1x1"),
        training=True,
        seeds=RUNS,
        pictures=(
            curves("fig3-scaling.png", "original", "scale-0.5-0.5"),
            curves("fig3-exclusive.png", "original", "exclusive-6"),
            curves("fig3-shortcut-only.png", "original", "gated-0"),
            curves("fig3-conv1x1.png", "original", "conv1x1"),
        ),
        note=MEDIANS,
    ),
    Table(
        "v2-fig6",
        "curves of BN after addition (ResNet-110) and of pre-activation (ResNet-164), CIFAR-10",
        "v2 Fig. 6: training loss and test error; the numbers are Table 2's",
        named(TABLE2, "a-110", "b-110", "a-164", "e-164"),
        training=True,
        seeds=RUNS,
        pictures=(curves("fig6-bn-after.png", "a-110", "b-110"), curves("fig6-preact.png", "a-164", "e-164")),
        note=MEDIANS,
    ),
)
