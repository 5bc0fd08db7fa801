"""The depth test of "Highway Networks" (arXiv 1505.00387, 1507.06228): fully connected networks on MNIST."""

from resjax.papers import pictures
from resjax.papers.table import Picture, Published, Row, Table

DEPTHS = (10, 20, 50, 100)  # layers before the classifier, as the paper counts them
# 71 units where highway layers have 50: about 5,000 parameters a layer in both.
PLAIN = {
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
        PLAIN if kind == "plain" else {},
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
    "configs/dense.py, and b_T starts at -2.",
)
