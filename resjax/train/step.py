"""The state of a run, and the pure function that advances it."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from resjax.evaluation.evaluate import Batch, Metrics, means, sums
from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import Spec
from resjax.train import ema
from resjax.train.ema import Ema
from resjax.train.freeze import split
from resjax.train.loss import SOFTMAX, Loss
from resjax.train.mix import Mix


class TrainState(flax.struct.PyTreeNode):
    """All that training changes. `step` counts optimizer steps done.

    `ema` is None, or the moving average of the weights: `params` and `batch_stats` once more.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any = flax.struct.field(
        default=None, metadata={"starts": lambda state: ema.start(state.params, state.batch_stats)}
    )

    def weights(self, averaged: bool = False) -> tuple[Any, Any]:
        """Parameters and batch statistics, or the moving average of both."""
        return (self.ema["params"], self.ema["batch_stats"]) if averaged else (self.params, self.batch_stats)


def init_state(
    spec: Spec,
    tx: optax.GradientTransformation,
    seed: int | jax.Array,
    averaged: bool = False,
    frozen: tuple[str, ...] = (),
) -> TrainState:
    """The state that training starts from, with a moving average of the weights if they are `averaged`.

    The optimizer's state leaves out the parameters of `frozen` parts.
    """
    variables = init_variables(spec, seed)
    average = ema.start(**variables) if averaged else None
    trained, _ = split(variables["params"], frozen)
    return TrainState(jnp.zeros((), jnp.int32), **variables, opt_state=tx.init(trained), ema=average)


def make_loss(model: ResNet, loss: Loss) -> Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Any]]:
    """The mean loss of one network in training, and with it the next batch statistics and the batch's `sums`.

    Targets are the batch's `target` [N, K], or else its labels.
    """

    def loss_fn(params: Any, batch_stats: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits: Any  # [N, K]
        logits, updates = model.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": rng}
        )
        targets = batch["target"] if "target" in batch else jax.nn.one_hot(batch["label"], logits.shape[-1])
        losses = loss(logits, targets)  # [N]
        return losses.mean(), (updates.get("batch_stats", {}), sums(logits, losses, batch["label"]))

    return loss_fn


def make_train_step(
    model: ResNet,
    tx: optax.GradientTransformation,
    rate: optax.Schedule,
    *,
    loss: Loss = SOFTMAX,
    accumulate: int = 1,
    mix: Mix | None = None,
    average: Ema | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """The training step of one network and one optimizer; reports the learning rate of `rate`, `tx`'s schedule.

    It leaves parameters, statistics and averages of `model.frozen` as they are, bit for bit.

    Args:
      accumulate: microbatches that a batch is taken in.
      mix: images with each other, before the batch is cut; None: nothing is mixed.
      average: how the state's `ema` takes in the weights; None: it has none.
    """
    loss_fn = make_loss(model, loss)

    def train_step(state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        """One optimizer step.

        Args:
          batch: image [N, H, W, C] float32, label [N] int32.
          seed: of the run, uint32; dropout, stochastic depth and `mix` draw from (seed, step).

        Returns:
          The next state, and what the step found: the batch's means `loss`, `accuracy` and `accuracy_top5`, the
          `sums` that they come from, `learning_rate`, the `gradient_norm` before clipping (L2, over the trained
          parameters), and the `weight_norm` after the step (over all).
        """
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        if mix:
            batch = mix(batch, model.spec.num_classes, rng)

        trained, held = split(state.params, model.frozen)

        def own_loss(trained: Any, *rest: Any) -> tuple[jax.Array, Any]:
            return loss_fn(trained | held, *rest)

        def microstep(batch_stats: Any, micro: tuple[Batch, jax.Array]) -> tuple[Any, tuple[Any, Metrics]]:
            part, index = micro
            grads, (batch_stats, found) = jax.grad(own_loss, has_aux=True)(
                trained, batch_stats, part, jax.random.fold_in(rng, index)
            )
            return batch_stats, (grads, found)

        if accumulate == 1:
            batch_stats, (grads, found) = microstep(state.batch_stats, (batch, jnp.int32(0)))
        else:
            # [N, ...] -> [k, N/k, ...]; strided, so that every microbatch lies over all devices as the batch does
            parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
            batch_stats, stacked = jax.lax.scan(microstep, state.batch_stats, (parts, jnp.arange(accumulate)))
            grads = jax.tree.map(lambda g: g.mean(0), stacked[0])
            found = jax.tree.map(lambda m: m.sum(0), stacked[1])

        updates, opt_state = tx.update(grads, state.opt_state, trained)
        params = optax.apply_updates(trained, updates) | held
        metrics = means(found) | {
            "sums": found,
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
            "gradient_norm": optax.tree.norm(grads),
            "weight_norm": optax.tree.norm(params),
        }
        averages = state.ema
        if average:
            new = average(averages, {"params": params, "batch_stats": batch_stats}, state.step)
            # A mean of equal numbers may differ from them by a rounding.
            averages = {name: tree | split(averages[name], model.frozen)[1] for name, tree in new.items()}
        return TrainState(state.step + 1, params, batch_stats, opt_state, averages), metrics

    return train_step


def several(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Batch,
    count: jax.Array,
) -> tuple[TrainState, Metrics]:
    """Takes `count` steps, on the first so many of `batches` [k, N, ...], in one program for every count up to k.

    Returns:
      The state after them, and the metrics of k steps [k]. Those after `count` are computed and change nothing.
    """
    k = len(jax.tree.leaves(batches)[0])
    if k == 1:  # without a loop, in which XLA's convolutions on a CPU are slow
        state, metrics = step(state, jax.tree.map(lambda x: x[0], batches))
        return state, jax.tree.map(lambda x: x[None], metrics)

    def one(state: TrainState, part: tuple[jax.Array, Batch]) -> tuple[TrainState, Metrics]:
        index, batch = part
        after, metrics = step(state, batch)
        return jax.tree.map(lambda new, old: jnp.where(index < count, new, old), after, state), metrics

    return jax.lax.scan(one, state, (jnp.arange(k), batches))
