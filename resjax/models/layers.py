"""The weight layers, the activation and their costs: each decided here and nowhere else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.norm import BatchNorm
from resjax.models.spec import Spec


class Cost(NamedTuple):
    """Trainable parameters, and the multiply-adds of one image's forward pass (convolution and dense only)."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self.params + other.params, self.macs + other.macs)


def activate(spec: Spec, x: jax.Array) -> jax.Array:
    """The network's one nonlinearity."""
    return nn.relu(x) if spec.activation == "relu" else nn.sigmoid(x)


def weight(
    spec: Spec, width: int, kernel: int, stride: int = 1, *, bias: float | None = None, name: str
) -> Callable[[jax.Array], jax.Array]:
    """A bias-free convolution with explicit symmetric padding, or a dense layer where `kernel` is 0.

    Weights are drawn from an untruncated normal of variance init_gain / fan (He et al., arXiv 1502.01852; the
    released code takes the fan of the output). `bias` adds a bias that starts at this value.
    """
    options: dict[str, Any] = {
        "use_bias": bias is not None,
        "bias_init": nn.initializers.constant(bias or 0.0),
        "kernel_init": nn.initializers.variance_scaling(spec.init_gain, spec.init, "normal"),  # type: ignore[arg-type]
        "dtype": jnp.dtype(spec.dtype),
        "name": name,
    }
    if kernel == 0:
        return nn.Dense(width, **options)
    pad = (kernel // 2, kernel // 2)
    return nn.Conv(width, (kernel, kernel), strides=stride, padding=(pad, pad), **options)


def unit_bias(spec: Spec) -> float | None:
    """The starting bias of a unit's weight layers: none where BN's beta follows."""
    return None if spec.norm == "batch" else 0.0


def normalize(
    spec: Spec, x: jax.Array, train: bool, name: str, *, zero: bool = False, shift: float = 0.0
) -> jax.Array:
    """BN as the spec has it, or nothing; gamma starts at 1 (0 if `zero`), beta at `shift`."""
    if spec.norm == "none":
        return x
    return BatchNorm(
        group=spec.bn_group,
        momentum=spec.bn_momentum,
        epsilon=spec.bn_epsilon,
        zero_scale=zero,
        shift=shift,
        name=name,
    )(x, train)


def weight_cost(in_width: int, width: int, kernel: int, out_size: int, *, bias: bool = False) -> Cost:
    """Cost of `weight`: k*k*in*out parameters, each used once per output pixel; padding counts as work."""
    params = max(kernel, 1) ** 2 * in_width * width
    return Cost(params + width * bias, params * out_size**2)


def norm_cost(spec: Spec, width: int) -> Cost:
    """Cost of `normalize`: gamma and beta. Running statistics are not parameters."""
    return Cost(2 * width if spec.norm == "batch" else 0)
