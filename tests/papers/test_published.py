"""The stored numbers against a second list, typed from the papers row by row, and the networks they belong to."""

from pathlib import Path

import pytest

from resjax.config import durations, network
from resjax.models import counts
from resjax.papers import TABLES
from resjax.papers.recipe import sweep
from resjax.sweep.plan import plan

FAIL = "fail"
# table -> row -> test error, or (top-1, top-5); None where the paper has no number.
NUMBERS = {
    "v1-table2": {"plain-18": 27.94, "plain-34": 28.54, "resnet-18-A": 27.88, "resnet-34-A": 25.03},
    "v1-table3": {
        "plain-34": (28.54, 10.02),
        "resnet-34-A": (25.03, 7.76),
        "resnet-34-B": (24.52, 7.46),
        "resnet-34-C": (24.19, 7.4),
        "resnet-50": (22.85, 6.71),
        "resnet-101": (21.75, 6.05),
        "resnet-152": (21.43, 5.71),
    },
    "v1-table4": {
        "resnet-34-B": (21.84, 5.71),
        "resnet-34-C": (21.53, 5.6),
        "resnet-50": (20.74, 5.25),
        "resnet-101": (19.87, 4.6),
        "resnet-152": (19.38, 4.49),
    },
    "v1-table5": {
        "resnet-34-B": (21.84, 5.71),
        "resnet-34-C": (21.53, 5.6),
        "resnet-50": (20.74, 5.25),
        "resnet-101": (19.87, 4.6),
        "resnet-152": (19.38, 4.49),
    },
    "v1-table6": {
        "resnet-20": 8.75,
        "resnet-32": 7.51,
        "resnet-44": 7.17,
        "resnet-56": 6.97,
        "resnet-110": 6.61,
        "resnet-1202": 7.93,
    },
    "v1-fig1": {"plain-20": None, "plain-56": None},
    "v1-fig4": {"plain-18": 27.94, "plain-34": 28.54, "resnet-18-A": 27.88, "resnet-34-A": 25.03},
    "v1-fig6": {
        "plain-20": None,
        "plain-32": None,
        "plain-44": None,
        "plain-56": None,
        "plain-110": "above 60",
        "resnet-20": 8.75,
        "resnet-32": 7.51,
        "resnet-44": 7.17,
        "resnet-56": 6.97,
        "resnet-110": 6.61,
        "resnet-1202": 7.93,
    },
    "v1-fig7": {"plain-20": None, "plain-56": None, "resnet-20": 8.75, "resnet-56": 6.97, "resnet-110": 6.61},
    "v1-split": {"rate-0.01": None, "rate-0.03": None, "rate-0.1": "chosen", "rate-0.3": None},
    "v2-table1": {
        "original": 6.61,
        "scale-0": FAIL,
        "scale-0.5": FAIL,
        "scale-0.5-0.5": 12.35,
        "exclusive-0": FAIL,
        "exclusive-1": FAIL,
        "exclusive-2": FAIL,
        "exclusive-3": FAIL,
        "exclusive-4": FAIL,
        "exclusive-5": FAIL,
        "exclusive-6": 8.7,
        "exclusive-7": 9.81,
        "gated-0": 12.86,
        "gated-6": 6.91,
        "conv1x1": 12.22,
        "dropout": FAIL,
    },
    "v2-table2": {
        "a-110": 6.61,
        "a-164": 5.93,
        "b-110": 8.17,
        "b-164": 6.5,
        "c-110": 7.84,
        "c-164": 6.14,
        "d-110": 6.71,
        "d-164": 5.91,
        "e-110": 6.37,
        "e-164": 5.46,
    },
    "v2-table3": {
        "original-110-one": 9.9,
        "preact-110-one": 8.91,
        "original-110": 6.61,
        "preact-110": 6.37,
        "original-164": 5.93,
        "preact-164": 5.46,
        "original-1001": 7.61,
        "preact-1001": 4.92,
        "original-164-cifar100": 25.16,
        "preact-164-cifar100": 24.33,
        "original-1001-cifar100": 27.82,
        "preact-1001-cifar100": 22.71,
    },
    "v2-table4": {
        "resnet-110": 6.61,
        "resnet-1202": 7.93,
        "preact-164": 5.46,
        "preact-1001": 4.92,
        "preact-1001-batch64": 4.62,
        "original-164-cifar100": 25.16,
        "original-1001-cifar100": 27.82,
        "preact-164-cifar100": 24.33,
        "preact-1001-cifar100": 22.71,
    },
    "v2-bn-after": {"original-101": (23.6, 7.1), "bn-after-101": (24.6, 7.5)},
    "v2-search": {
        "exclusive-0": None,
        "exclusive-1": None,
        "exclusive-2": None,
        "exclusive-3": None,
        "exclusive-4": None,
        "exclusive-5": None,
        "exclusive-6": "chosen",
        "exclusive-7": None,
        "exclusive-8": None,
        "exclusive-9": None,
        "exclusive-10": None,
    },
    "v2-fig1": {"original-1001": 7.61, "preact-1001": 4.92},
    "v2-fig3": {
        "original": 6.61,
        "scale-0.5-0.5": 12.35,
        "exclusive-6": 8.7,
        "gated-0": 12.86,
        "conv1x1": 12.22,
    },
    "v2-fig6": {"a-110": 6.61, "b-110": 8.17, "a-164": 5.93, "e-164": 5.46},
    "v2-table5": {
        "original-152-224": (23.0, 6.7),
        "original-152-320": (21.3, 5.5),
        "preact-152-320": (21.1, 5.5),
        "original-200-320": (21.8, 6.0),
        "preact-200-320": (20.7, 5.3),
        "preact-200-320-aspect": (20.1, 4.8),
    },
    "highway-mnist": {
        "plain-10": None,
        "highway-10": None,
        "plain-20": None,
        "highway-20": None,
        "plain-50": None,
        "highway-50": None,
        "plain-100": None,
        "highway-100": "a loss over 100 times lower than plain",
    },
    "degradation": {f"{kind}-{d}": None for kind in ("plain", "resnet") for d in (8, 14, 20, 32, 44, 56)},
    "degradation-longer": {"plain-20": None, "plain-56": None, "resnet-56": None},
    "degradation-norms": {"plain-20": None, "plain-56": None, "resnet-56": None, "plain-56-clipped": None},
    "claim-speed": {f"{kind}-{d}": None for kind in ("plain", "resnet") for d in (8, 20)},
    "claim-width": {f"{kind}-{d}": None for kind in ("plain", "resnet") for d in (8, 14, 20, 32)},
    "claim-optimizer": {
        f"{kind}-{o}-{d}": None for kind in ("plain", "resnet") for o in ("sgd", "adamw") for d in (8, 20, 32)
    },
    "claim-start": {
        f"plain-{bn}-{start}-{d}": None for bn in ("bn", "no-bn") for start in ("he", "lecun") for d in (8, 20, 32)
    },
}

# Row -> mean, standard deviation and best, where the paper gives them besides.
SPREADS = {
    ("v1-table6", "resnet-110"): (None, 0.16, 6.43),
    ("v1-fig6", "resnet-110"): (None, 0.16, 6.43),
    ("v1-fig7", "resnet-110"): (None, 0.16, 6.43),
    ("v2-table4", "resnet-110"): (None, 0.16, 6.43),
    ("v2-table4", "preact-1001"): (4.89, 0.14, None),
    ("v2-table4", "preact-1001-batch64"): (4.69, 0.2, None),
    ("v2-table4", "preact-1001-cifar100"): (22.68, 0.22, None),
}
# How a row with a spread reads.
TEXTS = {
    ("v1-table6", "resnet-110"): "mean 6.61 ± 0.16, best 6.43",
    ("v1-table6", "resnet-20"): "8.75",
    ("v1-table3", "resnet-50"): "22.85 / 6.71",
    ("v2-table1", "gated-6"): "median 6.91",
    ("v2-table1", "scale-0"): "fail",
    ("v2-table4", "preact-1001-batch64"): "median 4.62, mean 4.69 ± 0.20",
}

# v2 Table 1: all in which a row's network differs from the original ResNet-110.
TABLE1 = {
    "original": {},
    "scale-0": {"shortcut_scale": 0.0},
    "scale-0.5": {"shortcut_scale": 0.5},
    "scale-0.5-0.5": {"shortcut_scale": 0.5, "branch_scale": 0.5},
    "exclusive-0": {"gate": "exclusive"},
    "exclusive-1": {"gate": "exclusive", "gate_bias": -1.0},
    "exclusive-2": {"gate": "exclusive", "gate_bias": -2.0},
    "exclusive-3": {"gate": "exclusive", "gate_bias": -3.0},
    "exclusive-4": {"gate": "exclusive", "gate_bias": -4.0},
    "exclusive-5": {"gate": "exclusive", "gate_bias": -5.0},
    "exclusive-6": {"gate": "exclusive", "gate_bias": -6.0},
    "exclusive-7": {"gate": "exclusive", "gate_bias": -7.0},
    "gated-0": {"gate": "shortcut_only"},
    "gated-6": {"gate": "shortcut_only", "gate_bias": -6.0},
    "conv1x1": {"shortcut": "C"},
    "dropout": {"shortcut_dropout": 0.5},
}


def stacked(n, channels=3, width=16):
    """Parameters of the CIFAR networks of 3 n + 2 layers: the 3x3 layers with their BN, and the head.

    Units of one or two layers, before or after the activation, plain or with option A: the count is the same.
    """
    a, b, c = width, 2 * width, 4 * width
    layers = channels * a + n * a * a + a * b + (n - 1) * b * b + b * c + (n - 1) * c * c
    return 9 * layers + 2 * a + 2 * n * (a + b + c) + c * 10 + 10


def stacks(*depths, channels=3):
    return {depth: stacked((depth - 2) // 3, channels) for depth in depths}


DIGITS = stacks(8, 20, 32, channels=1)
RESNET_110, OPTION_C = stacked(36), 1_826_202
GATED = RESNET_110 + 18 * (16 * 16 + 32 * 32 + 64 * 64 + 16 + 32 + 64) - (32 * 32 - 16 * 32 + 64 * 64 - 32 * 64)
CIFAR_100 = 90 * (4 * 64 + 1)  # the classes more of a bottleneck network's head
# Exact counts of the networks by name; the papers print them as 0.27M, 1.7M, 19.4M, 25.6M and so on.
PARAMETERS = {
    "v1-table2": {
        "plain-18": 11_515_688,
        "plain-34": 21_623_848,
        "resnet-18-A": 11_515_688,
        "resnet-34-A": 21_623_848,
    },
    "v1-table3": {
        "plain-34": 21_623_848,
        "resnet-34-A": 21_623_848,
        "resnet-34-B": 21_797_672,
        "resnet-34-C": 22_716_840,
        "resnet-50": 25_557_032,
        "resnet-101": 44_549_160,
        "resnet-152": 60_192_808,
    },
    "v1-table4": {
        "resnet-34-B": 21_797_672,
        "resnet-34-C": 22_716_840,
        "resnet-50": 25_557_032,
        "resnet-101": 44_549_160,
        "resnet-152": 60_192_808,
    },
    "v1-table5": {
        "resnet-34-B": 21_797_672,
        "resnet-34-C": 22_716_840,
        "resnet-50": 25_557_032,
        "resnet-101": 44_549_160,
        "resnet-152": 60_192_808,
    },
    "v1-fig4": {
        "plain-18": 11_515_688,
        "plain-34": 21_623_848,
        "resnet-18-A": 11_515_688,
        "resnet-34-A": 21_623_848,
    },
    "v1-split": dict.fromkeys(("rate-0.01", "rate-0.03", "rate-0.1", "rate-0.3"), 269_722),
    "v1-table6": {f"resnet-{d}": count for d, count in stacks(20, 32, 44, 56, 110, 1202).items()},
    "v1-fig1": {f"plain-{d}": count for d, count in stacks(20, 56).items()},
    "v1-fig6": {f"plain-{d}": count for d, count in stacks(20, 32, 44, 56, 110).items()}
    | {f"resnet-{d}": count for d, count in stacks(20, 32, 44, 56, 110, 1202).items()},
    "v1-fig7": {f"plain-{d}": count for d, count in stacks(20, 56).items()}
    | {f"resnet-{d}": count for d, count in stacks(20, 56, 110).items()},
    "v2-table1": {
        **dict.fromkeys(("original", "scale-0", "scale-0.5", "scale-0.5-0.5", "dropout"), RESNET_110),
        **dict.fromkeys((*(f"exclusive-{b}" for b in range(8)), "gated-0", "gated-6"), GATED),
        "conv1x1": OPTION_C,
    },
    "v2-table2": {
        **dict.fromkeys(("a-110", "b-110", "c-110", "d-110", "e-110"), RESNET_110),
        **dict.fromkeys(("a-164", "b-164", "c-164"), 1_704_154),
        **dict.fromkeys(("d-164", "e-164"), 1_703_258),
    },
    "v2-table3": {
        **dict.fromkeys(("original-110-one", "preact-110-one", "original-110", "preact-110"), RESNET_110),
        "original-164": 1_704_154,
        "preact-164": 1_703_258,
        "original-1001": 10_328_602,
        "preact-1001": 10_327_706,
        "original-164-cifar100": 1_704_154 + CIFAR_100,
        "preact-164-cifar100": 1_703_258 + CIFAR_100,
        "original-1001-cifar100": 10_328_602 + CIFAR_100,
        "preact-1001-cifar100": 10_327_706 + CIFAR_100,
    },
    "v2-table4": {
        "resnet-110": 1_727_962,
        "resnet-1202": 19_421_274,
        "preact-164": 1_703_258,
        "preact-1001": 10_327_706,
        "preact-1001-batch64": 10_327_706,
        "original-164-cifar100": 1_704_154 + CIFAR_100,
        "original-1001-cifar100": 10_328_602 + CIFAR_100,
        "preact-164-cifar100": 1_726_388,
        "preact-1001-cifar100": 10_350_836,
    },
    "v2-bn-after": {"original-101": 44_549_160, "bn-after-101": 44_549_160},
    "v2-search": dict.fromkeys((f"exclusive-{b}" for b in range(11)), GATED),
    "v2-fig1": {"original-1001": 10_328_602, "preact-1001": 10_327_706},
    "v2-fig3": {
        **dict.fromkeys(("original", "scale-0.5-0.5"), RESNET_110),
        **dict.fromkeys(("exclusive-6", "gated-0"), GATED),
        "conv1x1": OPTION_C,
    },
    "v2-fig6": {"a-110": RESNET_110, "b-110": RESNET_110, "a-164": 1_704_154, "e-164": 1_703_258},
    "v2-table5": {
        "original-152-224": 60_192_808,
        "original-152-320": 60_192_808,
        "preact-152-320": 60_185_128,
        "original-200-320": 64_673_832,
        "preact-200-320": 64_666_152,
        "preact-200-320-aspect": 64_666_152,
    },
    # 784 inputs, the first layer, depth - 1 layers of weights and biases (twice, with a gate), 10 classes.
    "highway-mnist": {
        **{f"plain-{d}": 784 * 71 + 71 + (d - 1) * (71 * 71 + 71) + 71 * 10 + 10 for d in (10, 20, 50, 100)},
        **{f"highway-{d}": 784 * 50 + 50 + (d - 1) * 2 * (50 * 50 + 50) + 50 * 10 + 10 for d in (10, 20, 50, 100)},
    },
    "degradation": {
        f"{kind}-{d}": c
        for kind in ("plain", "resnet")
        for d, c in stacks(8, 14, 20, 32, 44, 56, channels=1).items()
    },
    "degradation-longer": {"plain-20": 269_434, "plain-56": 852_730, "resnet-56": 852_730},
    "degradation-norms": {
        **{"plain-20": 269_434, "plain-56": 852_730},
        **{"resnet-56": 852_730, "plain-56-clipped": 852_730},
    },
    "claim-speed": {f"{kind}-{d}": c for kind in ("plain", "resnet") for d, c in DIGITS.items() if d != 32},
    "claim-width": {
        f"{kind}-{d}": stacked((d - 2) // 3, channels=1, width=width)
        for kind in ("plain", "resnet")
        for d, width in {8: 30, 14: 20, 20: 16, 32: 12}.items()
    },
    "claim-optimizer": {
        f"{kind}-{o}-{d}": c for kind in ("plain", "resnet") for o in ("sgd", "adamw") for d, c in DIGITS.items()
    },
    # Without BN, a bias for each channel in place of gamma and beta.
    "claim-start": {
        f"plain-{bn}{start}-{d}": c - (16 + 112 * (d - 2) // 3 if bn == "no-bn-" else 0)
        for bn in ("bn-", "no-bn-")
        for start in ("he", "lecun")
        for d, c in DIGITS.items()
    },
}
# The sizes that the papers print, wherever a row has one.
TABLE_6 = {20: "0.27M", 32: "0.46M", 44: "0.66M", 56: "0.85M", 110: "1.7M", 1202: "19.4M"}
SIZES = {
    "v1-table6": {f"resnet-{depth}": size for depth, size in TABLE_6.items()},
    "v1-fig1": {"plain-20": "0.27M", "plain-56": "0.85M"},
    "v1-fig6": {f"plain-{depth}": size for depth, size in TABLE_6.items() if depth < 1202}
    | {f"resnet-{depth}": size for depth, size in TABLE_6.items()},
    "v1-fig7": {
        **{"plain-20": "0.27M", "plain-56": "0.85M"},
        **{"resnet-20": "0.27M", "resnet-56": "0.85M", "resnet-110": "1.7M"},
    },
    "v1-split": dict.fromkeys(("rate-0.01", "rate-0.03", "rate-0.1", "rate-0.3"), "0.27M"),
    "v2-table4": {
        **{"resnet-110": "1.7M", "resnet-1202": "19.4M", "preact-164": "1.7M"},
        **{"preact-1001": "10.2M", "preact-1001-batch64": "10.2M"},
    },
}


@pytest.fixture(scope="module")
def configs(data_sets):
    """(table, row) -> the config of the row on the paper's own data, with what the data set has."""
    found = {}
    for name, table in TABLES.items():
        whole, taken = sweep(table, table.data[0], 1)
        by_variant = {run.variant: run.resolved for run in plan(whole, Path("W"))}
        found |= {(name, row.name): by_variant[taken[row.name]] for row in table.rows}
    return found


def number(published):
    if published.top1 is None:
        return published.words or None
    return published.top1 if published.top5 is None else (published.top1, published.top5)


@pytest.mark.parametrize("name", TABLES)
def test_every_number_twice(name):
    assert {row.name: number(row.published) for row in TABLES[name].rows} == NUMBERS[name]


def test_what_the_numbers_are():
    rows = {(name, row.name): row.published for name, table in TABLES.items() for row in table.rows}
    spreads = {at: (p.mean, p.std, p.best) for at, p in rows.items()}
    assert {at: spread for at, spread in spreads.items() if any(spread)} == SPREADS
    assert {at: str(rows[at]) for at in TEXTS} == TEXTS
    means = {at for at, p in rows.items() if p.statistic == "mean of 5 runs"}
    medians = {at for at, p in rows.items() if p.statistic == "median of 5 runs"}
    assert means == {(table, "resnet-110") for table in ("v1-table6", "v1-fig6", "v1-fig7", "v2-table4")}
    every = ("v2-table1", "v2-table2", "v2-table3", "v2-table4", "v2-fig1", "v2-fig3", "v2-fig6")
    single = {("v2-table4", "resnet-110"), ("v2-table4", "resnet-1202")}  # v1's
    assert medians == {at for at in rows if at[0] in every} - single
    assert {table for table, of in TABLES.items() if of.seeds == 5} == set(every)


def test_every_row_has_its_number_and_its_size_here():
    """A row that is in no list here would pass unseen."""
    names = {name: {row.name for row in table.rows} for name, table in TABLES.items()}
    assert {name: set(rows) for name, rows in NUMBERS.items()} == names
    assert {name: set(rows) for name, rows in PARAMETERS.items()} == names
    sizes = {name: {row.name: row.size for row in table.rows if row.size} for name, table in TABLES.items()}
    assert {name: rows for name, rows in sizes.items() if rows} == SIZES


def test_the_formula_of_the_stacked_networks():
    """Also of one-layer skips: they have the same layers, and so the same count."""
    counted = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}
    assert stacks(*counted) == counted


@pytest.mark.parametrize("name", TABLES)
def test_every_row_builds_with_the_published_parameters(name, configs):
    found = {row.name: counts.total(network(configs[name, row.name])).params for row in TABLES[name].rows}
    assert found == PARAMETERS[name]
    for row, size in SIZES.get(name, {}).items():
        if size != "10.2M":  # which leaves out BN
            assert f"{found[row] / 1e6:.{2 if found[row] < 1e6 else 1}f}M" == size


def test_depths(configs):
    of_all = {"v1-split": 20, "v2-table1": 110, "v2-search": 110, "v2-fig3": 110}
    for (table, row), config in configs.items():
        depth = of_all.get(table) or next(int(part) for part in row.split("-") if part.isdigit())
        hidden = table == "highway-mnist"  # its depth leaves the classifier out
        assert network(config).depth == depth + hidden, (table, row)


def test_held_out_images(configs):
    for (table, row), config in configs.items():
        splits = ("train[:90%]", "train[90%:]") if table in ("v1-split", "v2-search") else ("train", "")
        assert (config.data.train_split, config.data.validation_split) == splits, (table, row)
    rates = [configs["v1-split", f"rate-{rate}"].optimizer.learning_rate for rate in (0.01, 0.03, 0.1, 0.3)]
    assert rates == [0.01, 0.03, 0.1, 0.3]
    biases = [configs["v2-search", f"exclusive-{b}"].model.gate_bias for b in range(11)]
    assert biases == [0, -1, -2, -3, -4, -5, -6, -7, -8, -9, -10]


def test_the_recipe_of_462(configs):
    """fb.resnet.torch with 64 images on two GPUs: 200 epochs, drops after 80 and 121, no warm-up."""
    usual, config = (configs["v2-table4", f"preact-1001{batch}"] for batch in ("", "-batch64"))
    plan_ = durations(config, 50_000)
    assert (plan_.total / plan_.per_epoch, plan_.warmup) == (200, 0)
    assert [round(drop / plan_.per_epoch, 3) for drop in plan_.drops] == [80, 121]
    assert (config.batch_size, config.model.bn_group, config.optimizer.nesterov) == (64, 32, True)
    assert (config.optimizer.learning_rate, config.schedule.drop_factor) == (0.1, 0.1)
    assert config.model.units == usual.model.units


def test_highway_networks(configs):
    plain, highway = (configs["highway-mnist", f"{kind}-100"] for kind in ("plain", "highway"))
    assert (plain.model.widths, plain.model.units, plain.model.shortcut) == ((71,), (99,), "none")
    assert (highway.model.widths, highway.model.units, highway.model.gate_bias) == ((50,), (99,), -4)
    assert (highway.data.name, highway.model.input_size, highway.model.input_channels) == ("mnist", 28, 1)


def test_the_papers_recipe(configs):
    for (table, row), config in configs.items():
        if not table.startswith("v2") or config.data.name == "imagenet2012" or row == "preact-1001-batch64":
            continue
        plan_ = durations(config, 50_000)
        assert (plan_.total, plan_.drops, plan_.warmup) == (64_000, (32_000, 48_000), 400), (table, row)
        assert (config.schedule.warmup, config.schedule.warmup_rate) == ("constant", 0.01)
        assert (config.batch_size, config.model.bn_group, config.optimizer.weight_decay) == (128, 64, 1e-4)
    assert configs["v1-table6", "resnet-20"].schedule.warmup == "none"


def test_table5_compares_networks_of_one_implementation(configs):
    """The authors' own, which strides on the first 1x1; the last row is FAIR's, on the 3x3."""
    found = {
        name: (config.model.stride_on, config.optimizer.decay_mask, config.optimizer.nesterov)
        for (table, name), config in configs.items()
        if table == "v2-table5"
    }
    assert found.pop("preact-200-320-aspect") == ("3x3", "all", True)
    assert set(found.values()) == {("1x1", "kernels", False)}


def test_rows_differ_in_what_they_are_about(configs):
    networks = {row.name: configs["v2-table1", row.name].model.to_dict() for row in TABLES["v2-table1"].rows}
    original = networks["original"]
    assert (original["gate"], original["gate_bias"], original["shortcut"]) == ("none", 0.0, "A")
    changed = {
        row: {field: value for field, value in fields.items() if value != original[field]}
        for row, fields in networks.items()
    }
    assert changed == TABLE1
    orders = [configs["v2-table2", f"{letter}-164"].model.order for letter in "abcde"]
    assert orders == [
        "original",
        "bn_after_addition",
        "relu_before_addition",
        "relu_only_preactivation",
        "full_preactivation",
    ]
    for row, order in {"original-110-one": "original", "preact-110-one": "full_preactivation"}.items():
        one = configs["v2-table3", row].model
        assert (one.unit, one.units, one.order) == ("single", (36, 36, 36), order)
    hundred = configs["v2-table3", "original-164-cifar100"]
    assert (hundred.data.name, hundred.model.num_classes) == ("cifar100", 100)
