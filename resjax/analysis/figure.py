"""How every picture is made: without a display, with room for its legend, and closed when it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import matplotlib.ticker


@contextmanager
def panels(path: Path, rows: int, columns: int, size: tuple[float, float], **options: Any) -> Iterator[Any]:
    """A grid of axes to draw on, an array [rows, columns]; leaving the block writes the PNG.

    Args:
      size: of the whole picture, in inches.
    """
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    try:
        for one in axes.flat:
            one.grid(alpha=0.3)
        yield axes
        figure.savefig(path, dpi=120)
    finally:
        plt.close(figure)


def by_depth(axes: Any, label: str) -> None:
    """Whole numbers along x."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))


def from_zero(axes: Any) -> None:
    """The y axis from 0, with room above the highest mark."""
    axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1], 1e-3))
