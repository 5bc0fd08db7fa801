"""Products that vanish and products that explode: a gradient's size by how many units it was passed back through.

The gradient of a plain stack is a product of one Jacobian a unit, so its size is about a factor to the power of the
depth. Four families, each with that factor by formula, and measured: every unit's Jacobian is applied in turn to a
random direction, from the output to the input. Sizes are logarithms, as float32 ends before the products do.

  sigmoid     at most 0.25 |w| a layer, as sigma' <= 0.25, and equal to it where every sigmoid is at 0
  relu        sqrt(gain / 2) a layer of weights of variance gain / fan (He et al., arXiv 1502.01852): He's gain is 2
  bn          sqrt(pi / (pi - 1)) = 1.21 a ReLU layer with BN at the start of training, whatever its weights
              (arXiv 1902.08129): BN cures products that vanish, not those that explode
  shortcut    lambda a unit with a scaled shortcut (v2 eq. 6): exact for the direct term, that is, where branches
              are silent. They add their own terms: with BN, at the start of training, these explode at 0.5
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax import markdown
from resjax.analysis import figure, stacks
from resjax.analysis.runs import Options
from resjax.models.units import Unit

TAKES = ("seeds",)  # of Options
SEEDS = 5
UNITS, WIDTH, VECTORS = 50, 64, 64
PLAIN: dict[str, Any] = {"unit": "dense_single", "shortcut": "none"}
SIGMOID: dict[str, Any] = PLAIN | {"norm": "none", "activation": "sigmoid"}
RELU: dict[str, Any] = PLAIN | {"norm": "none"}
RESIDUAL: dict[str, Any] = {"order": "full_preactivation"}


class Case(NamedTuple):
    """A stack, and the factor by which a unit multiplies the gradient's size.

    `weight`: one unit of width 1 with this weight, every sigmoid of which is at 0; None: random weights.
    """

    family: str
    label: str
    formula: float
    fields: dict[str, Any]
    weight: float | None = None


CASES = (
    Case("sigmoid", "w = 1, at 0", 0.25, SIGMOID, 1.0),
    Case("sigmoid", "w = 8, at 0", 2.0, SIGMOID, 8.0),
    Case("sigmoid", "random, gain 1", 0.25, SIGMOID | {"init_gain": 1.0}),
    *(Case("relu", f"gain {gain:g}", math.sqrt(gain / 2), RELU | {"init_gain": gain}) for gain in (1.0, 2.0, 4.0)),
    Case("bn", "plain", math.sqrt(math.pi / (math.pi - 1)), PLAIN),
    Case("bn", "residual", 1.0, RESIDUAL),
    *(
        Case(
            "shortcut",
            f"lambda = {scale:g}, F = 0",
            scale,
            RESIDUAL | {"shortcut_scale": scale, "branch_scale": 0.0},
        )
        for scale in (0.5, 0.9, 1.0, 1.1)
    ),
    Case("shortcut", "lambda = 0.5, BN branches", 0.5, RESIDUAL | {"shortcut_scale": 0.5}),
)
FAMILIES = {
    "sigmoid": "plain, sigmoid",
    "relu": "plain, ReLU, no BN",
    "bn": "BN at the start of training",
    "shortcut": "residual, scaled shortcut",
}


@partial(jax.jit, static_argnums=(0, 1))
@partial(jax.vmap, in_axes=(None, None, 0))
def at_random(unit: Unit, n: int, seed: jax.Array) -> jax.Array:
    """`passed_back` through n units at random weights, from each seed [S]: [S, n + 1]."""
    initial, drawn, direction = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(drawn, (VECTORS, WIDTH))
    variables = jax.vmap(lambda key: stacks.start(unit, key, x))(jax.random.split(initial, n))
    return passed_back(unit, variables, x, jax.random.normal(direction, x.shape))


@partial(jax.jit, static_argnums=(0, 1))
def at_zero(unit: Unit, n: int, weight: float) -> jax.Array:
    """The same of units of width 1, [1, n + 1]: sigmoid(weight x - weight / 2) is 1/2 where x is."""
    x = jnp.full((1, 1), 0.5)
    params = {"kernel": jnp.full((n, 1, 1), weight), "bias": jnp.full((n, 1), -weight / 2)}
    return passed_back(unit, {"params": {"conv1": params}}, x, jnp.ones((1, 1)))[None]


def passed_back(unit: Unit, variables: stacks.Variables, x: jax.Array, gradient: jax.Array) -> jax.Array:
    """log10 |dE/dx_l| - log10 |dE/dx_L| for l = L, ..., 0, where dE/dx_L is `gradient`.

    Args:
      variables: of L units, along the first axis of every leaf.
      x: what the first of them takes.
    """

    def forward(x: jax.Array, own: stacks.Variables) -> tuple[jax.Array, jax.Array]:
        return stacks.output(unit, own, x), x

    def backward(gradient: jax.Array, at: tuple[stacks.Variables, jax.Array]) -> tuple[jax.Array, jax.Array]:
        own, x = at
        (gradient,) = jax.vjp(lambda x: stacks.output(unit, own, x), x)[1](gradient)
        size = jnp.linalg.norm(gradient)
        return gradient / size, jnp.log10(size)

    _, inputs = jax.lax.scan(forward, x, variables)
    start = gradient / jnp.linalg.norm(gradient)
    _, sizes = jax.lax.scan(backward, start, (variables, inputs), reverse=True)  # in the order of the units
    return jnp.append(0, jnp.cumsum(sizes[::-1]))


def measure(options: Options) -> dict[str, Any]:
    """By case: `formula`, the factor of a unit, and `log10` [S, units + 1], the gradient's size by units passed."""
    seeds = options.seeds or SEEDS
    cases = []
    for case in CASES:
        stage = stacks.stack(1, WIDTH if case.weight is None else 1, **case.fields)
        unit = Unit(stage.spec, stage.shapes[0])
        if case.weight is None:
            sizes = at_random(unit, UNITS, jnp.arange(seeds))
        else:
            sizes = at_zero(unit, UNITS, case.weight)
        cases.append(
            {
                "family": case.family,
                "label": case.label,
                "formula": case.formula,
                "log10": np.asarray(sizes).tolist(),
            }
        )
    return {"seeds": seeds, "units": UNITS, "width": WIDTH, "vectors": VECTORS, "cases": cases}


def factors(case: Mapping[str, Any]) -> list[float]:
    """The measured factor of a unit by seed: the geometric mean over the depth."""
    return [10 ** (seed[-1] / (len(seed) - 1)) for seed in case["log10"]]


def table(found: Mapping[str, Any]) -> str:
    """The factor of a unit by formula and measured, and what fifty of them make, in Markdown."""
    rows = [
        [
            FAMILIES[case["family"]],
            case["label"],
            f"{case['formula']:.3g}",
            f"{markdown.spread(factors(case))} ({len(case['log10'])})",
            f"{case['formula'] ** found['units']:.1e}",
            f"{10 ** np.mean([seed[-1] for seed in case['log10']]):.1e}",
        ]
        for case in found["cases"]
    ]
    n = found["units"]
    columns = ["stack", "", "factor, formula", "measured (n)", f"{n} units, formula", f"{n} units, measured"]
    return markdown.table(columns, rows)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """The gradient's size against the units passed, a panel a family; dashed: the formula."""
    caption = (
        f"stacks of {found['units']} fully connected units of width {found['width']} at random weights, "
        f"{found['vectors']} standard normal vectors; lines: geometric means of n={found['seeds']} seeds, bands: "
        "one geometric standard deviation either way (width 1 at 0: n=1, exact); dashed: the formula, for random "
        "sigmoids the bound, for residual units of two layers the direct term"
    )
    with figure.panels(path, 2, 2, (11, 7), caption) as axes:
        for one, (family, title) in zip(axes.flat, FAMILIES.items(), strict=True):
            cases = [case for case in found["cases"] if case["family"] == family]
            for colour, case in enumerate(cases):
                logs = np.array(case["log10"])
                mean, std = logs.mean(0), logs.std(0, ddof=1) if len(logs) > 1 else 0 * logs[0]
                passed, style = np.arange(len(mean)), f"C{colour}"
                one.plot(passed, 10**mean, color=style, lw=1.6, label=f"{case['label']} ({case['formula']:.3g}^L)")
                one.fill_between(passed, 10 ** (mean - std), 10 ** (mean + std), color=style, alpha=0.2, lw=0)
                one.plot(passed, case["formula"] ** passed, "--", color=style, lw=1)
            one.set(title=title, yscale="log")
            figure.by_depth(one, "units passed, L")
            one.legend(fontsize=8)
        for one in axes[:, 0]:
            one.set_ylabel("gradient's size, over that at the output")
