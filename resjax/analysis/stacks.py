"""Stacks of fully connected units of one width: where an argument about depth is exact and takes seconds to try."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.resnet import Stage
from resjax.models.spec import Spec

Variables = dict[str, Any]


def stack(units: int, width: int, **fields: Any) -> Stage:
    """`units` units of one width, none of which is a network's first: a pre-activated one has its pre-activation.

    Args:
      fields: of `Spec`; by default units of two layers, with BN.
    """
    own: dict[str, Any] = {"unit": "dense", "stem": "dense", "stem_width": width, "input_size": 1, "init": "fan_in"}
    spec = Spec(units=(units + 1,), widths=(width,), **own | fields)
    return Stage(spec, tuple(spec.unit_shapes())[1:])


def start(module: nn.Module, key: jax.Array, x: jax.Array) -> Variables:
    """Fresh `params` and `batch_stats` of a stack or a unit."""
    variables: Any = module.init(key, x, False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def output(module: nn.Module, variables: Variables, x: jax.Array) -> jax.Array:
    """[N, C] -> [N, C]; BN takes the statistics of these N vectors."""
    y: Any = module.apply(variables, x, True, mutable=["batch_stats"])[0]
    return y


def relative(error: jax.Array, to: jax.Array) -> jax.Array:
    """The norm of `error` over that of `to`: 0 is no error, 1 one as large as what it is of."""
    return jnp.linalg.norm(error) / jnp.linalg.norm(to)
