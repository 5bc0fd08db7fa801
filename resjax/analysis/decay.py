"""Where weight decay alone takes a unit: a residual one to the identity, a plain one to zero.

A unit of two layers, without data or a loss: the optimizer of training (`resjax.train.optim`) is given gradients of
zero, so that decay is all that acts, and multiplies what it covers by 1 - rate decay at every step. The argument
for residual units, that a useless one fades to the identity, holds as it stands without BN. With BN the branch
does not depend on the size of its weights, until their outputs are as small as BN's epsilon: decay has to cover
gamma and beta (`optimizer.decay_mask=all`).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resjax import markdown
from resjax.analysis import figure, stacks
from resjax.analysis.runs import Options
from resjax.config import default
from resjax.models.resnet import Stage
from resjax.train import optim

TAKES = ("seeds",)  # of Options
SEEDS = 5
WIDTH, VECTORS, STEPS = 64, 256, 180
RATE, DECAY = 0.1, 0.5  # such that 180 steps leave a ten thousandth


class Case(NamedTuple):
    """A unit, and what decays in it."""

    shortcut: str
    norm: str
    mask: str


CASES = {
    "residual": Case("A", "none", "all"),
    "residual, BN, all decays": Case("A", "batch", "all"),
    "residual, BN, kernels decay": Case("A", "batch", "kernels"),
    "plain": Case("none", "none", "all"),
    "plain, BN, all decays": Case("none", "batch", "all"),
    "plain, BN, kernels decay": Case("none", "batch", "kernels"),
}


@partial(jax.jit, static_argnums=(0, 1))
@partial(jax.vmap, in_axes=(None, None, 0))
def decayed(stage: Stage, mask: str, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From each of `seed` [S], before the first and after every step, [S, STEPS + 1].

    Returns:
      |y - x| / |x|, the distance to the identity, and |y| / |x|, of a batch x >= 0, as a ReLU leaves it.
    """
    config = default()
    config.optimizer.update(learning_rate=RATE, momentum=0.0, weight_decay=DECAY, decay_mask=mask)
    tx = optim.optimizer(config, optax.constant_schedule(RATE))
    initial, drawn = jax.random.split(jax.random.key(seed))
    x = jnp.abs(jax.random.normal(drawn, (VECTORS, WIDTH)))
    variables = stacks.start(stage, initial, x)

    def far(params: Any) -> tuple[jax.Array, jax.Array]:
        y = stacks.output(stage, variables | {"params": params}, x)
        return stacks.relative(y - x, x), stacks.relative(y, x)

    def step(state: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        params, opt_state = state
        updates, opt_state = tx.update(jax.tree.map(jnp.zeros_like, params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), far(params)

    params = variables["params"]
    (params, _), (distance, size) = jax.lax.scan(step, (params, tx.init(params)), None, STEPS)
    ends = far(params)
    return jnp.append(distance, ends[0]), jnp.append(size, ends[1])


def measure(options: Options) -> dict[str, Any]:
    """By case, seed and step: `distance` to the identity and `size` of the output, over the size of the input."""
    seeds = options.seeds or SEEDS
    found: dict[str, Any] = {"seeds": seeds, "width": WIDTH, "vectors": VECTORS}
    found["left"] = [(1 - RATE * DECAY) ** step for step in range(STEPS + 1)]
    for name, case in CASES.items():
        stage = stacks.stack(1, WIDTH, shortcut=case.shortcut, norm=case.norm)
        distance, size = decayed(stage, case.mask, jnp.arange(seeds))
        found[name] = {"distance": np.asarray(distance).tolist(), "size": np.asarray(size).tolist()}
    return found


def table(found: Mapping[str, Any]) -> str:
    """Start and end as mean ± sample standard deviation in Markdown."""
    n, left = found["seeds"], found["left"][-1]
    rows = [
        [
            name,
            *(
                markdown.spread([seed[at] for seed in found[name][kind]])
                for kind in ("distance", "size")
                for at in (0, -1)
            ),
        ]
        for name in CASES
    ]
    ends = ("at the start", f"with {left:.0e} of what decays")
    columns = [f"{kind} {end}" for kind in ("|y-x|/|x|", "|y|/|x|") for end in ends]
    return markdown.table([f"unit (n={n})", *columns], rows)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """The distance to the identity, and the size of the output, against what is left of the weights."""
    caption = (
        f"one unit of two layers, width {found['width']}, {found['vectors']} vectors; no loss, decay alone; lines: "
        f"means of n={found['seeds']} seeds, bands: ± one sample standard deviation. BN's epsilon of 1e-5 ends the "
        "invariance on the right"
    )
    with figure.panels(path, 1, 2, (11, 4.8), caption, sharex=True) as [[left, right]]:
        for name, case in CASES.items():
            style = {"none": "-", "batch": "--"}[case.norm] if case.mask == "all" else ":"
            colour = "C1" if case.shortcut == "A" else "C0"
            for axes, kind in ((left, "distance"), (right, "size")):
                figure.band(axes, found["left"], found[name][kind], color=colour, ls=style, label=name)
        left.set(ylabel="distance to the identity, |y - x| / |x|", yscale="log", xscale="log")
        right.set(ylabel="size of the output, |y| / |x|", yscale="log", ylim=(1e-5, 3))
        left.set_ylim(1e-5, 3)
        left.invert_xaxis()
        for axes in (left, right):
            axes.set_xlabel("what is left of the weights that decay")
        right.legend(fontsize=8)
