"""The residual unit: x_{l+1} = f(h(x_l) + F(x_l, W_l)), v2 eq. 1 and 2."""

import flax.linen as nn
import jax

from resjax.models.gates import Gate, combine, gate_cost
from resjax.models.layers import Cost, activate, norm_cost, normalize, unit_bias, weight, weight_cost
from resjax.models.shortcuts import Shortcut, projects, shortcut_cost
from resjax.models.spec import ORDERS, Spec, UnitShape


class Unit(nn.Module):
    """One residual unit: any order, shortcut or gate. A plain network's unit is one without a shortcut."""

    spec: Spec
    shape: UnitShape

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, survival: jax.Array | float = 1.0) -> jax.Array:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, C_out], or [N, C_in] -> [N, C_out].

        `survival` is the chance that an image keeps the branch in training (stochastic depth, arXiv 1603.09382).
        """
        spec, shape, order = self.spec, self.shape, ORDERS[self.spec.order]
        layers = spec.weight_layers(shape)

        def run(tokens: str, y: jax.Array, i: int) -> jax.Array:
            kernel, width, stride = layers[i - 1]
            for token in tokens:
                if token == "c":
                    y = weight(spec, width, kernel, stride, bias=unit_bias(spec), name=f"conv{i}")(y)
                elif token == "n":
                    y = normalize(spec, y, train, f"norm{i}", zero=spec.zero_gamma and i == len(layers))
                else:
                    y = activate(spec, y)
            return y

        # v2, appendix: the stem has activated the first unit's input already, and a projection is fed by the
        # activated signal; every other shortcut carries x as it came.
        y = x if shape.first else run(order.lead, x, 1)
        source = y if projects(spec, shape) else x
        for i in range(1, len(layers) + 1):
            tokens = order.last if i == len(layers) else order.layer
            y = run(tokens.removeprefix(order.lead) if i == 1 else tokens, y, i)

        if spec.shortcut != "none":
            if spec.stochastic_depth and train:
                keep = jax.random.bernoulli(self.make_rng("dropout"), survival, (len(y),) + (1,) * (y.ndim - 1))
                y = y * (keep / survival).astype(y.dtype)
            y = y if spec.branch_scale == 1 else y * spec.branch_scale
            shortcut = Shortcut(spec, shape, name="shortcut")(source, train)
            gate = Gate(spec, shape, name="gate")(source, train) if spec.gate != "none" else None
            self.sow("intermediates", "branch", y)
            self.sow("intermediates", "skip", shortcut)
            y = combine(spec, shortcut, y, gate)
        return run(order.after, y, len(layers))


def unit_cost(spec: Spec, shape: UnitShape) -> Cost:
    """Cost of `Unit`."""
    order, layers = ORDERS[spec.order], spec.weight_layers(shape)
    cost, width, size = shortcut_cost(spec, shape) + gate_cost(spec, shape), shape.in_width, shape.size
    for i, (kernel, out, stride) in enumerate(layers, 1):
        tokens = order.last + order.after if i == len(layers) else order.layer
        for token in tokens[len(order.lead) :] if i == 1 and shape.first else tokens:
            if token == "c":
                size = -(-size // stride)
                cost += weight_cost(width, out, kernel, size, bias=unit_bias(spec) is not None)
                width = out
            elif token == "n":
                cost += norm_cost(spec, width)
    return cost
