"""What an evaluation takes for what, as a picture: all classes at once, and the commonest confusions by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm

from resjax.analysis import figure
from resjax.evaluation import report

NUMBERED = 20  # classes up to which every cell has its number
NAMED = 50  # classes up to which rows and columns have their names
PAIRS = 25  # confusions that are listed
CELLS = 250  # rows and columns that a picture has room for
LONGEST = 24  # characters of a name


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Writes the PNG of what `report.measure` found.

    Left, row i and column j is the share of class i's images that were taken for class j; right, the pairs of
    classes that were confused most often. Colours rise with the square root, so that single images show; of many
    classes a cell is a block of them, and has the colour of the largest share in it.
    """
    names = [
        name if len(name := row["class"]) <= LONGEST else f"{name[: LONGEST - 1]}…" for row in found["per_class"]
    ]
    counts = report.confusion(found["per_class"])
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    block = -(-len(names) // CELLS)
    caption = f"{found['n']:,} images, top-1 {100 * found['top1']['accuracy']:.2f} %"
    caption += f"; a cell is {block} x {block} classes and shows the largest share in it" if block > 1 else ""
    with figure.panels(path, 1, 2, (13, 7), caption, width_ratios=(1.4, 1)) as [[left, right]]:
        left.grid(visible=False)
        sides = (-0.5, block * -(-len(names) // block) - 0.5)
        style = {"cmap": "magma_r", "norm": PowerNorm(0.5, 0, 1), "interpolation": "nearest"}
        image = left.imshow(largest(share, block), extent=(*sides, *sides[::-1]), **style)
        left.figure.colorbar(image, ax=left, label="share of the class's images", shrink=0.8)
        left.set(xlabel="taken for", ylabel="class")
        if len(names) <= NAMED:
            left.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
            left.set_yticks(range(len(names)), names, fontsize=8)
        if len(names) <= NUMBERED:
            for i, j in zip(*np.nonzero(counts), strict=True):
                colour = "white" if share[i, j] > 0.3 else "black"
                left.text(j, i, counts[i, j], ha="center", va="center", fontsize=7, color=colour)
        right.barh(range(len(pairs)), [wrong[pair] for pair in pairs], color="C1")
        right.set_yticks(range(len(pairs)), [f"{names[i]} as {names[j]}" for i, j in pairs], fontsize=8)
        right.xaxis.get_major_locator().set_params(integer=True)
        right.set(xlabel="images", ylim=(max(len(pairs), 1) - 0.5, -0.5), title="taken for another class")


def largest(share: np.ndarray, block: int) -> np.ndarray:
    """The largest value in every block x block cells of [K, K]; the last blocks may be smaller."""
    cells = -(-len(share) // block)
    filled = np.pad(share, [(0, cells * block - len(share))] * 2)
    return filled.reshape(cells, block, cells, block).max((1, 3))
