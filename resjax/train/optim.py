"""Schedules, decay masks and optimizers, all from optax."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from resjax.config import Durations


def learning_rate(config: ConfigDict, durations: Durations) -> optax.Schedule:
    """The learning rate as a function of the step, warm-up included.

    The papers' recipe is `piecewise` with a `constant` warm-up: 0.01 before step 400, then 0.1, a tenth of it
    from step 32000 and a hundredth from step 48000 (v1 section 4.2, v2 appendix).
    """
    peak, s, warmup = config.optimizer.learning_rate, config.schedule, durations.warmup
    if s.name == "cosine":
        main = optax.cosine_decay_schedule(peak, durations.total - warmup)
    elif s.name == "piecewise":
        # join_schedules hands each part the steps since its start, but drops count from step 0; those during the
        # warm-up all take effect when it ends.
        drops: dict[int, float] = {}
        for step in durations.drops:
            at = max(0, step - warmup)
            drops[at] = drops.get(at, 1.0) * s.drop_factor
        main = optax.piecewise_constant_schedule(peak, drops)
    else:
        main = optax.constant_schedule(peak)
    if s.warmup == "none":
        return main
    start = s.warmup_rate
    first = optax.linear_schedule(start, peak, warmup) if s.warmup == "linear" else optax.constant_schedule(start)
    return optax.join_schedules([first, main], [warmup])


def decay_mask(name: str) -> Any:
    """Which parameters decay: `all`, or `kernels`, which spares BN and biases, those of gates too.

    `all` is the rule of FAIR's Torch code (fb.resnet.torch, on which resnet-1k-layers builds). Its README says that
    the v1 paper decays the weights of convolutions only; the papers themselves do not say.
    """
    if name == "all":
        return None
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with coupled decay (v = m v + g + wd w; w -= lr v), or AdamW with decoupled decay."""
    o = config.optimizer
    decay = optax.add_decayed_weights(o.weight_decay, decay_mask(o.decay_mask))
    if o.name == "sgd":
        steps = [decay, optax.trace(o.momentum, o.nesterov)]
    else:
        steps = [optax.scale_by_adam(o.momentum, o.beta2, nesterov=o.nesterov), decay]
    clip = [optax.clip_by_global_norm(o.clip_norm)] if o.clip_norm else []
    return optax.chain(*clip, *steps, optax.scale_by_learning_rate(schedule))
