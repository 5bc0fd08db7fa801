"""A moving average of the weights, which is evaluated besides them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from resjax.config import Durations


@dataclasses.dataclass(frozen=True)
class Ema:
    """e := decay e + (1 - decay) w, for the parameters and the batch statistics w after a step.

    The definition of torchvision's reference code, but for its counting of steps, which begins anew in each epoch:
    `every` steps from the first on the average takes in the weights; the first time, throughout the warm-up of the
    learning rate, and the first time after it, it becomes a copy of them. timm's ModelEmaV3 takes them in after
    every step and does not look at the warm-up.

    Attributes:
      every: steps.
      warmup: steps of the learning rate's warm-up.
    """

    decay: float
    every: int = 1
    warmup: int = 0

    @classmethod
    def of(cls, config: ConfigDict, durations: Durations) -> "Ema | None":
        """The average of a config; None if there is none."""
        ema = config.ema
        return cls(ema.decay, ema.every_steps, durations.warmup) if ema.decay else None

    def __call__(self, average: Any, weights: Any, step: jax.Array) -> Any:
        """The average after a step, `step` of them done before it, that ended with `weights`."""

        def taken_in(average: Any) -> Any:
            copies = step - self.every < self.warmup  # the step that it took in before, if there is one
            return jax.tree.map(
                lambda e, w: jnp.where(copies, w, self.decay * e + (1 - self.decay) * w), average, weights
            )

        return jax.lax.cond(step % self.every == 0, taken_in, lambda average: average, average)


def start(params: Any, batch_stats: Any) -> dict[str, Any]:
    """The average that a state with these weights starts with: copies, because a step donates both."""
    return jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
