"""A run's functions, jitted, and the layout of what they work on."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resjax.checks import mesh_shape
from resjax.config import Durations
from resjax.evaluation.evaluate import Batch, Metrics, make_eval_step
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.train import sharding
from resjax.train.optim import learning_rate, optimizer
from resjax.train.step import TrainState, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """A run's compiled functions and the layout of what they work on."""

    mesh: Mesh
    abstract: TrainState
    init: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    eval_step: Callable[[Any, Any, Batch], Metrics]
    place: Callable[[Any], Batch]


def build(config: ConfigDict, spec: Spec, plan: Durations) -> Program:
    """Shapes, then shardings by rule, then jit: every array is born where it belongs. Compiles nothing yet."""
    mesh = sharding.make_mesh(*mesh_shape(config, jax.device_count()))
    model, tx = ResNet(spec), optimizer(config, learning_rate(config, plan))
    init = partial(init_state, spec, tx, config.seed)
    shapes = jax.eval_shape(init)
    state, images, all_ = (
        sharding.state_shardings(mesh, shapes),
        sharding.batch_sharding(mesh),
        sharding.replicated(mesh),
    )
    o = config.optimizer
    train_step = make_train_step(
        model, tx, seed=config.seed, label_smoothing=o.label_smoothing, accumulate=o.accumulate
    )
    return Program(
        mesh=mesh,
        abstract=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, state),
        # It runs once: compiling it well would take longer than all else before the first step.
        init=jax.jit(init, out_shardings=state, compiler_options={"xla_backend_optimization_level": 0}),
        train_step=jax.jit(train_step, in_shardings=(state, images), out_shardings=(state, all_), donate_argnums=0),
        eval_step=jax.jit(
            make_eval_step(model), in_shardings=(state.params, state.batch_stats, images), out_shardings=all_
        ),
        place=partial(jax.device_put, device=images),
    )
