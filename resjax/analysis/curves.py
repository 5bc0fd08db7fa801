"""Training and test curves of one or several runs in one picture, as v1 Fig. 1 and Fig. 6 draw them."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from resjax.metrics import read_lines


def draw(runs: Mapping[str, Path], path: Path) -> None:
    """Error in percent against steps, training dashed and test solid, one colour a run; writes a PNG.

    Args:
      runs: label -> workdir.
      path: the picture to write.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for colour, (label, workdir) in enumerate(runs.items()):
        records = read_lines(workdir / "metrics.jsonl")
        for split, style, width in (("train", "--", 1.0), ("validation", ":", 1.4), ("test", "-", 1.8)):
            points = [(r["step"], 100 * (1 - r["accuracy"])) for r in records if r["split"] == split]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=f"C{colour}", lw=width, label=f"{label} {split}")
    axes.set(xlabel="step", ylabel="error (%)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
