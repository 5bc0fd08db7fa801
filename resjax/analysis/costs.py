"""What networks cost, side by side: multiply-adds and parameters, those of convolutions apart from the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resjax.analysis import figure

PANELS = {"macs": ("multiply-adds for one image", 1e9, "billions"), "params": ("parameters", 1e6, "millions")}


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Writes the PNG of what `describe.compared` found: a bar for each network, its total beside it."""
    caption = (
        "one image of 224 x 224 pixels, or of the size that --config's network takes; BN has parameters, but no "
        "multiply-adds; diamonds: what v1 prints"
    )
    with figure.panels(path, 1, 2, (11, 1.6 + 0.4 * len(found)), caption, sharey=True) as [row]:
        for axes, (kind, (title, unit, name)) in zip(row, PANELS.items(), strict=True):
            totals = [cost[kind] / unit for cost in found.values()]
            convolutions = [cost[f"convolution_{kind}"] / unit for cost in found.values()]
            rest = [total - own for total, own in zip(totals, convolutions, strict=True)]
            axes.barh(range(len(found)), convolutions, color="C0", label="convolutions")
            axes.barh(range(len(found)), rest, left=convolutions, color="C1", label="fully connected layers, BN")
            for y, total in enumerate(totals):
                axes.annotate(f"{total:.2f}", (total, y), (9, 0), textcoords="offset points", va="center")
            axes.set(title=title, xlabel=name, xlim=(0, 1.2 * max(totals)))
        printed = {y: cost["v1_billions"] for y, cost in enumerate(found.values()) if cost["v1_billions"]}
        row[0].plot(list(printed.values()), list(printed), "kd", ms=6, ls="", label="in v1")
        row[0].legend(loc="center right", fontsize=9)
        row[0].set_yticks(range(len(found)), list(found))
        row[0].set_ylim(len(found) - 0.5, -0.5)
