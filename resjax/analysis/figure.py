"""How every picture is made: without a display, with a caption, room for its legend, and closed when written."""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
from PIL import Image


@contextmanager
def panels(
    path: Path, rows: int, columns: int, size: tuple[float, float], caption: str = "", **options: Any
) -> Iterator[Any]:
    """A grid of axes to draw on, an array [rows, columns]; leaving the block writes the PNG.

    Args:
      size: of the whole picture, in inches.
      caption: what a reader must know and the axes do not say: data, length, number of images, bars and bands.
    """
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    try:
        for one in axes.flat:
            one.grid(alpha=0.3)
        yield axes
        if caption:
            figure.supxlabel(textwrap.fill(caption, int(17 * size[0])), fontsize=8, color="0.3")
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=120)
        Image.open(drawn).convert("RGB").save(path, "png", optimize=True)  # an eighth less than with transparency
    finally:
        plt.close(figure)


def by_depth(axes: Any, label: str) -> None:
    """Whole numbers along x."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))


def from_zero(axes: Any) -> None:
    """The y axis from 0, with room above the highest mark."""
    axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1], 1e-3))


def band(axes: Any, x: Sequence[float], values: Any, **style: Any) -> None:
    """A line through the means of `values` [S, X] over seeds, and a band of ± one sample standard deviation."""
    values = np.asarray(values)
    mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    (line,) = axes.plot(x, mean, **style)
    axes.fill_between(x, np.maximum(mean - std, 1e-9 * mean), mean + std, color=line.get_color(), alpha=0.15, lw=0)


def about(found: Mapping[str, Any]) -> str:
    """Data and length of the runs in a picture, from `OpenedRun.facts`; runs that are alike share one text."""
    texts: dict[str, list[str]] = {}
    for label, run in found.items():
        steps = f"{run['total_steps']:,} step{'s' if run['total_steps'] != 1 else ''}"
        text = f"{run['data']}, {steps} of {run['batch_size']} images"
        texts.setdefault(text, []).append(label)
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{', '.join(labels)}: {text}" for text, labels in texts.items())


def images(found: Mapping[str, Any]) -> str:
    """How many images the runs in a picture were measured on."""
    counts = sorted({run["images"] for run in found.values()})
    return f"{', '.join(f'{count:,}' for count in counts)} images of training batches"
