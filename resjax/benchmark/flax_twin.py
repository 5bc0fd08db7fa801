"""The network of a `Spec` as people write it in Flax today, to measure against.

`flax.linen`'s own `Conv`, `Dense` and `BatchNorm`, channels last, plain `optax`, one jitted step with donated
state, as in Flax's ImageNet example. Nothing of `resjax.models` runs here but the description of the layers, and
parameters have the names that they have there, so weights need no conversion.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from ml_collections import ConfigDict

from resjax.benchmark import known
from resjax.models import layout
from resjax.models.layout import Layer, Layers, UnitLayout
from resjax.models.spec import Spec


def missing(spec: Spec, config: ConfigDict) -> list[str]:
    """What the twin does not know to be the same in this network or recipe; empty if it can be built."""
    return known.missing(spec, config, RUN)


class Twin(nn.Module):
    """[N, H, W, C] images -> [N, K] float32 logits; parameters are named as in `resjax.models.resnet.ResNet`."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        spec = self.spec
        x = Row(spec, layout.stem(spec), name="stem")(x.astype(spec.dtype), train)
        shapes = list(spec.unit_shapes())
        for stage in range(1, len(spec.units) + 1):
            units = tuple(layout.unit(spec, shape) for shape in shapes if shape.stage == stage)
            x = TwinStage(spec, units, name=f"stage{stage}")(x, train)
        return run(spec, layout.head(spec), x, train)


class TwinStage(nn.Module):
    """Units of one width on one map size."""

    spec: Spec
    units: tuple[UnitLayout, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, unit in enumerate(self.units):
            x = TwinUnit(self.spec, unit, name=f"unit{i}")(x, train)
        return x


class TwinUnit(nn.Module):
    """`resjax.models.units.Unit`."""

    spec: Spec
    unit: UnitLayout

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        spec, unit = self.spec, self.unit
        y = run(spec, unit.lead, x, train)
        source = y if unit.activated else x
        y = run(spec, unit.branch, y, train)
        if unit.excitation:
            y = y * Row(spec, unit.excitation, name="excitation")(y, train)[:, None, None]
        if spec.shortcut != "none":
            skip = Row(spec, unit.shortcut, name="shortcut")(source, train)
            y = y if spec.branch_scale == 1 else spec.branch_scale * y
            skip = skip if spec.shortcut_scale == 1 else spec.shortcut_scale * skip
            if unit.gate:
                gate = Row(spec, unit.gate, name="gate")(source, train)
                y, skip = gate * y if spec.gate == "exclusive" else y, (1 - gate) * skip
            y = skip + y
        return run(spec, unit.after, y, train)


class Row(nn.Module):
    """Layers in a row as a module of their own: the stem, a shortcut, a gate, an excitation."""

    spec: Spec
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return run(self.spec, self.layers, x, train)


def run(spec: Spec, layers: Layers, x: jax.Array, train: bool) -> jax.Array:
    """Layers in a row, inside a module."""
    for layer in layers:
        x = RUN[layer.kind](spec, layer, x, train)
    return x


def conv(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """`flax.linen.Conv`, and so XLA's own convolution."""
    pad = layer.dilation * (layer.kernel // 2)
    return nn.Conv(
        layer.width,
        (layer.kernel, layer.kernel),
        strides=(layer.stride, layer.stride),
        padding=[(pad, pad)] * 2,
        kernel_dilation=layer.dilation,
        feature_group_count=layer.groups,
        use_bias=layer.bias is not None,
        dtype=jnp.dtype(spec.dtype),
        name=layer.name,
    )(x)


def dense(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """`flax.linen.Dense`; logits are float32."""
    dtype = jnp.float32 if layer.kind == "classifier" else jnp.dtype(spec.dtype)
    return nn.Dense(layer.width, use_bias=layer.bias is not None, dtype=dtype, name=layer.name)(x)


def norm(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """`flax.linen.BatchNorm`, over the whole batch."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=spec.bn_momentum,
        epsilon=spec.bn_epsilon,
        dtype=jnp.dtype(spec.dtype),
        name=layer.name,
    )(x)


def max_pool(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """`flax.linen.max_pool`."""
    pad = (layer.kernel // 2, layer.kernel // 2)
    return nn.max_pool(x, (layer.kernel, layer.kernel), (layer.stride, layer.stride), padding=(pad, pad))


def average_pool(spec: Spec, layer: Layer, x: jax.Array, train: bool) -> jax.Array:
    """`flax.linen.avg_pool`."""
    cell = (layer.stride, layer.stride)
    return nn.avg_pool(x, cell, cell, padding="SAME", count_include_pad=False)


RUN: dict[str, Callable[[Spec, Layer, jax.Array, bool], jax.Array]] = {
    "conv": conv,
    "dense": dense,
    "classifier": dense,
    "norm": norm,
    "relu": lambda spec, layer, x, train: nn.relu(x),
    "sigmoid": lambda spec, layer, x, train: nn.sigmoid(x),
    "max_pool": max_pool,
    "average_pool": average_pool,
    "subsample": lambda spec, layer, x, train: x[:, :: layer.stride, :: layer.stride],
    "zero_pad": lambda spec, layer, x, train: jnp.pad(x, [(0, 0)] * 3 + [(0, layer.width - layer.in_width)]),
    "mean": lambda spec, layer, x, train: x.astype(jnp.float32).mean((1, 2)),
}


class TrainState(train_state.TrainState):
    """Flax's, with the running statistics."""

    batch_stats: Any


class TrainingStep:
    """Training from `variables` on: calling it takes one step, waits for it and returns the loss.

    Args:
      variables: `params` and `batch_stats` of the unrolled network; they are copied.
      images: [N, H, W, C]; labels: [N].
    """

    def __init__(
        self, spec: Spec, config: ConfigDict, variables: dict[str, Any], images: np.ndarray, labels: np.ndarray
    ) -> None:
        o = config.optimizer
        mask = None if o.decay_mask == "all" else partial(jax.tree.map, lambda x: x.ndim > 1)  # no BN, no bias
        self.state = TrainState.create(
            apply_fn=Twin(spec).apply,
            params=jax.tree.map(jnp.array, variables["params"]),
            tx=optax.chain(
                optax.add_decayed_weights(o.weight_decay, mask),
                optax.sgd(o.learning_rate, o.momentum, o.nesterov),
            ),
            batch_stats=jax.tree.map(jnp.array, variables["batch_stats"]),
        )
        self._batch = jnp.asarray(images), jnp.asarray(labels)
        self._step = jax.jit(partial(train_step, o.label_smoothing), donate_argnums=0)

    def advance(self) -> jax.Array:
        """Takes a step, which may still be under way."""
        self.state, metrics = self._step(self.state, *self._batch)
        return metrics["loss"]

    def wait(self) -> None:
        """Waits for all that is under way."""
        jax.block_until_ready(self.state)

    def __call__(self) -> jax.Array:
        loss = self.advance()
        self.wait()
        return loss


def train_step(
    label_smoothing: float, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The next state, and the batch's loss and accuracy."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), (logits, updates)

    (loss, (logits, updates)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    # A network without BN has no statistics.
    state = state.apply_gradients(grads=grads, batch_stats=updates.get("batch_stats", {}))
    return state, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}
