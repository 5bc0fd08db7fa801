"""A run's functions, jitted, and the layout of what they work on."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from resjax.checks import mesh_shape
from resjax.config import Durations
from resjax.data import resident
from resjax.data.ahead import HostBatch
from resjax.data.augment import device
from resjax.data.augment.device import Normalization
from resjax.data.resident import Resident
from resjax.evaluation.evaluate import Batch, Metrics, make_eval_step
from resjax.models import onednn
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.train import sharding
from resjax.train.ema import Ema
from resjax.train.loss import Loss
from resjax.train.mix import Mix
from resjax.train.optim import learning_rate, optimizer
from resjax.train.step import TrainState, init_state, make_train_step, several


class Feed(NamedTuple):
    """What one call of `train_step` works on.

    Attributes:
      batches: k of them, each leaf [k, B, ...], of `Dataset.train`, or of `Dataset.draws` if there is `data`.
      count: so many of them are trained on, int32; those after fill up.
      normalization: of images.
      data: the training split, where it lies on the devices.
    """

    batches: Any
    count: Any
    normalization: Normalization
    data: Resident | None = None


class Part(NamedTuple):
    """What one call of `eval_step` works on.

    Attributes:
      batch: one of `Dataset.evaluate`; if there is `data`, the number of a batch in it, or several numbers [n].
      normalization: of images.
      data: the split, where it lies on the devices.
    """

    batch: Any
    normalization: Normalization
    data: Resident | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run computes on its devices. The seed is an argument: runs that differ only in it share a program.

    Attributes:
      mesh: the devices.
      abstract: shapes, types and shardings of a state.
      init: seed -> the state that training starts from.
      train_step: state, feed, seed -> the state `feed.count` steps on and their metrics [stride], of which those
        after `feed.count` mean nothing; donates the old state.
      eval_step: params, batch_stats, part -> sums.
      rows: those of a batch that this process reads.
      place: lays these rows of a host batch over the devices of this process, as part of the global batch.
      normalization: of images, on the devices.
      stride: optimizer steps that one call of `train_step` takes at most.
      data: the splits by name, where they lie on the devices; else None, and every batch comes from the host.
    """

    mesh: Mesh
    abstract: TrainState
    init: Callable[[np.uint32], TrainState]
    train_step: Callable[[TrainState, Feed, np.uint32], tuple[TrainState, Metrics]]
    eval_step: Callable[[Any, Any, Part], Metrics]
    rows: np.ndarray
    place: Callable[[HostBatch], Batch]
    normalization: Normalization
    stride: int = 1
    data: dict[str, Resident] | None = None

    def take(self, batches: Iterator[HostBatch], count: int | None = None) -> Feed:
        """The next `count` of `Experiment.batches`, on the devices: as many as one call takes, or fewer."""
        count = self.stride if count is None else count
        taken = list(itertools.islice(batches, count))
        taken += taken[-1:] * (self.stride - count)
        stacked = {key: np.stack([batch[key] for batch in taken]) for key in taken[0]}
        placed = sharding.place_rows(self.mesh, stacked, axis=1)
        return Feed(placed, np.int32(count), self.normalization, self.data["train"] if self.data else None)


def build(
    config: ConfigDict,
    spec: Spec,
    durations: Durations,
    normalization: Normalization,
    data: dict[str, Resident] | None = None,
    stride: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Shapes, then shardings by rule, then jit: every array is born where it belongs. Compiles nothing yet.

    Args:
      normalization: of images, on the devices of the mesh; or its shapes and types, to compile alone.
      data: the splits on the devices of the mesh, if they lie there.
      stride: as in `Program`.
      devices: those that the mesh is made of; all by default.
    """
    o = config.optimizer
    spec, options = compiled_as(config, spec, stride)
    mesh = make_mesh(config, devices)
    rate = learning_rate(config, durations)
    model, tx = ResNet(spec, tuple(o.freeze)), optimizer(config, rate)
    init = partial(init_state, spec, tx, averaged=bool(config.ema.decay), frozen=model.frozen)
    shapes = jax.eval_shape(init, np.uint32(0))
    over_state, images, all_ = (
        sharding.state_shardings(mesh, shapes),
        sharding.batch_sharding(mesh),
        sharding.replicated(mesh),
    )
    one_step = make_train_step(
        model,
        tx,
        rate,
        loss=Loss.of(config),
        accumulate=o.accumulate,
        mix=Mix.of(config),
        average=Ema.of(config, durations),
    )
    one_eval = make_eval_step(model)
    where = jax.tree.map(lambda x: x.sharding, data["train"]) if data else None
    constants = Normalization(all_, all_)

    def train_step(state: TrainState, feed: Feed, seed: Any) -> tuple[TrainState, Metrics]:
        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            if feed.data:
                batch = over(images, resident.training_batch(feed.data, batch))
            batch = over(images, device.training_views(batch, feed.normalization, config.data.pad))
            return one_step(state, batch, seed)

        return several(step, state, feed.batches, feed.count)

    def eval_step(params: Any, batch_stats: Any, part: Part) -> Metrics:
        def one(batch: Any) -> Metrics:
            if part.data:
                batch = over(images, resident.evaluation_batch(part.data, batch, config.batch_size))
            return one_eval(params, batch_stats, device.evaluation_views(batch, part.normalization))

        return jax.lax.map(one, part.batch) if part.data and part.batch.ndim else one(part.batch)

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
            train_step,
            in_shardings=(over_state, Feed(sharding.batch_sharding(mesh, axis=1), all_, constants, where), all_),
            out_shardings=(over_state, all_),
            donate_argnums=0,
            compiler_options=options,
        ),
        eval_step=jax.jit(
            eval_step,
            in_shardings=(
                over_state.params,
                over_state.batch_stats,
                Part(all_ if data else images, constants, where),
            ),
            out_shardings=all_,
            compiler_options=options,
        ),
        rows=sharding.local_rows(images, config.batch_size),
        place=partial(sharding.place_rows, mesh),
        normalization=normalization,
        stride=stride,
        data=data,
    )


def compiled_as(config: ConfigDict, spec: Spec, stride: int) -> tuple[Spec, dict[str, Any]]:
    """The spec whose steps are compiled on this machine, and the options of `jax.jit`, see `onednn.choose`."""
    in_a_loop = spec.scan or config.optimizer.accumulate > 1 or stride > 1
    if spec.convolution == "auto" and in_a_loop and jax.default_backend() == "cpu":
        spec = dataclasses.replace(spec, convolution="products")  # XLA's own are slow there
    return onednn.choose(spec, config.batch_size)


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a config, over these devices or all that there are."""
    devices = devices or jax.devices()
    return sharding.make_mesh(*mesh_shape(config, len(devices)), devices)


def over(where: NamedSharding, batch: Batch) -> Batch:
    """The same batch, made where it belongs."""
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, where), batch)
