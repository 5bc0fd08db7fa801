"""Stem, stages, head: the one network."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import Cost, activate, norm_cost, normalize, unit_bias, weight, weight_cost
from resjax.models.spec import ORDERS, Spec, UnitShape
from resjax.models.units import Unit

STEMS = {  # kernel, width as a share of stem_width, stride of each layer
    "conv3": ((3, 1.0, 1),),
    "conv7": ((7, 1.0, 2),),
    "deep": ((3, 0.5, 2), (3, 0.5, 1), (3, 1.0, 1)),
    "dense": ((0, 1.0, 1),),
    "none": (),
}
POOLED = ("conv7", "deep")  # stems that end in a 3x3 max-pool of stride 2


class Stem(nn.Module):
    """What comes before the first unit; every weight layer is followed by BN and the activation."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> [N, H', W', stem_width], or [N, stem_out] for fully connected networks."""
        spec = self.spec
        if spec.dense:
            x = x.reshape(len(x), -1)
        for i, (kernel, share, stride) in enumerate(STEMS[spec.stem], 1):
            width = int(spec.stem_width * share)
            x = weight(spec, width, kernel, stride, bias=unit_bias(spec), name=f"conv{i}")(x)
            x = activate(spec, normalize(spec, x, train, f"norm{i}"))
        if spec.stem in POOLED:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        return x


class Stage(nn.Module):
    """Units of one width on one map size; only the first may change either."""

    spec: Spec
    shapes: tuple[UnitShape, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, C_out]."""
        unit = nn.remat(Unit, static_argnums=(2,)) if self.spec.remat else Unit
        if not self.spec.scan:
            for shape in self.shapes:
                x = unit(self.spec, shape, name=f"unit{shape.index}")(x, train, shape.survival)
            return x
        first, *rest = self.shapes
        x = unit(self.spec, first, name="unit0")(x, train, first.survival)
        if rest:
            # The units after the first are alike: one body, their variables stacked along a leading axis.
            x, _ = nn.scan(
                lambda body, x, survival: (body(x, train, survival), None),
                variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=len(rest),
            )(unit(self.spec, rest[0], name="units"), x, jnp.array([shape.survival for shape in rest]))
        return x


class ResNet(nn.Module):
    """The network that a `Spec` describes.

    Names in the parameter tree are stable: `stem/conv1`, `stage1/unit0/{conv1,norm1,shortcut,gate}`, `head`.
    Dropout and stochastic depth draw from the rng stream `dropout`.
    """

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] float images -> [N, K] float32 logits. `train` uses and updates batch statistics."""
        spec = self.spec
        x = Stem(spec, name="stem")(x.astype(spec.dtype), train)
        shapes = list(spec.unit_shapes())
        for stage in range(1, len(spec.units) + 1):
            x = Stage(spec, tuple(s for s in shapes if s.stage == stage), name=f"stage{stage}")(x, train)
        # A pre-activated network ends in one more activation, v2 appendix.
        if "n" in ORDERS[spec.order].lead:
            x = normalize(spec, x, train, "norm")
        if ORDERS[spec.order].lead:
            x = activate(spec, x)
        x = x.astype(jnp.float32)
        if not spec.dense:
            x = x.mean((1, 2))  # [N, C]
        head_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")  # no ReLU follows: gain 1
        return nn.Dense(spec.num_classes, kernel_init=head_init, name="head")(x)


def init_variables(spec: Spec, seed: int | jax.Array) -> dict[str, Any]:
    """Fresh `params` and `batch_stats` of a network; a pure function of the seed."""
    image = jnp.zeros((1, spec.input_size, spec.input_size, spec.input_channels))
    variables = ResNet(spec).init(jax.random.key(seed), image, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def stem_cost(spec: Spec) -> Cost:
    """Cost of `Stem`."""
    cost, width, size = Cost(), spec.input_channels, spec.input_size
    if spec.dense:
        width, size = width * size**2, 1
    for kernel, share, stride in STEMS[spec.stem]:
        out, size = int(spec.stem_width * share), -(-size // stride)
        cost += weight_cost(width, out, kernel, size, bias=unit_bias(spec) is not None) + norm_cost(spec, out)
        width = out
    return cost


def head_cost(spec: Spec) -> Cost:
    """Cost of the classifier and of the norm that a pre-activated network ends in."""
    cost = weight_cost(spec.widths[-1], spec.num_classes, 0, 1, bias=True)
    return cost + norm_cost(spec, spec.widths[-1]) if "n" in ORDERS[spec.order].lead else cost
