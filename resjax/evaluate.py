"""Evaluation of one view of every image, each counted exactly once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from resjax.metrics import add, means
from resjax.step import Batch, Metrics, TrainState


def evaluate(
    eval_step: Callable[[Any, Any, Batch], Metrics],
    state: TrainState,
    batches: Iterable[dict[str, Any]],
    place: Callable[[Any], Batch],
) -> dict[str, float]:
    """Means over `batches`, whose `mask` is 0 for padding: loss, accuracy, accuracy_top5.

    `place` lays a host batch over the devices.
    """
    sums = [eval_step(state.params, state.batch_stats, place(batch)) for batch in batches]
    return means(add(jax.device_get(sums)))
