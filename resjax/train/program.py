"""A run's functions, jitted, and the layout of what they work on."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
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
    """What a run computes on its devices. The seed is an argument: runs that differ only in it share a program.

    Attributes:
      mesh: the devices.
      abstract: shapes, types and shardings of a state.
      init: seed -> the state that training starts from.
      train_step: state, batch, seed -> the state `stride` steps on and their metrics [stride]; donates the old one.
      eval_step: params, batch_stats, batch -> sums.
      rows: those of a batch that this process reads.
      place: lays these rows over the devices of this process, as part of the global batch.
      stride: optimizer steps that one call of `train_step` takes.
    """

    mesh: Mesh
    abstract: TrainState
    init: Callable[[np.uint32], TrainState]
    train_step: Callable[[TrainState, Batch, np.uint32], tuple[TrainState, Metrics]]
    eval_step: Callable[[Any, Any, Batch], Metrics]
    rows: np.ndarray
    place: Callable[[Any], Batch]
    stride: int = 1


def build(config: ConfigDict, spec: Spec, durations: Durations) -> Program:
    """Shapes, then shardings by rule, then jit: every array is born where it belongs. Compiles nothing yet."""
    mesh = sharding.make_mesh(*mesh_shape(config, jax.device_count()))
    rate = learning_rate(config, durations)
    model, tx = ResNet(spec), optimizer(config, rate)
    init = partial(init_state, spec, tx)
    shapes = jax.eval_shape(init, np.uint32(0))
    over_state, images, all_ = (
        sharding.state_shardings(mesh, shapes),
        sharding.batch_sharding(mesh),
        sharding.replicated(mesh),
    )
    o = config.optimizer
    one_step = make_train_step(model, tx, rate, label_smoothing=o.label_smoothing, accumulate=o.accumulate)

    def train_step(state: TrainState, batch: Batch, seed: Any) -> tuple[TrainState, Metrics]:
        state, metrics = one_step(state, batch, seed)
        return state, jax.tree.map(lambda x: x[None], metrics)

    return Program(
        mesh=mesh,
        abstract=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, over_state),
        # It runs once: optimising it would take longer than everything else before the first step.
        init=jax.jit(
            init,
            in_shardings=all_,
            out_shardings=over_state,
            compiler_options={"xla_backend_optimization_level": 0},
        ),
        train_step=jax.jit(
            train_step, in_shardings=(over_state, images, all_), out_shardings=(over_state, all_), donate_argnums=0
        ),
        eval_step=jax.jit(
            make_eval_step(model),
            in_shardings=(over_state.params, over_state.batch_stats, images),
            out_shardings=all_,
        ),
        rows=sharding.local_rows(images, config.batch_size),
        place=partial(sharding.place_rows, images),
    )
