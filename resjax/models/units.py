"""The residual unit: x_{l+1} = f(h(x_l) + F(x_l, W_l)), v2 eq. 1 and 2."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models import layout
from resjax.models.layers import Part, run
from resjax.models.shortcuts import Shortcut
from resjax.models.spec import Spec, UnitShape


class Unit(nn.Module):
    """One residual unit: any order, shortcut or gate. A plain network's unit is one without a shortcut."""

    spec: Spec
    shape: UnitShape

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, survival: jax.Array | float = 1.0) -> jax.Array:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, C_out], or [N, C_in] -> [N, C_out].

        `survival` is the chance that an image keeps the branch in training (stochastic depth, arXiv 1603.09382).
        """
        spec, unit = self.spec, layout.unit(self.spec, self.shape)
        y = run(spec, unit.lead, x, train)
        source = y if unit.activated else x
        y = run(spec, unit.branch, y, train)
        if unit.excitation:
            factors = Part(spec, unit.excitation, name="excitation")(y, train)  # [N, C_out]
            y = y * jnp.expand_dims(factors, (1, 2))

        if spec.shortcut != "none":
            if spec.stochastic_depth and train:
                keep = jax.random.bernoulli(self.make_rng("dropout"), survival, (len(y),) + (1,) * (y.ndim - 1))
                y = y * (keep / survival).astype(y.dtype)
            y = y if spec.branch_scale == 1 else y * spec.branch_scale
            shortcut = Shortcut(spec, unit.shortcut, name="shortcut")(source, train)
            gate = Part(spec, unit.gate, name="gate")(source, train) if unit.gate else None
            self.sow("intermediates", "branch", y)
            self.sow("intermediates", "skip", shortcut)
            y = combine(spec, shortcut, y, gate)
        return run(spec, unit.after, y, train)


def combine(spec: Spec, shortcut: jax.Array, branch: jax.Array, gate: jax.Array | None) -> jax.Array:
    """The addition: h + F, (1 - g) h + g F (exclusive) or (1 - g) h + F (shortcut-only), v2 section 3.1."""
    if gate is None:
        return shortcut + branch
    return (1 - gate) * shortcut + (gate * branch if spec.gate == "exclusive" else branch)
