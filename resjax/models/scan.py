"""The exact conversion between the two forms of a network's variables: unit by unit, and scanned.

Unrolled, a stage holds `unit0, unit1, ..., unitN`. Scanned (`Spec.scan`), it holds `unit0` and `units`, whose
leaves are those of unit1 to unitN stacked along a leading axis. A stage of one unit is the same in both.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")
Stage = dict[str, Any]


def roll(tree: Tree) -> Tree:
    """Puts every stage in the tree into its scanned form, bit for bit; scanned stages stay as they are.

    `tree` is any pytree that holds stages: params, batch statistics, an optimizer's state, a whole train state.
    For abstract trees: `jax.eval_shape(roll, tree)`.
    """

    def rolled(stage: Stage) -> Stage:
        if "units" in stage or len(stage) == 1:
            return stage
        rest = [stage[f"unit{i}"] for i in range(1, len(stage))]
        return {"unit0": stage["unit0"], "units": jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest)}

    return _map_stages(rolled, tree)


def unroll(tree: Tree) -> Tree:
    """The inverse of `roll`: every stage in the tree unit by unit; unrolled stages stay as they are."""

    def unrolled(stage: Stage) -> Stage:
        if "units" not in stage:
            return stage
        units = stage["units"]

        def unit(i: int) -> Any:
            # Indexing compiles once for a leaf's shape; iterating over the leaf would compile for every unit.
            return jax.tree.map(lambda leaf: leaf[i - 1], units)

        n = len(jax.tree.leaves(units)[0])
        return {"unit0": stage["unit0"], **{f"unit{i}": unit(i) for i in range(1, n + 1)}}

    return _map_stages(unrolled, tree)


def _map_stages(change: Callable[[Stage], Stage], tree: Tree) -> Tree:
    def is_stage(node: Any) -> bool:
        return isinstance(node, dict) and "unit0" in node

    return jax.tree.map(lambda node: change(node) if is_stage(node) else node, tree, is_leaf=is_stage)
