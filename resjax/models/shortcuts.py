"""The shortcut of a residual unit: how it fits, and what is done to it. A new kind goes here, and only here."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import Cost, norm_cost, normalize, weight, weight_cost
from resjax.models.spec import ORDERS, Spec, UnitShape


def projects(spec: Spec, shape: UnitShape) -> bool:
    """True where the shortcut has weights: option B where dimensions change, option C everywhere."""
    return spec.shortcut == "C" or (spec.shortcut == "B" and shape.changes)


class Shortcut(nn.Module):
    """h(x_l) of v2 eq. 1: x in the shape of the branch's output, then scaled or dropped out.

    A copies and pads the new channels with zeros after a subsampling by the stride; B and C project with a 1x1
    convolution of the unit's stride (W_s of v1 eq. 2), with BN unless the units are pre-activated.
    """

    spec: Spec
    shape: UnitShape

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, C_out], or [N, C_in] -> [N, C_out]."""
        spec, shape = self.spec, self.shape
        if projects(spec, shape):
            stride = shape.stride
            if spec.shortcut_pool and stride > 1:
                # Ceil mode, and the mean over what is inside: an odd map gives the size that stride 2 gives.
                x = nn.avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False)
                stride = 1
            x = weight(spec, shape.width, 0 if spec.dense else 1, stride, name="conv")(x)
            if not ORDERS[spec.order].lead:
                x = normalize(spec, x, train, "norm")
        elif shape.changes:
            if shape.stride > 1:
                x = x[:, :: shape.stride, :: shape.stride]
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, shape.width - shape.in_width)])
        if spec.shortcut_dropout:
            # v2 says that dropout scales the shortcut by 0.5 in expectation: survivors are not rescaled, and
            # evaluation multiplies by the keep rate.
            keep = 1 - spec.shortcut_dropout
            x = x * (jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape) if train else keep)
        return x if spec.shortcut_scale == 1 else x * spec.shortcut_scale


def shortcut_cost(spec: Spec, shape: UnitShape) -> Cost:
    """Cost of `Shortcut`."""
    if not projects(spec, shape):
        return Cost()
    cost = weight_cost(shape.in_width, shape.width, 0 if spec.dense else 1, shape.out_size)
    return cost if ORDERS[spec.order].lead else cost + norm_cost(spec, shape.width)
