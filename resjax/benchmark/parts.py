"""The parts of a training step, each compiled and measured by itself."""

from collections.abc import Callable

import jax
import numpy as np

from resjax.evaluation.evaluate import Batch
from resjax.models.resnet import ResNet
from resjax.train.loop import Experiment
from resjax.train.loss import Loss
from resjax.train.program import compiled_as
from resjax.train.step import make_loss


def parts(run: Experiment, batch: Batch) -> dict[str, Callable[[], object]]:
    """Functions that compute a part and wait for it: `forward`, and `gradient`, which is forward and backward.

    What the step takes beyond `gradient` is the optimizer, and the norms that are logged. None where a step is
    several microbatches.
    """
    if run.config.optimizer.accumulate > 1:
        return {}
    spec, options = compiled_as(run.config, run.spec, run.program.stride)  # as the step
    loss = make_loss(ResNet(spec, tuple(run.config.optimizer.freeze)), Loss.of(run.config))
    state = run.program.init(np.uint32(run.config.seed))
    arguments = state.params, state.batch_stats, batch, jax.random.key(run.config.seed)
    forward, gradient = (
        jax.jit(f, compiler_options=options) for f in (loss, jax.value_and_grad(loss, has_aux=True))
    )
    return {
        "forward": lambda: jax.block_until_ready(forward(*arguments)),
        "gradient": lambda: jax.block_until_ready(gradient(*arguments)),
    }
