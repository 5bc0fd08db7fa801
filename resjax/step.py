"""The state of a run, and the two pure functions that use it."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """All that training changes. `step` counts optimizer steps done."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState


def init_variables(spec: Spec, seed: int) -> dict[str, Any]:
    """Fresh `params` and `batch_stats` of a network; a pure function of the seed."""
    image = jnp.zeros((1, spec.input_size, spec.input_size, spec.input_channels))
    variables = ResNet(spec).init(jax.random.key(seed), image, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def init_state(spec: Spec, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """The state that training starts from."""
    variables = init_variables(spec, seed)
    return TrainState(jnp.zeros((), jnp.int32), **variables, opt_state=tx.init(variables["params"]))


def make_train_step(
    model: ResNet, tx: optax.GradientTransformation, *, seed: int, label_smoothing: float = 0.0, accumulate: int = 1
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step of one network and one optimizer."""

    def loss_fn(params: Any, batch_stats: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits: Any  # [N, K]
        logits, updates = model.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": rng}
        )
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), label_smoothing)
        losses = optax.softmax_cross_entropy(logits, targets)  # [N]
        return losses.mean(), (updates.get("batch_stats", {}), sums(logits, losses, batch["label"]))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One optimizer step on `batch`: image [N, H, W, C] float32, label [N] int32."""
        rng = jax.random.fold_in(jax.random.key(seed), state.step)

        def microstep(batch_stats: Any, micro: tuple[Batch, jax.Array]) -> tuple[Any, tuple[Any, Metrics]]:
            part, index = micro
            grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(
                state.params, batch_stats, part, jax.random.fold_in(rng, index)
            )
            return batch_stats, (grads, metrics)

        if accumulate == 1:
            batch_stats, (grads, metrics) = microstep(state.batch_stats, (batch, jnp.int32(0)))
        else:
            # [N, ...] -> [k, N/k, ...]; strided, so that every microbatch lies over all devices as the batch does
            parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
            batch_stats, stacked = jax.lax.scan(microstep, state.batch_stats, (parts, jnp.arange(accumulate)))
            grads = jax.tree.map(lambda g: g.mean(0), stacked[0])
            metrics = jax.tree.map(lambda m: m.sum(0), stacked[1])

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step


def make_eval_step(model: ResNet) -> Callable[[Any, Any, Batch], Metrics]:
    """The evaluation step of one network."""

    def eval_step(params: Any, batch_stats: Any, batch: Batch) -> Metrics:
        """Sums over the images whose `mask` [N] is 1."""
        logits: Any  # [N, K]
        logits = model.apply({"params": params, "batch_stats": batch_stats}, batch["image"], train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return sums(logits, losses, batch["label"], batch["mask"])

    return eval_step


def sums(logits: jax.Array, losses: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> Metrics:
    """Sums over a batch, to be divided by `count`: loss, correct (top-1), correct5 (top-5)."""
    mask = jnp.ones_like(losses) if mask is None else mask
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)  # [N, 1]
    # Classes that beat the label; among equals the first wins, as in argmax.
    classes = jnp.arange(logits.shape[1])[None]  # [1, K]
    rank = ((logits > own) | ((logits == own) & (classes < labels[:, None]))).sum(1)
    # A network that has diverged to NaN beats nothing and must not count as right.
    finite = jnp.isfinite(own[:, 0])
    return {
        "loss": (losses * mask).sum(),
        "correct": ((rank < 1) & finite).astype(jnp.float32) @ mask,
        "correct5": ((rank < 5) & finite).astype(jnp.float32) @ mask,
        "count": mask.sum(),
    }
