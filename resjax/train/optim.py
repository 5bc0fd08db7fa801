"""Schedules, decay masks and optimizers, from optax where it has them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resjax.config import Durations

LAMB_EPSILON = 1e-6


def learning_rate(config: ConfigDict, durations: Durations) -> optax.Schedule:
    """The learning rate as a function of the step, warm-up included.

    The papers' recipe is `piecewise` with a `constant` warm-up: 0.01 before step 400, then 0.1, a tenth of it
    from step 32000 and a hundredth from step 48000 (v1 section 4.2, v2 appendix).

    With `optimizer.reference_batch` the rate is that of a batch of so many images, and grows with the batch (linear
    scaling, arXiv 1706.02677); `warmup_rate` and `final_rate` do not.
    """
    o, s, warmup = config.optimizer, config.schedule, durations.warmup
    peak = o.learning_rate * config.batch_size / o.reference_batch if o.reference_batch else o.learning_rate
    if s.name == "cosine":
        main = optax.cosine_decay_schedule(peak, durations.total - warmup, s.final_rate / peak)
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
    """SGD with coupled decay (v = m v + g + wd w; w -= lr v), AdamW with decoupled decay, or LAMB.

    LAMB (arXiv 1904.00962) as timm has it, but for its clip, which is `clip_norm`: AdamW's update of a weight, with
    1e-6 for 1e-8, times |w| / |update|, both over a layer's weight. What does not decay is updated as by Adam.
    """
    o = config.optimizer
    mask = decay_mask(o.decay_mask)
    decay = optax.add_decayed_weights(o.weight_decay, mask)
    if o.name == "sgd":
        steps = [decay, optax.trace(o.momentum, o.nesterov)]
    elif o.name == "adamw":
        steps = [optax.scale_by_adam(o.momentum, o.beta2, nesterov=o.nesterov), decay]
    else:
        steps = [optax.scale_by_adam(o.momentum, o.beta2, LAMB_EPSILON, nesterov=o.nesterov), decay]
        if o.weight_decay:
            steps.append(optax.masked(trust(), mask) if mask else trust())
    clip = [optax.clip_by_global_norm(o.clip_norm)] if o.clip_norm else []
    steps.append(optax.scale_by_learning_rate(schedule))
    if o.head_multiplier != 1 or o.layer_decay != 1:
        steps.append(multipliers(o.head_multiplier, o.layer_decay, tuple(config.model.units)))
    return optax.chain(*clip, *steps)


def multipliers(head: float, decay: float, units: tuple[int, ...]) -> optax.GradientTransformation:
    """Updates times decay^(L + 1 - l), and those of the classifier times `head` as well.

    l is 0 in the stem, 1 to L in the units from input to output, L + 1 in the head and in the BN before it. That is
    how BEiT (arXiv 2106.08254) counts the blocks of a transformer, and timm's `param_groups_layer_decay` those of a
    ResNet. As there it is the rate that is multiplied: decoupled decay too, while moments are what they were.

    Args:
      units: of the network, by stage.
    """

    def scaled(path: Any, u: jax.Array) -> jax.Array:
        part, *rest = (key.key for key in path)
        layer: Any = sum(units) + 1
        if part == "stem":
            layer = 0
        elif part.startswith("stage"):
            before = sum(units[: int(part.removeprefix("stage")) - 1])
            if rest[0] == "units":  # a scanned stage's, all but the first: stacked along the leading axis
                layer = before + 2 + np.arange(len(u)).reshape(-1, *[1] * (u.ndim - 1))
            else:
                layer = before + 1 + int(rest[0].removeprefix("unit"))
        factor = np.asarray(decay ** (sum(units) + 1.0 - layer) * (head if part == "head" else 1))
        return u * factor.astype(u.dtype)

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))


def trust() -> optax.GradientTransformation:
    """Updates u of parameters w times |w| / |u| (L2 norms of each), or 1 where either is 0.

    As optax.scale_by_trust_ratio, but for a scanned stage, where a leaf holds one parameter of every unit.
    """

    def scaled(path: Any, u: jax.Array, w: jax.Array) -> jax.Array:
        stacked = any(getattr(key, "key", None) == "units" for key in path)
        axes = tuple(range(int(stacked), u.ndim))
        of_w, of_u = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (w, u))
        return u * jnp.where((of_w > 0) & (of_u > 0), of_w / jnp.where(of_u > 0, of_u, 1), 1)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates, params))
