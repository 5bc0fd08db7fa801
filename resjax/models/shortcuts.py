"""The shortcut of a residual unit. Its kinds are data: `SHORTCUTS` in `resjax.models.spec`."""

import flax.linen as nn
import jax

from resjax.models.layers import run
from resjax.models.layout import Layers
from resjax.models.spec import Spec


class Shortcut(nn.Module):
    """h(x_l) of v2 eq. 1: x in the shape of the branch's output, then scaled or dropped out."""

    spec: Spec
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, C_out], or [N, C_in] -> [N, C_out]."""
        spec = self.spec
        x = run(spec, self.layers, x, train)
        if spec.shortcut_dropout:
            # v2 says that dropout scales the shortcut by 0.5 in expectation: survivors are not rescaled, and
            # evaluation multiplies by the keep rate.
            keep = 1 - spec.shortcut_dropout
            x = x * (jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape) if train else keep)
        return x if spec.shortcut_scale == 1 else x * spec.shortcut_scale
