"""The depth test of "Highway Networks" (arXiv 1505.00387, 1507.06228): fully connected networks on MNIST."""

from typing import Any

from resjax.papers import pictures
from resjax.papers.table import Picture, Published, Row, Table

DEPTHS = (10, 20, 50, 100)  # layers before the classifier, as the paper counts them
HIGHWAY: dict[str, Any] = {"gate_bias": -4.0}
# 71 units where highway layers have 50: about 5,000 parameters a layer in both.
PLAIN: dict[str, Any] = {
    **{"widths": (71,), "stem_width": 71, "shortcut": "none"},
    **{"gate": "none", "gate_layers": "conv1", "gate_bias": 0.0},
}
AS_STORED = {"data.augment": "none", "data.normalize": "channel"}


def row(kind: str, depth: int) -> Row:
    """One plain layer, then depth - 1 highway or plain ones, then the classifier."""
    words = "a loss over 100 times lower than plain" if (kind, depth) == ("highway", 100) else ""
    return Row(
        f"{kind}-{depth}",
        f"{kind}, {depth} layers",
        f"highway-{depth + 1}",
        Published(words=words),
        {"plain": PLAIN, "highway": HIGHWAY}[kind] | {"scan": True},  # a hundred layers compile as fast as one
        AS_STORED,
    )


TABLE = Table(
    "highway-mnist",
    "fully connected plain and highway networks of 10 to 100 layers, MNIST",
    "arXiv 1505.00387 Fig. 1: training losses, without numbers",
    tuple(row(kind, depth) for depth in DEPTHS for kind in ("plain", "highway")),
    data=("mnist", "digits"),
    training=True,
    config="dense.py",
    pictures=tuple(
        Picture(f"depth-{depth}.png", pictures.losses, (f"plain-{depth}", f"highway-{depth}")) for depth in DEPTHS
    ),
    note="The paper searched the recipe of every network anew, 100 settings each; here all have that of "
    "configs/dense.py. b_T starts at -4: with the -2 of the paper's best 50 layers, a layer carries 0.88 of a "
    "signal, and 100 layers 3e-6.",
)
