"""Evaluation on one view of every image, each counted exactly once."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resjax.models.resnet import ResNet

Batch = dict[str, jax.Array]
Metrics = dict[str, Any]
SUMS = ("loss", "correct", "correct5", "count")


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


def add(parts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Adds up fetched sums in float64."""
    parts = list(parts)
    return {key: float(sum(np.sum(part[key], dtype=np.float64) for part in parts if part)) for key in SUMS}


def means(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Sums divided by their count: loss, accuracy, accuracy_top5."""
    count = sums["count"]
    return {
        "loss": sums["loss"] / count,
        "accuracy": sums["correct"] / count,
        "accuracy_top5": sums["correct5"] / count,
    }


def evaluate(
    eval_step: Callable[[Any, Any, Any], Metrics],
    params: Any,
    batch_stats: Any,
    batches: Iterable[Any],
) -> dict[str, float]:
    """Means over `batches`, whose `mask` is 0 for padding: loss, accuracy, accuracy_top5.

    A call of `eval_step` may also take several batches, and return their sums as [n].
    """
    sums = [eval_step(params, batch_stats, batch) for batch in batches]
    return means(add(jax.device_get(sums)))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A named evaluation of a run.

    Attributes:
      name: in the logs and the summary, such as `test`.
      batches: opens what is evaluated: what the program's `eval_step` takes, one after the other.
      every: how often, in steps.
      averaged: of the moving average of the weights, not of the weights.
    """

    name: str
    batches: Callable[[], Iterable[Any]]
    every: int
    averaged: bool = False

    def due(self, step: int, total: int) -> bool:
        """True at the end and at every multiple of `every`, except for one at most `every // 2` steps before it.

        So what is measured between two evaluations, such as the training error, never covers only a few steps.
        """
        return step == total or (step % self.every == 0 and total - step > self.every // 2)
