"""The gate that weighs branch against shortcut: v2 section 3.1 and highway networks (arXiv 1505.00387)."""

import flax.linen as nn
import jax

from resjax.models.layers import Cost, activate, norm_cost, normalize, weight, weight_cost
from resjax.models.spec import Spec, UnitShape


def gate_layers(spec: Spec, shape: UnitShape) -> list[tuple[int, int, int]]:
    """Kernel, width and stride of the gate's layers: one 1x1 convolution (v2), or as the unit's own (highway)."""
    if spec.gate_layers == "unit":
        return spec.weight_layers(shape)
    return [(0 if spec.dense else 1, shape.width, shape.stride)]


def normalized(spec: Spec) -> bool:
    """True where BN follows the gate's layers; v2's 1x1 gate has a bias and no BN."""
    return spec.gate_layers == "unit" and spec.norm == "batch"


class Gate(nn.Module):
    """g(x) = sigmoid(W_g x + b_g) with b_g starting at `gate_bias` (BN's beta where BN follows)."""

    spec: Spec
    shape: UnitShape

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C_in] -> gates in (0, 1), [N, H/stride, W/stride, C_out]."""
        spec, layers = self.spec, gate_layers(self.spec, self.shape)
        for i, (kernel, width, stride) in enumerate(layers, 1):
            last = i == len(layers)
            start = spec.gate_bias if last else 0.0
            bias = None if normalized(spec) else start
            x = weight(spec, width, kernel, stride, bias=bias, name=f"conv{i}")(x)
            if normalized(spec):
                x = normalize(spec, x, train, f"norm{i}", shift=start)
            if not last:
                x = activate(spec, x)
        return nn.sigmoid(x)


def combine(spec: Spec, shortcut: jax.Array, branch: jax.Array, gate: jax.Array | None) -> jax.Array:
    """The addition: h + F, (1 - g) h + g F (exclusive) or (1 - g) h + F (shortcut-only)."""
    if gate is None:
        return shortcut + branch
    return (1 - gate) * shortcut + (gate * branch if spec.gate == "exclusive" else branch)


def gate_cost(spec: Spec, shape: UnitShape) -> Cost:
    """Cost of `Gate`."""
    cost, width, size = Cost(), shape.in_width, shape.size
    for kernel, out, stride in gate_layers(spec, shape) if spec.gate != "none" else []:
        size = -(-size // stride)
        cost += weight_cost(width, out, kernel, size, bias=not normalized(spec))
        cost += norm_cost(spec, out) if normalized(spec) else Cost()
        width = out
    return cost
