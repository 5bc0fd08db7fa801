"""The gradient's norm by depth, at the start and at saved steps of training.

`weights`: the loss's gradient with respect to each layer's kernel, which the optimizer sees. `activations`: that
with respect to each unit's output. Every sigmoid of a plain network multiplies it by at most 0.25; the
identity carries it through a residual network (v2 eq. 5).
"""

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
      `weights`, by weight layer (its kernel), and `activations`, by unit (its output, over the whole batch).
    """
    norms = _norms(spec, variables, batch)
    return {
        "weights": {
            modules.name(path): float(norms["weights"][modules.name(path)]) for path in modules.weight_layers(spec)
        },
        "activations": {
            modules.name(path): float(norms["activations"][modules.name(path)]) for path, _ in modules.units(spec)
        },
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
    n = len(batch["image"])
    zeros = {
        path: jnp.zeros((n, s.width) if spec.dense else (n, s.out_size, s.out_size, s.width), spec.dtype)
        for path, s in modules.units(spec)
    }
    by_params, by_outputs = jax.grad(loss, argnums=(0, 1))(variables["params"], zeros)

    def kernel(path: ModulePath) -> jax.Array:
        module = by_params
        for part in path:
            module = module[part]
        return module["kernel"]

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum())

    return {
        "weights": {modules.name(path): norm(kernel(path)) for path in modules.weight_layers(spec)},
        "activations": {modules.name(path): norm(by_outputs[path]) for path, _ in modules.units(spec)},
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


def plot(found: Mapping[str, Any], path: Path) -> None:
    """One row per run, one line per step; the log scales are shared. They cannot show norms of zero."""
    caption = f"{figure.about(found)}; L2 norms of the gradient of the mean loss of {figure.images(found)}"
    with figure.panels(
        path, len(found), 2, (11, 0.9 + 2.8 * len(found)), caption, sharex="col", sharey="col"
    ) as axes:
        for row, (label, run) in zip(axes, found.items(), strict=True):
            colours = matplotlib.colormaps["viridis"].resampled(len(run["steps"]) + 1)
            for i, at in enumerate(run["steps"]):
                text = "at the start" if at["step"] == 0 else f"step {at['step']:,}"
                for one, kind in zip(row, ("weights", "activations"), strict=True):
                    one.plot(range(1, len(at[kind]) + 1), at[kind], ".-", lw=1.2, color=colours(i), label=text)
            row[0].set(title=label, ylabel="gradient norm", yscale="log")
            row[1].set(title=label, yscale="log")
            row[1].legend(fontsize=8)
        figure.by_depth(axes[-1, 0], "weight layer, from input to output: gradient of its kernel")
        figure.by_depth(axes[-1, 1], "unit, from input to output: gradient of its output")


def profiles(found: Any) -> dict[str, list[float]]:
    """The norms at the start and at the latest step."""
    first, last = found["steps"][0], found["steps"][-1]
    return {f"{kind} at step {at['step']}": at[kind] for at in (first, last) for kind in ("weights", "activations")}
