"""How well a stack of plain and of residual units learns the identity, against its depth.

If extra layers could do no harm, a deeper plain stack would fit y = x as well as a shallow one: it only has to set
every matrix to the identity. v1 section 3.1 argues that solvers find it hard to approximate identities by stacks of
nonlinear layers, and easy to push a residual to zero.

Inputs are |z| with z standard normal, as a ReLU would pass them on, fresh ones at every step. Both stacks have BN
and fit by Adam with a cosine, each at the best of several rates, chosen on vectors other than those that are shown.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resjax import markdown
from resjax.analysis import figure, stacks
from resjax.analysis.runs import Options
from resjax.models.resnet import Stage

TAKES = ("seeds",)  # of Options
SEEDS = 5
UNITS = (1, 2, 4, 8, 16)
WIDTH, VECTORS, STEPS = 16, 128, 1000
RATES = (1e-2, 3e-2, 1e-1, 3e-1)
LEAST = 1e-9  # that is drawn
KINDS = {"plain": "none", "residual": "A"}  # model.shortcut


@partial(jax.jit, static_argnums=(0, 1))
@partial(jax.vmap, in_axes=(None, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, None, 0))
def fit(stage: Stage, steps: int, rate: jax.Array, seed: jax.Array) -> jax.Array:
    """Fits the identity by each of `rate` [R] from each of `seed` [S].

    Returns:
      The error on vectors to choose by and on others, [R, S, 2]: the mean square over the variance of the vectors.
      0 is the identity, 1 as good as always their mean.
    """
    initial, chosen, shown, training = jax.random.split(jax.random.key(seed), 4)

    def vectors(key: jax.Array) -> jax.Array:
        return jnp.abs(jax.random.normal(key, (VECTORS, WIDTH)))

    variables = stacks.start(stage, initial, vectors(chosen))
    tx = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def error(params: Any, x: jax.Array) -> jax.Array:
        y = stacks.output(stage, variables | {"params": params}, x)
        return jnp.square(y - x).sum() / jnp.square(x - x.mean()).sum()

    def step(state: Any, i: jax.Array) -> tuple[Any, None]:
        params, opt_state = state
        gradients = jax.grad(error)(params, vectors(jax.random.fold_in(training, i)))
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    params = variables["params"]
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
    return jnp.stack([error(params, vectors(key)) for key in (chosen, shown)])


def measure(options: Options) -> dict[str, Any]:
    """By kind and depth: the chosen `rate`, and the `errors` of every seed at it."""
    seeds = options.seeds or SEEDS
    found: dict[str, Any] = {"seeds": seeds, "steps": STEPS, "vectors": VECTORS, "width": WIDTH, "rates": RATES}
    found["layers"] = [2 * n for n in UNITS]
    for kind, shortcut in KINDS.items():
        found[kind] = []
        for n in UNITS:
            stage = stacks.stack(n, WIDTH, shortcut=shortcut, scan=True)
            errors = np.asarray(fit(stage, STEPS, jnp.array(RATES), jnp.arange(seeds)))
            best = int(np.nanargmin(errors[:, :, 0].mean(1)))
            found[kind].append({"rate": RATES[best], "errors": errors[best, :, 1].tolist()})
    return found


def table(found: Mapping[str, Any]) -> str:
    """Errors as mean ± sample standard deviation in Markdown."""
    n = found["seeds"]
    rows = [
        [str(layers), *(markdown.spread(found[kind][i]["errors"]) for kind in KINDS)]
        for i, layers in enumerate(found["layers"])
    ]
    return markdown.table(["layers", *(f"{kind}, error (n={n})" for kind in KINDS)], rows)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Error against depth; a point for every seed, lines through the means."""
    caption = (
        f"y = x for {found['width']} numbers |z|, z standard normal; {found['steps']:,} steps of Adam on "
        f"{found['vectors']} fresh vectors, cosine, best of the rates {', '.join(map(str, found['rates']))}; BN "
        f"with the statistics of {found['vectors']} vectors, whose noise is the plain stack's floor; points: "
        f"n={found['seeds']} seeds, lines: means; what is below {LEAST:g} is drawn there"
    )
    with figure.panels(path, 1, 1, (7, 4.8), caption) as [[axes]]:
        for colour, kind in enumerate(KINDS):
            errors = np.maximum([at["errors"] for at in found[kind]], LEAST)
            axes.plot(found["layers"], errors.mean(1), "-", color=f"C{colour}", label=kind)
            axes.plot(found["layers"], errors, ".", color=f"C{colour}", alpha=0.5)
        axes.axhline(1, color="grey", ls=":", lw=1, label="always the mean vector")
        axes.set(
            xscale="log", yscale="log", ylim=(LEAST / 2, 3), ylabel="error (mean square over the variance of x)"
        )
        axes.set_xticks(found["layers"], [str(n) for n in found["layers"]])
        axes.minorticks_off()
        axes.set_xlabel("weight layers")
        axes.legend()
