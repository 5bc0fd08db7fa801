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
    "v1-table6": {
        "resnet-20": 8.75,
        "resnet-32": 7.51,
        "resnet-44": 7.17,
        "resnet-56": 6.97,
        "resnet-110": 6.61,
        "resnet-1202": 7.93,
    },
    "v1-fig1": {"plain-20": None, "plain-56": None},
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
    "v2-table1": {
        "original": 6.61,
        "scale-0": FAIL,
        "scale-0.5": FAIL,
        "scale-0.5-0.5": 12.35,
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
    "v2-table5": {
        "original-152-224": (23.0, 6.7),
        "original-152-320": (21.3, 5.5),
        "preact-152-320": (21.1, 5.5),
        "original-200-320": (21.8, 6.0),
        "preact-200-320": (20.7, 5.3),
        "preact-200-320-aspect": (20.1, 4.8),
    },
    "degradation": {f"{kind}-{d}": None for kind in ("plain", "resnet") for d in (8, 14, 20, 32, 44, 56)},
    "degradation-longer": {"plain-20": None, "plain-56": None, "resnet-56": None},
    "degradation-norms": {"plain-20": None, "plain-56": None, "resnet-56": None, "plain-56-clipped": None},
}

# v2 Table 1: all in which a row's network differs from the original ResNet-110.
TABLE1 = {
    "original": {},
    "scale-0": {"shortcut_scale": 0.0},
    "scale-0.5": {"shortcut_scale": 0.5},
    "scale-0.5-0.5": {"shortcut_scale": 0.5, "branch_scale": 0.5},
    "exclusive-5": {"gate": "exclusive", "gate_bias": -5.0},
    "exclusive-6": {"gate": "exclusive", "gate_bias": -6.0},
    "exclusive-7": {"gate": "exclusive", "gate_bias": -7.0},
    "gated-0": {"gate": "shortcut_only"},
    "gated-6": {"gate": "shortcut_only", "gate_bias": -6.0},
    "conv1x1": {"shortcut": "C"},
    "dropout": {"shortcut_dropout": 0.5},
}


def stacked(n, channels=3):
    """Parameters of the CIFAR networks of 3 n + 2 layers: the 3x3 layers with their BN, and the head.

    Units of one or two layers, before or after the activation, plain or with option A: the count is the same.
    """
    layers = channels * 16 + n * 16 * 16 + 16 * 32 + (n - 1) * 32 * 32 + 32 * 64 + (n - 1) * 64 * 64
    return 9 * layers + 2 * 16 + 2 * n * (16 + 32 + 64) + 64 * 10 + 10


def stacks(*depths, channels=3):
    return {depth: stacked((depth - 2) // 3, channels) for depth in depths}


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
    "v1-table6": {f"resnet-{d}": count for d, count in stacks(20, 32, 44, 56, 110, 1202).items()},
    "v1-fig1": {f"plain-{d}": count for d, count in stacks(20, 56).items()},
    "v1-fig6": {f"plain-{d}": count for d, count in stacks(20, 32, 44, 56, 110).items()}
    | {f"resnet-{d}": count for d, count in stacks(20, 32, 44, 56, 110, 1202).items()},
    "v1-fig7": {f"plain-{d}": count for d, count in stacks(20, 56).items()}
    | {f"resnet-{d}": count for d, count in stacks(20, 56, 110).items()},
    "v2-table1": {
        **dict.fromkeys(("original", "scale-0", "scale-0.5", "scale-0.5-0.5", "dropout"), RESNET_110),
        **dict.fromkeys(("exclusive-5", "exclusive-6", "exclusive-7", "gated-0", "gated-6"), GATED),
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
    "v2-table5": {
        "original-152-224": 60_192_808,
        "original-152-320": 60_192_808,
        "preact-152-320": 60_185_128,
        "original-200-320": 64_673_832,
        "preact-200-320": 64_666_152,
        "preact-200-320-aspect": 64_666_152,
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
}
# Printed size -> the rows that have it, in Table 6; v2's 10.2M leaves BN out, so it is not a row's size.
SIZES = {20: "0.27M", 32: "0.46M", 44: "0.66M", 56: "0.85M", 110: "1.7M", 1202: "19.4M"}


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
    by_name = {row.name: row.published for row in TABLES["v1-table6"].rows}
    best = by_name.pop("resnet-110")
    assert (best.std, best.words, best.statistic) == (0.16, "best 6.43", "mean of 5 runs")
    assert str(best) == "6.61 ± 0.16 (best 6.43)"
    assert {p.std for p in by_name.values()} == {None}
    for table in ("v2-table1", "v2-table2", "v2-table3"):
        assert {row.published.statistic for row in TABLES[table].rows} == {"median of 5 runs"}
        assert TABLES[table].seeds == 5


@pytest.mark.parametrize("name", TABLES)
def test_every_row_builds_with_the_published_parameters(name, configs):
    found = {row.name: counts.total(network(configs[name, row.name])).params for row in TABLES[name].rows}
    assert found == PARAMETERS[name]
    for row in TABLES[name].rows:
        params = found[row.name]
        if row.size:
            assert row.size == SIZES[network(configs[name, row.name]).depth]
            digits = 2 if params < 1e6 else 1
            assert f"{params / 1e6:.{digits}f}M" == row.size


def test_depths(configs):
    for (table, row), config in configs.items():
        depth = next(int(part) for part in row.split("-") if part.isdigit()) if table != "v2-table1" else 110
        assert network(config).depth == depth, (table, row)


def test_the_papers_recipe(configs):
    for (table, row), config in configs.items():
        if not table.startswith("v2") or table == "v2-table5":
            continue
        plan_ = durations(config, 50_000)
        assert (plan_.total, plan_.drops, plan_.warmup) == (64_000, (32_000, 48_000), 400), (table, row)
        assert (config.schedule.warmup, config.schedule.warmup_rate) == ("constant", 0.01)
        assert (config.batch_size, config.model.bn_group, config.optimizer.weight_decay) == (128, 64, 1e-4)
    assert configs["v1-table6", "resnet-20"].schedule.warmup == "none"


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
