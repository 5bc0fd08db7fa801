"""The size of each unit's residual branch F(x) beside its shortcut h(x), at the start and after training.

v1 section 4.2 argues that residual functions are generally closer to zero than functions without a reference.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resjax.analysis.figure import by_depth, from_zero, panels
from resjax.analysis.gradients import units
from resjax.analysis.runs import Options, Run, Variables, name
from resjax.errors import BadInput
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

IMAGES = 256


def branches(spec: Spec, variables: Variables, images: jax.Array) -> dict[str, dict[str, float]]:
    """By unit: `branch` and `skip`, the root mean squares of F(x) and h(x), their `ratio`, and `branch_std`.

    Measured as they enter the addition (before any gate), under the batch's own statistics.

    Args:
      images: [N, H, W, C].
    """
    found = _sizes(spec, variables, images)
    return {name(path): {key: float(x) for key, x in found[name(path)].items()} for path in units(spec)}


@partial(jax.jit, static_argnums=0)
def _sizes(spec: Spec, variables: Variables, images: jax.Array) -> dict[str, dict[str, jax.Array]]:
    _, updates = ResNet(spec).apply(variables, images, train=True, mutable=["batch_stats", "intermediates"])
    found = {}
    for stage, unit in units(spec):
        sown = updates["intermediates"][stage][unit]
        branch, skip = (sown[key][0].astype(jnp.float32) for key in ("branch", "skip"))
        f, h = (jnp.sqrt(jnp.square(x).mean()) for x in (branch, skip))
        found[name((stage, unit))] = {"branch": f, "skip": h, "ratio": f / h, "branch_std": branch.std()}
    return found


def measure(run: Run, options: Options) -> dict[str, Any]:
    """`units` and, for the start (0) and the chosen step, what `branches` gives in their order.

    Raises:
      BadInput: for a plain network.
    """
    if run.spec.shortcut == "none":
        raise BadInput(f"--workdir={run.workdir} holds a plain network: it has no residual branches; leave it out")
    images = run.batch(options.images or IMAGES)["image"]
    steps = []
    for step in sorted({0, run.find(options.step)}):
        found = branches(run.spec, run.variables(step), images)
        keys = next(iter(found.values()))
        steps.append({"step": step, **{key: [unit[key] for unit in found.values()] for key in keys}})
    return {"images": len(images), "units": list(found), "steps": steps}


def plot(found: Mapping[str, Any], path: Path) -> None:
    """The ratio above, the branch itself below; dashed at the start, solid after training."""
    with panels(path, 2, 1, (8, 6.5), sharex=True) as [[top], [bottom]]:
        for colour, (label, run) in enumerate(found.items()):
            for at in run["steps"]:
                style = {"color": f"C{colour}", "ls": "-" if at["step"] else "--", "marker": ".", "lw": 1.2}
                text = f"{label}, step {at['step']:,}" if at["step"] else f"{label}, at the start"
                index = range(1, len(at["ratio"]) + 1)
                top.plot(index, at["ratio"], **style, label=text)
                bottom.plot(index, at["branch"], **style)
        top.set_ylabel("RMS of F(x) / RMS of the shortcut")
        bottom.set_ylabel("RMS of F(x)")
        by_depth(bottom, "unit, from input to output")
        for axes in (top, bottom):
            from_zero(axes)
        top.legend(fontsize=8)


def profiles(found: Any) -> dict[str, list[float]]:
    """The ratio at each measured step."""
    return {f"ratio at step {at['step']}": at["ratio"] for at in found["steps"]}
