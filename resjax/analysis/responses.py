"""Layer responses: the standard deviation of every 3x3 layer's output, as in v1 Fig. 7.

v1 measures after BN and before the next nonlinearity or addition. Such an output has, by construction, a
standard deviation of |gamma| in every channel, so the figure shows the gammas that training has found (and the
spread of the betas between channels): a fresh network shows 1 everywhere, and 0 where gamma starts at zero.
Where no BN follows a convolution (pre-activation orders, networks without BN), its own output is measured.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.analysis import figure, modules
from resjax.analysis.modules import ModulePath
from resjax.analysis.runs import OpenedRun, Options, Variables
from resjax.models import layout
from resjax.models.norm import BatchNorm
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

TAKES = ("step", "images")  # of Options
IMAGES = 256


def layers(spec: Spec) -> list[ModulePath]:
    """The module at which each 3x3 or fully connected layer's response is read, from input to output."""
    # In a pre-activated unit the next layer's BN follows as well, but is not the layer's own.
    shown = {path for path, layer in layout.weight_layers(spec) if layer.kernel == 3 or layer.kind == "dense"}
    found = []
    for path, row in layout.parts(spec):
        for layer, after in itertools.pairwise((*row, None)):
            if layer and (*path, layer.name) in shown:
                norm = layer.name.replace("conv", "norm")
                found.append((*path, norm if after and after.name == norm else layer.name))
    return found


def responses(spec: Spec, variables: Variables, images: jax.Array) -> dict[str, float]:
    """Standard deviations over images, pixels and channels, by layer, under the batch's own statistics.

    Args:
      images: [N, H, W, C].
    """
    found = _responses(spec, variables, images)
    return {
        modules.name(path): float(found[modules.name(path)]) for path in layers(spec)
    }  # jit has sorted them by name


@partial(jax.jit, static_argnums=0)
def _responses(spec: Spec, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
    _, updates = ResNet(spec).apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, BatchNorm | nn.Conv | nn.Dense),
    )
    found = {}
    for path in layers(spec):
        module = updates["intermediates"]
        for part in path:
            module = module[part]
        found[modules.name(path)] = jnp.std(module["__call__"][0].astype(jnp.float32))
    return found


def measure(run: OpenedRun, options: Options) -> dict[str, Any]:
    """`layers` and their `std`, in order; `step`."""
    step = run.find(options.step)
    batch = run.batch(options.images or IMAGES)["image"]
    std = responses(run.spec, run.variables(step), batch)
    return {**run.facts(), "step": step, "images": len(batch), "layers": list(std), "std": list(std.values())}


def plot(found: Mapping[str, Any], path: Path, note: str = "") -> None:
    """v1 Fig. 7: in the order of the layers above, sorted below."""
    caption = (
        f"{figure.about(found)}; standard deviations over {figure.images(found)}, under the batch's own statistics"
    )
    caption += f"; {note}" * bool(note)
    with figure.panels(path, 2, 1, (8, 6.8), caption, sharey=True) as [[top], [bottom]]:
        for label, run in found.items():
            index = range(1, len(run["std"]) + 1)
            top.plot(index, run["std"], ".-", lw=1.2, label=f"{label}, step {run['step']:,}")
            bottom.plot(index, sorted(run["std"], reverse=True), ".-", lw=1.2)
        figure.by_depth(top, "3x3 layer, from input to output")
        figure.by_depth(bottom, "3x3 layer, sorted by its response")
        for axes in (top, bottom):
            axes.set_ylabel("std of the response")
        figure.from_zero(top)
        top.legend(fontsize=8)


def profiles(found: Any) -> dict[str, list[float]]:
    """The responses in order."""
    return {"std": found["std"]}


def draw(
    workdirs: Mapping[str, Path], path: Path, options: Options | None = None, note: str = ""
) -> dict[str, Any]:
    """Measures the runs, label -> workdir, writes the picture and returns what is in it.

    Raises:
      BadInput: for a folder without a run or a checkpoint.
    """
    found = {label: measure(OpenedRun.open(workdir), options or Options()) for label, workdir in workdirs.items()}
    plot(found, path, note)
    return found
