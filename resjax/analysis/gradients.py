"""The gradient's norm by depth, at the start and at saved steps of training, beside that of the weights.

`weights`: the loss's gradient with respect to each layer's kernel, which the optimizer sees. `activations`: that
with respect to each unit's output. Every sigmoid of a plain network multiplies it by at most 0.25; the
identity carries it through a residual network (v2 eq. 5).

`kernels`: the norm of each layer's kernel w. What follows it under BN does not depend on this norm, the gradient is
orthogonal to w and shrinks as 1 / |w|: so steps make it grow, and what they change falls as rate / |w|^2.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import optax

from resjax.analysis import figure, modules, runs
from resjax.analysis.modules import ModulePath
from resjax.analysis.runs import OpenedRun, Options, Variables
from resjax.evaluation.evaluate import Batch
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

TAKES = ("step", "images")  # of Options
IMAGES = 128


def gradients(spec: Spec, variables: Variables, batch: Batch) -> dict[str, dict[str, float]]:
    """L2 norms of the gradient of the mean cross-entropy, under the batch's own statistics.

    Args:
      batch: image [N, H, W, C], label [N].

    Returns:
      `weights`, by weight layer (its kernel), `activations`, by unit (its output, over the whole batch), and
      `kernels`, by weight layer: no gradient, but the norm of the kernel itself.
    """
    norms = _norms(spec, variables, batch)
    paths = {
        "weights": modules.weight_layers(spec),
        "activations": [path for path, _ in modules.units(spec)],
        "kernels": modules.weight_layers(spec),
    }
    return {
        kind: {modules.name(path): float(norms[kind][modules.name(path)]) for path in own}
        for kind, own in paths.items()
    }


@partial(jax.jit, static_argnums=0)
def _norms(spec: Spec, variables: Variables, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    def loss(params: Any, added: dict[ModulePath, jax.Array]) -> jax.Array:
        def add(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            out = call(*args, **kwargs)
            at = context.module.path
            return out + added[at] if at in added and context.method_name == "__call__" else out

        with nn.intercept_methods(add):
            logits: Any
            logits, _ = ResNet(spec).apply(
                variables | {"params": params}, batch["image"], train=True, mutable=["batch_stats"]
            )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    # The gradient with respect to a zero that is added to a unit's output is that with respect to the output.
    n, side = batch["image"].shape[:2]
    spec = dataclasses.replace(spec, input_size=side)  # training images may have a size of their own
    zeros = {
        path: jnp.zeros((n, s.width) if spec.dense else (n, s.out_size, s.out_size, s.width), spec.dtype)
        for path, s in modules.units(spec)
    }
    by_params, by_outputs = jax.grad(loss, argnums=(0, 1))(variables["params"], zeros)

    def kernel(params: Any, path: ModulePath) -> jax.Array:
        for part in path:
            params = params[part]
        return params["kernel"]

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum())

    return {
        "weights": {modules.name(path): norm(kernel(by_params, path)) for path in modules.weight_layers(spec)},
        "activations": {modules.name(path): norm(by_outputs[path]) for path, _ in modules.units(spec)},
        "kernels": {
            modules.name(path): norm(kernel(variables["params"], path)) for path in modules.weight_layers(spec)
        },
    }


def measure(run: OpenedRun, options: Options) -> dict[str, Any]:
    """`layers`, `units` and, for the start (0) and the chosen step, the norms in their order.

    Without a choice, the saved steps that lie at least a twentieth of the run apart.
    """
    if options.step is None:
        steps = [0, *runs.spaced(run.steps, run.steps[-1] / 20 if run.steps else 0)]
    else:
        steps = sorted({0, run.find(options.step)})
    batch = run.batch(options.images or IMAGES)
    found = {step: gradients(run.spec, run.variables(step), batch) for step in steps}
    return {
        **run.facts(),
        "images": len(batch["image"]),
        "layers": list(found[0]["weights"]),
        "units": list(found[0]["activations"]),
        "steps": [
            {"step": step, **{kind: list(norms.values()) for kind, norms in kinds.items()}}
            for step, kinds in found.items()
        ],
    }


PANELS = {
    "kernels": ("weight layer, from input to output", "norm of its kernel"),
    "weights": ("weight layer, from input to output", "norm of its kernel's gradient"),
    "activations": ("unit, from input to output", "norm of its output's gradient"),
}


def plot(found: Mapping[str, Any], path: Path, note: str = "") -> None:
    """One row per run, one line per step; of the start alone one row for all, one line per run.

    The log scales are shared. They cannot show norms of zero.
    """
    caption = f"{figure.about(found)}; L2 norms; gradients are those of the mean loss of {figure.images(found)}"
    caption += f"; {note}" if note else ""
    rows = lines(found)
    size = (15, 0.9 + (4.4 if len(rows) == 1 else 2.8 * len(rows)))
    with figure.panels(path, len(rows), len(PANELS), size, caption, sharex="col", sharey="col") as axes:
        for row, (title, norms) in zip(axes, rows.items(), strict=True):
            for label, (at, colour) in norms.items():
                for one, kind in zip(row, PANELS, strict=True):
                    one.plot(range(1, len(at[kind]) + 1), at[kind], ".-", lw=1.2, color=colour, label=label)
            for one, (_, norm) in zip(row, PANELS.values(), strict=True):
                one.set(title=title, ylabel=norm, yscale="log")
            row[-1].legend(fontsize=8)
        for one, (depth, _) in zip(axes[-1], PANELS.values(), strict=True):
            figure.by_depth(one, depth)


def lines(found: Mapping[str, Any]) -> dict[str, dict[str, tuple[Mapping[str, Any], Any]]]:
    """By title of a row and label of a line: the norms at a step, and a colour."""
    if all(len(run["steps"]) == 1 for run in found.values()):
        return {"at the start": {label: (run["steps"][0], f"C{i}") for i, (label, run) in enumerate(found.items())}}
    rows = {}
    for label, run in found.items():
        colours = matplotlib.colormaps["viridis"].resampled(len(run["steps"]) + 1)
        texts = ("at the start" if at["step"] == 0 else f"step {at['step']:,}" for at in run["steps"])
        rows[label] = {text: (at, colours(i)) for i, (text, at) in enumerate(zip(texts, run["steps"], strict=True))}
    return rows


def profiles(found: Any) -> dict[str, list[float]]:
    """The norms at the start and at the latest step."""
    first, last = found["steps"][0], found["steps"][-1]
    return {f"{kind} at step {at['step']}": at[kind] for at in (first, last) for kind in PANELS}
