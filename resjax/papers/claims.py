"""What the papers say around their tables, as trainings on the embedded digits, in minutes.

    python -m resjax.papers claim-speed --seeds=3
    python -m resjax.papers claim-width --seeds=3
    python -m resjax.papers claim-optimizer --seeds=3
    python -m resjax.papers claim-start --seeds=3

All take the recipe of `resjax.papers.degradation` at half its length, with one rate and one beginning for all rows
of an optimizer: they are compared at equal settings, not each at its best. `--budget=0.1` shortens every schedule.
"""

from typing import Any

from resjax.papers import pictures
from resjax.papers.degradation import FAMILIES, fields, stretched
from resjax.papers.table import Picture, Row, Table

DEPTHS = (8, 20, 32)
SGD = stretched(fields(0.1, "clipped"), 0.5)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": SGD,
    "AdamW": SGD | {"optimizer.name": "adamw", "optimizer.learning_rate": 0.003, "optimizer.weight_decay": 1e-2},
}
# Depth -> width of the first stage, such that the network has about the parameters of depth 20 and width 16.
WIDTHS = {8: 30, 14: 20, 20: 16, 32: 12}
STARTS: dict[str, dict[str, Any]] = {
    "BN, He": {},
    "BN, LeCun": {"init_gain": 1.0},
    "no BN, He": {"norm": "none"},
    "no BN, LeCun": {"norm": "none", "init_gain": 1.0},
}
RATE = "One rate and one beginning for all rows of an optimizer, so no row is at its best."


def row(family: str, depth: int, kind: str, recipe: dict[str, Any], **model: Any) -> Row:
    """A network of a family, under a label that the picture takes apart: `plain, AdamW-20`."""
    label = f"{FAMILIES[family]}{', ' if kind else ''}{kind}-{depth}"
    name = label.lower().replace(",", "").replace(" ", "-")
    return Row(name, label, f"{family}-{depth}", model=model, fields=recipe)


def table(name: str, what: str, source: str, rows: tuple[Row, ...], picture: Picture, note: str = RATE) -> Table:
    """A table on the digits, with training errors and one picture."""
    return Table(
        f"claim-{name}",
        what,
        f"{source}; here there is no number to compare",
        rows,
        data=("digits",),
        training=True,
        pictures=(picture,),
        note=note,
        jobs=2,
    )


BY_DEPTH = Picture("by-depth.png", pictures.error_by_depth)

TABLES = (
    table(
        "speed",
        "how fast plain and residual networks of one depth converge, at the same settings",
        "v1 section 4.1: at 18 layers, where both are accurate, the residual network converges faster",
        tuple(row(family, depth, "", SGD | {"eval_every_epochs": 1.0}) for depth in (8, 20) for family in FAMILIES),
        Picture("curves.png", pictures.curves),
    ),
    table(
        "width",
        "depth against width at about 270 thousand parameters",
        "v1 section 1 asks whether learning better networks is as easy as stacking more layers",
        tuple(
            row(family, depth, "", SGD, widths=(w, 2 * w, 4 * w), stem_width=w)
            for family in FAMILIES
            for depth, w in WIDTHS.items()
        ),
        BY_DEPTH,
    ),
    table(
        "optimizer",
        "plain and residual networks by depth, trained by SGD and by AdamW",
        "v1 section 1: the solvers at hand, which there is SGD, do not find what is there by construction",
        tuple(
            row(family, depth, name, recipe)
            for name, recipe in OPTIMIZERS.items()
            for family in FAMILIES
            for depth in DEPTHS
        ),
        BY_DEPTH,
    ),
    table(
        "start",
        "plain networks by depth with BN and He's initialisation, and without one or both",
        "v1 section 1: normalised initialisation and BN let networks of tens of layers start converging",
        tuple(row("plain", depth, kind, SGD, **model) for kind, model in STARTS.items() for depth in DEPTHS),
        BY_DEPTH,
    ),
)
