"""The degradation problem on real digits: error against depth, plain and residual, each network at its best.

    python -m resjax.papers degradation                     # the quick form: one seed of four of the six depths
    python -m resjax.papers degradation --seeds=5           # the long form, to which the quick one may be extended
    python -m resjax.papers degradation-longer --seeds=5    # twice as long, to see whether length decides
    python -m resjax.papers degradation-norms               # weights and gradients by layer, as training begins

v1 Fig. 1 and Fig. 6 show it on CIFAR-10: plain networks get worse with depth, on the training set too, and
residual ones do not. Found here, with five seeds: up to 32 layers nothing separates them; plain-56 ends with errors
on the clean training set in every seed (0.07 to 3.6 %), plain-44 in one of five, and a residual network in none.

Each network has the learning rate, and the way to begin, that did best on the last fifth of the training split, at
half the length: `CHOSEN` is what `best` finds in the summaries of

    python -m resjax.sweep --sweep=configs/sweeps/degradation.py --workdir=runs/degradation-search --jobs=2

which are in results/degradation-search.json: one seed of every candidate, and two more of the two best of plain-56,
whose runs differ most.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from resjax.papers import pictures
from resjax.papers.table import Picture, Row, Table

DEPTHS = (8, 14, 20, 32, 44, 56)
QUICK = (8, 20, 32, 56)
FAMILIES = {"plain": "plain", "v1": "ResNet"}
NETWORKS = tuple(f"{family}-{depth}" for family in FAMILIES for depth in DEPTHS)

# What differs from configs/digits.py, for all networks: the papers' 1e-4 (here of every parameter), no smoothing.
EPOCHS = 180.0
RECIPE: dict[str, Any] = {
    "optimizer.weight_decay": 1e-4,
    "optimizer.label_smoothing": 0.0,
    "total_epochs": EPOCHS,
    "eval_every_epochs": EPOCHS / 10,
    "eval_train": True,
}

# What is searched: how training begins, and the peak of the cosine schedule. A rate that starts at almost nothing
# keeps the first steps small, and so does a clipped gradient, with which larger rates are of use.
BEGINNINGS: dict[str, dict[str, Any]] = {
    "at-once": {"schedule.warmup": "none"},
    "warm-up": {"schedule.warmup": "linear", "schedule.warmup_rate": 1e-4, "schedule.warmup_epochs": EPOCHS / 10},
}
BEGINNINGS["clipped"] = BEGINNINGS["warm-up"] | {"optimizer.clip_norm": 1.0}
RATES = {"at-once": (0.1, 0.03, 0.01), "warm-up": (0.1, 0.03, 0.01), "clipped": (0.3, 0.1, 0.03)}
CHOICES = tuple((rate, beginning) for beginning, rates in RATES.items() for rate in rates)

# For the norms: the first steps at a constant rate, and all their checkpoints.
FIRST_STEPS: dict[str, Any] = {
    **{"schedule.name": "constant", "total_epochs": None, "total_steps": 100},
    **{"eval_every_epochs": None, "eval_every_steps": 100, "checkpoint_every_steps": 20, "checkpoint_keep": 5},
}

SEARCHED = 0.5  # of the length
HELD_OUT = {"data.train_split": "train[:80%]", "data.validation_split": "train[80%:]"}

CHOSEN: dict[str, tuple[float, str]] = {
    "plain-8": (0.03, "at-once"),
    "plain-14": (0.3, "clipped"),
    "plain-20": (0.1, "clipped"),
    "plain-32": (0.1, "clipped"),
    "plain-44": (0.1, "clipped"),
    "plain-56": (0.1, "clipped"),
    "v1-8": (0.1, "clipped"),
    "v1-14": (0.1, "warm-up"),
    "v1-20": (0.1, "warm-up"),
    "v1-32": (0.1, "clipped"),
    "v1-44": (0.01, "warm-up"),
    "v1-56": (0.03, "at-once"),
}


def candidate(network: str, rate: float, beginning: str) -> str:
    """The name of a network's run in the search."""
    return f"{network}-{rate:g}-{beginning}"


def fields(rate: float, beginning: str) -> dict[str, Any]:
    """The recipe with one choice of what is searched."""
    return {**RECIPE, "optimizer.learning_rate": rate, **BEGINNINGS[beginning]}


def searched(rate: float, beginning: str) -> dict[str, Any]:
    """The recipe that the search runs: shorter, and judged on images that it does not train on."""
    return stretched(fields(rate, beginning), SEARCHED) | HELD_OUT


def stretched(fields: Mapping[str, Any], times: float) -> dict[str, Any]:
    """The same with every duration in epochs `times` as long, the warm-up's too."""
    return {field: times * value if field.endswith("_epochs") else value for field, value in fields.items()}


def best(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, tuple[float, str]]:
    """Of every network the choice with the lowest mean validation error; among equals, the lowest mean loss.

    Args:
      runs: the summaries of every candidate's seeds; none of one whose loss became infinite.
    """

    def score(network: str, choice: tuple[float, str]) -> tuple[float, float]:
        found = runs.get(candidate(network, *choice))
        if not found:
            return (2.0, 0.0)
        return (
            1 - statistics.fmean(summary["validation_accuracy"] for summary in found),
            statistics.fmean(summary["validation_loss"] for summary in found),
        )

    return {network: min(CHOICES, key=lambda choice: score(network, choice)) for network in NETWORKS}


def row(network: str, fields: Mapping[str, Any], note: str = "", name: str = "") -> Row:
    """A network of the table, under the label that the papers have for it."""
    family, depth = network.split("-")
    label = f"{FAMILIES[family]}-{depth}{name}"
    return Row(label.lower().replace(" ", "-"), label, network, fields=fields, note=note)


def chosen(network: str, times: float = 1.0) -> Row:
    """A network with its choice, trained `times` as long."""
    rate, beginning = CHOSEN[network]
    return row(network, stretched(fields(rate, beginning), times), f"rate {rate:g}, {beginning}")


SOURCE = "v1 Fig. 1 and 6 show this on CIFAR-10; here there is no number to compare"
CLEAN = (
    "Each network has the rate and the beginning that did best on a held-out part of the training split; "
    "clean training errors are of the whole split after the last step, without augmentation, in evaluation mode."
)
EXTREMES = ("plain-20", "plain-56", "resnet-20", "resnet-56")

TABLES = (
    Table(
        "degradation",
        "error against depth on the embedded digits, plain and residual, each network at its best",
        SOURCE,
        tuple(chosen(network) for network in NETWORKS),
        data=("digits",),
        training=True,
        pictures=(
            Picture("degradation.png", pictures.error_by_depth),
            Picture("curves.png", pictures.curves, EXTREMES),
        ),
        note=f"{CLEAN} One seed is the quick form; results/degradation.json has five.",
        jobs=2,
        quick=tuple(f"{kind.lower()}-{depth}" for kind in FAMILIES.values() for depth in QUICK),
    ),
    Table(
        "degradation-longer",
        "networks of the degradation table, trained twice as long",
        SOURCE,
        tuple(chosen(network, 2) for network in ("plain-20", "plain-56", "v1-56")),
        data=("digits",),
        training=True,
        note=CLEAN,
        jobs=2,
    ),
    Table(
        "degradation-norms",
        "norms of weights and gradients by layer, before training and in its first steps, all at rate 0.1",
        SOURCE,
        (
            *(row(network, fields(0.1, "at-once") | FIRST_STEPS) for network in ("plain-20", "plain-56", "v1-56")),
            row(
                "plain-56",
                fields(0.1, "at-once") | FIRST_STEPS | {"optimizer.clip_norm": 1.0},
                "gradients clipped to a norm of 1",
                " clipped",
            ),
        ),
        data=("digits",),
        training=True,
        pictures=(Picture("norms.png", pictures.norms),),
        jobs=2,
    ),
)
