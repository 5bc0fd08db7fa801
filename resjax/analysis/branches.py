"""The size of each unit's residual branch F(x) beside its shortcut h(x), at the start and after training.

v1 section 4.2 argues that residual functions are generally closer to zero than functions without a reference.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resjax.analysis import figure, modules
from resjax.analysis.runs import OpenedRun, Options, Variables
from resjax.errors import BadInput
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

TAKES = ("step", "images")  # of Options
IMAGES = 256


def branches(spec: Spec, variables: Variables, images: jax.Array) -> dict[str, dict[str, float]]:
    """By unit: `branch` and `skip`, the root mean squares of F(x) and h(x), their `ratio`, and `branch_std`.

    Measured as they enter the addition (before any gate), under the batch's own statistics.

    Args:
      images: [N, H, W, C].
    """
    found = _sizes(spec, variables, images)
    return {
        modules.name(path): {key: float(x) for key, x in found[modules.name(path)].items()}
        for path, _ in modules.units(spec)
    }


@partial(jax.jit, static_argnums=0)
def _sizes(spec: Spec, variables: Variables, images: jax.Array) -> dict[str, dict[str, jax.Array]]:
    _, updates = ResNet(spec).apply(variables, images, train=True, mutable=["batch_stats", "intermediates"])
    found = {}
    for (stage, unit), _ in modules.units(spec):
        sown = updates["intermediates"][stage][unit]
        branch, skip = (sown[key][0].astype(jnp.float32) for key in ("branch", "skip"))
        f, h = (jnp.sqrt(jnp.square(x).mean()) for x in (branch, skip))
        found[modules.name((stage, unit))] = {"branch": f, "skip": h, "ratio": f / h, "branch_std": branch.std()}
    return found


def measure(run: OpenedRun, options: Options) -> dict[str, Any]:
    """`units` and, for the start (0) and the chosen step, what `branches` gives in their order.

    Raises:
      BadInput: for a plain network.
    """
    if run.spec.shortcut == "none":
        raise BadInput(f"--workdir={run.workdir} holds a plain network: it has no residual branches; leave it out")
    wanted = sorted({0, run.find(options.step)})
    batch = run.batch(options.images or IMAGES)["image"]
    steps = []
    for step in wanted:
        found = branches(run.spec, run.variables(step), batch)
        keys = next(iter(found.values()))
        steps.append({"step": step, **{key: [unit[key] for unit in found.values()] for key in keys}})
    return {**run.facts(), "images": len(batch), "units": list(found), "steps": steps}


def plot(found: Mapping[str, Any], path: Path) -> None:
    """The ratio above, the branch itself below; dashed at the start, solid after training."""
    caption = (
        f"{figure.about(found)}; root mean squares over {figure.images(found)}, under the batch's own statistics"
    )
    with figure.panels(path, 2, 1, (8, 6.8), caption, sharex=True) as [[top], [bottom]]:
        for colour, (label, run) in enumerate(found.items()):
            for at in run["steps"]:
                style = {"color": f"C{colour}", "ls": "-" if at["step"] else "--", "marker": ".", "lw": 1.2}
                text = f"{label}, step {at['step']:,}" if at["step"] else f"{label}, at the start"
                index = range(1, len(at["ratio"]) + 1)
                top.plot(index, at["ratio"], **style, label=text)
                bottom.plot(index, at["branch"], **style)
        top.set_ylabel("RMS of F(x) / RMS of the shortcut")
        bottom.set_ylabel("RMS of F(x)")
        figure.by_depth(bottom, "unit, from input to output")
        for axes in (top, bottom):
            figure.from_zero(axes)
        top.legend(fontsize=8)


def profiles(found: Any) -> dict[str, list[float]]:
    """The ratio at each measured step."""
    return {f"ratio at step {at['step']}": at["ratio"] for at in found["steps"]}
