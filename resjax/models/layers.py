"""What each kind of layer does. A new kind is one entry of `RUN`, and its cost in `counts` if it has parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models import convolution, pool
from resjax.models.layout import Layer, Layers
from resjax.models.norm import BatchNorm
from resjax.models.spec import Spec


def run(spec: Spec, layers: Layers, x: jax.Array, train: bool) -> jax.Array:
    """Layers in a row: [N, H, W, C] -> [N, H', W', C'], or [N, C] -> [N, C'].

    Call it inside a linen module, which then holds the layers that have parameters, under their names.
    """
    for layer in layers:
        x = RUN[layer.kind](spec, layer, x, train)
    return x


class Part(nn.Module):
    """Layers in a row as a module of their own: the stem, a gate, an excitation."""

    spec: Spec
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """As `run`."""
        return run(self.spec, self.layers, x, train)


def weight_options(spec: Spec, layer: Layer) -> dict[str, Any]:
    """What convolutions and dense layers share.

    Weights are drawn from an untruncated normal of variance init_gain / fan (He et al., arXiv 1502.01852; the
    released code takes the fan of the output).
    """
    return {
        "features": layer.width,
        "use_bias": layer.bias is not None,
        "bias_init": nn.initializers.constant(layer.bias or 0.0),
        "kernel_init": nn.initializers.variance_scaling(spec.init_gain, spec.init, "normal"),  # type: ignore[arg-type]
        "dtype": jnp.dtype(spec.dtype),
        "name": layer.name,
    }


def wide(spec: Spec) -> jnp.dtype:
    """The type of what must not lose digits: the spec's, and at least float32."""
    return jnp.promote_types(spec.dtype, jnp.float32)


def convolve(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """A convolution with explicit symmetric padding."""
    pad = layer.dilation * (layer.kernel // 2)
    return nn.Conv(
        kernel_size=(layer.kernel, layer.kernel),
        strides=layer.stride,
        padding=[(pad, pad)] * 2,
        kernel_dilation=layer.dilation,
        feature_group_count=layer.groups,
        conv_general_dilated=partial(convolution.convolve, how=spec.convolution),
        **weight_options(spec, layer),
    )(x)


def multiply(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """A dense layer."""
    return nn.Dense(**weight_options(spec, layer))(x)


def classify(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """The logits, at least float32; no ReLU follows, so the gain is 1."""
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return nn.Dense(layer.width, kernel_init=init, dtype=wide(spec), name=layer.name)(x)


def normalize(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """BN as the spec has it."""
    return BatchNorm(
        group=spec.bn_group,
        momentum=spec.bn_momentum,
        epsilon=spec.bn_epsilon,
        zero_scale=layer.gamma == 0,
        shift=layer.beta,
        name=layer.name,
    )(x, train)


def max_pool(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """The maximum of every window; padding never wins."""
    return pool.max_pool(x, layer.kernel, layer.stride)


def average_pool(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """The mean of every window; where the map ends, of the pixels that it has."""
    return pool.average_pool(x, layer.kernel, layer.stride, layer.dilation)


def subsample(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """Every stride-th pixel of every stride-th row."""
    return x[:, :: layer.stride, :: layer.stride]


def zero_pad(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """New channels of zeros after the others."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, layer.width - layer.in_width)])


RUN: dict[str, Callable[[Spec, Layer, jax.Array, bool], jax.Array]] = {
    "conv": convolve,
    "dense": multiply,
    "classifier": classify,
    "norm": normalize,
    "relu": lambda spec, layer, x, train: nn.relu(x),
    "sigmoid": lambda spec, layer, x, train: nn.sigmoid(x),
    "max_pool": max_pool,
    "average_pool": average_pool,
    "subsample": subsample,
    "zero_pad": zero_pad,
    "mean": lambda spec, layer, x, train: x.astype(wide(spec)).mean((1, 2)),
    "flatten": lambda spec, layer, x, train: x.reshape(x.shape[0], -1),
}
