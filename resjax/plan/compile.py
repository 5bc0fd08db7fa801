"""Compiles the real training step for devices that are not here, from shapes alone: no state, no image, no run."""

import dataclasses
import time
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax.config import durations, in_training
from resjax.data.augment.device import Normalization
from resjax.plan import collectives
from resjax.plan.load import Load
from resjax.train import program, sharding

# The length of training sets constants of the schedule and nothing else here; a plan need not have the data set.
TRAIN_SIZE = 1_281_167  # ImageNet's


class Compiled(NamedTuple):
    """What the compiler says of one device's program; sizes in bytes.

    Attributes:
      arguments: state and batch.
      temporaries: the most that the step needs besides.
      flop: its count, in which the body of a loop counts once.
      seconds: that lowering and compiling took.
    """

    arguments: int
    temporaries: int
    flop: float
    seconds: float


def measure(config: ConfigDict) -> tuple[Load, Compiled]:
    """Compiles the training step of a config that has been validated, for the mesh that it names.

    Raises:
      BadInput: for durations that cannot be.
    """
    began = time.monotonic()
    spec = dataclasses.replace(in_training(config), convolution="xla")  # as on the devices that are planned for
    channels = (spec.input_channels,)
    normalization = Normalization(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in (channels, ())))
    built = program.build(config, spec, durations(config, TRAIN_SIZE), normalization)
    size, where = spec.input_size, sharding.batch_sharding(built.mesh, axis=1)
    batches = {
        "image": jax.ShapeDtypeStruct(
            (1, config.batch_size, size, size, spec.input_channels), np.uint8, sharding=where
        ),
        "label": jax.ShapeDtypeStruct((1, config.batch_size), np.int32, sharding=where),
    }
    feed = program.Feed(batches, jax.ShapeDtypeStruct((), np.int32), built.normalization)
    seed = jax.ShapeDtypeStruct((), np.uint32)
    step = built.train_step.lower(built.abstract, feed, seed).compile()  # type: ignore[attr-defined]
    analysis, mesh = step.memory_analysis(), built.mesh
    load = Load(
        spec=spec,
        shapes=built.abstract,
        data=mesh.shape["data"],
        fsdp=mesh.shape["fsdp"],
        images=config.batch_size // mesh.size,
        accumulate=config.optimizer.accumulate,
        collectives=collectives.read(step.as_text(), mesh.size),
    )
    return load, Compiled(
        arguments=analysis.argument_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        flop=step.cost_analysis()["flops"],
        seconds=time.monotonic() - began,
    )
