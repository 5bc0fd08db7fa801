"""What happens to accuracy when units are removed from a trained network.

A unit that keeps its input's shape can be replaced by the identity. This hardly hurts residual networks and breaks
plain ones: residual networks behave like ensembles of paths of many lengths (Veit et al., arXiv 1605.06431).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.analysis import figure, modules
from resjax.analysis.modules import ModulePath
from resjax.analysis.runs import OpenedRun, Options, Variables
from resjax.data.augment.device import Normalization, evaluation_views
from resjax.errors import BadInput
from resjax.evaluation.evaluate import Batch, Metrics, add, make_eval_step, means
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

TAKES = ("step", "images", "draws")  # of Options
DRAWS = 5
COUNTS = 8  # how many numbers of removed units are tried at most


def removable(spec: Spec) -> list[ModulePath]:
    """The units that keep the shape of their input."""
    return [path for path, shape in modules.units(spec) if not shape.changes]


@partial(jax.jit, static_argnums=0)
def lesioned(spec: Spec, variables: Variables, batch: Batch, removed: jax.Array) -> Metrics:
    """The evaluation step of the network without some units.

    Args:
      removed: [U] bool, along `removable(spec)`. Traced, so that one compilation serves every choice.
    """
    index = {path: i for i, path in enumerate(removable(spec))}

    def skip(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out, at = call(*args, **kwargs), context.module.path
        if at in index and context.method_name == "__call__":
            return jnp.where(removed[index[at]], args[0], out)
        return out

    with nn.intercept_methods(skip):
        return make_eval_step(ResNet(spec))(variables["params"], variables["batch_stats"], batch)


def choices(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Random sets of `n` units to remove, [n] bool each: `draws` for each of several numbers from 1 to all."""
    rng = np.random.default_rng(seed)
    for k in np.unique(np.linspace(1, n, COUNTS).round().astype(int)):
        for _ in range(draws):
            yield np.isin(np.arange(n), rng.choice(n, k, replace=False))


def measure(run: OpenedRun, options: Options) -> dict[str, Any]:
    """Test accuracy of every seed: `whole` [S], `single` [S][U] without each one of `units`, and `random`.

    For each number of units that are `removed`, `random` holds the `accuracy` [S][draws] without as many at random.

    Raises:
      BadInput: if every unit changes its input's shape, or the seeds are at different steps.
    """
    spec, able = run.spec, removable(run.spec)
    if not able:
        raise BadInput(f"--workdir={run.workdir}: every unit changes its input's shape, so none can be removed")
    seeds = [OpenedRun.open(workdir, overrides=run.overrides) for workdir in run.seeds]
    steps = [seed.find(options.step) for seed in seeds]
    if len(set(steps)) > 1:
        raise BadInput(
            f"--workdir={run.workdir}: its seeds are at steps {', '.join(map(str, steps))}; finish them, or give a "
            "--step that all have saved"
        )
    found = [measure_seed(seed, steps[0], options) for seed in seeds]
    return {
        **run.facts(),
        "step": steps[0],
        "seeds": len(seeds),
        "images": found[0]["images"],
        "classes": spec.num_classes,
        "units": [modules.name(path) for path in able],
        "whole": [one["whole"] for one in found],
        "single": [one["single"] for one in found],
        "random": [{"removed": k, "accuracy": [one["random"][k] for one in found]} for k in found[0]["random"]],
    }


def measure_seed(run: OpenedRun, step: int, options: Options) -> dict[str, Any]:
    """What `measure` collects, of one run; `random` is by the number of removed units."""
    spec, n = run.spec, len(removable(run.spec))
    variables = run.variables(step)
    size = min(run.config.batch_size, options.images or run.experiment.dataset.test_size)
    with closing(run.experiment.dataset.evaluate("test", size)) as batches:
        kept = None if options.images is None else -(-options.images // size)
        own = Normalization.of(run.experiment.dataset.preprocessing)
        images = [evaluation_views(jax.device_put(batch), own) for batch in islice(batches, kept)]

    def accuracy(removed: np.ndarray) -> float:
        return means(add(jax.device_get([lesioned(spec, variables, batch, removed) for batch in images])))[
            "accuracy"
        ]

    random: dict[int, list[float]] = {}
    for removed in choices(n, options.draws or DRAWS, run.config.seed):
        random.setdefault(int(removed.sum()), []).append(accuracy(removed))
    return {
        "images": int(sum(batch["mask"].sum() for batch in images)),
        "whole": accuracy(np.zeros(n, bool)),
        "single": [accuracy(one) for one in np.eye(n, dtype=bool)],
        "random": random,
    }


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Accuracy without each unit on the left (dashed: whole network); against the number removed on the right."""
    counts = ", ".join(sorted({f"{run['images']:,}" for run in found.values()}))
    caption = (
        f"{figure.about(found)}; accuracy on {counts} test images; lines: means; bands: ± one sample standard "
        "deviation, on the left of the seeds, on the right of seeds and draws"
    )
    with figure.panels(path, 1, 2, (11, 4.8), caption, sharey=True) as [[left, right]]:
        for colour, (label, run) in enumerate(found.items()):
            one, whole, single = f"C{colour}", 100 * np.array(run["whole"]), 100 * np.array(run["single"])
            n = f" (n={run['seeds']})" if run["seeds"] > 1 else ""
            units = np.arange(1, single.shape[1] + 1)
            band(left, units, single, one, f"{label}{n}, step {run['step']:,}, without the unit")
            left.axhline(whole.mean(), color=one, ls="--", lw=1, label=f"{label}, whole: {whole.mean():.1f} %")
            k = [0, *(at["removed"] for at in run["random"])]
            # [S, draws, k]: without any removed, all draws are the whole network
            draws = 100 * np.stack([np.array(at["accuracy"]) for at in run["random"]], -1)
            whole = np.broadcast_to(whole[:, None, None], (*draws.shape[:2], 1))
            values = np.concatenate([whole, draws], -1).reshape(-1, len(k))
            band(right, k, values, one, f"{label}{n}, {draws.shape[1]} draws of each number")
            chance = 100 / run["classes"]
        for axes in (left, right):
            axes.axhline(chance, color="grey", ls=":", lw=1, label="chance")
            axes.legend(fontsize=8)
        left.set(ylabel="test accuracy (%)", ylim=(0, 105))
        figure.by_depth(left, "removed unit, from input to output (of those that keep their shape)")
        figure.by_depth(right, "number of units removed at random")


def band(axes: Any, x: Any, values: np.ndarray, colour: str, label: str) -> None:
    """The mean of [n, X] values against x, and around it one sample standard deviation within 0 to 100."""
    mean = values.mean(0)
    axes.plot(x, mean, ".-", color=colour, lw=1.2, label=label)
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(x, *np.clip([mean - spread, mean + spread], 0, 100), color=colour, alpha=0.15, lw=0)


def profiles(found: Any) -> dict[str, list[float]]:
    """Accuracy without each unit, the mean over the seeds."""
    return {"accuracy without the unit": np.mean(found["single"], axis=0).tolist()}
