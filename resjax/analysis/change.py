"""A unit whose input is 5 and whose target is 5.1: how much of what it computes has to change.

A plain unit computes H(x) = w x, a residual one F(x) + x with F(x) = w x. Both start as the identity: w = 1, w = 0.
The correction of 0.1 is 2 % of the plain unit's output and all, 100 %, of the residual branch's. It is the size of
the change beside what is computed that differs. The loss's gradient, and with it the first step of SGD, is the same
for both: that the correction is relatively larger does not make it faster.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resjax import markdown
from resjax.analysis import figure
from resjax.analysis.runs import Options

TAKES: tuple[str, ...] = ()  # of Options: nothing is drawn at random
INPUT, TARGET = 5.0, 5.1
CORRECTIONS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
UNITS = {"plain": (1.0, lambda w, x: w * x), "residual": (0.0, lambda w, x: w * x + x)}


def unit(kind: str, x: float, target: float) -> dict[str, float]:
    """One unit before and after it learns `target` for the input `x`.

    Returns:
      `output` and `weight` at the start and at the target; `change`, the change of what the weight computes (w x)
      over what it computes at the target; `gradient` of (output - target)^2 / 2 for the weight at the start.
    """
    start, function = UNITS[kind]
    weight = start + (target - x) / x
    return {
        "output": float(function(start, x)),
        "target": float(function(weight, x)),
        "weight": start,
        "target_weight": weight,
        "change": (weight - start) * x / (weight * x),
        "gradient": float(jax.grad(lambda w: jnp.square(function(w, x) - target) / 2)(start)),
    }


def measure(options: Options) -> dict[str, Any]:
    """Both units at the worked case, and the relative change for other corrections of the same input."""
    return {
        "input": INPUT,
        "target": TARGET,
        "units": {kind: unit(kind, INPUT, TARGET) for kind in UNITS},
        "corrections": list(CORRECTIONS),
        "changes": {kind: [unit(kind, INPUT, INPUT + c)["change"] for c in CORRECTIONS] for kind in UNITS},
    }


def table(found: Mapping[str, Any]) -> str:
    """The worked case in Markdown."""
    columns = ["input 5, target 5.1", "output", "w x at the start", "w x at the target", "change, %", "dL/dw"]
    rows = [
        [
            kind,
            f"{one['output']:g}",
            f"{one['weight'] * found['input']:g}",
            f"{one['target_weight'] * found['input']:.3g}",
            f"{100 * one['change']:.1f}",
            f"{one['gradient']:.3g}",
        ]
        for kind, one in found["units"].items()
    ]
    return markdown.table(columns, rows)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """The relative change against the correction, the worked case marked."""
    caption = (
        f"by formula, for an input of {found['input']:g}; the change of w x over w x at the target. Both units "
        "have the same gradient at the start"
    )
    with figure.panels(path, 1, 1, (7, 4.2), caption) as [[axes]]:
        worked = found["target"] - found["input"]
        for kind, changes in found["changes"].items():
            (line,) = axes.plot(found["corrections"], [100 * change for change in changes], ".-", label=kind)
            change = 100 * found["units"][kind]["change"]
            axes.plot(worked, change, "o", ms=9, color=line.get_color(), label=f"target 5.1: {change:.0f} %")
        axes.set(xscale="log", yscale="log", xlabel="correction to be learned (target - input)")
        axes.set_ylabel("change of what the weights compute (%)")
        axes.legend()
