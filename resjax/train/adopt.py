"""A run's folder around weights that were trained elsewhere: evaluation, analysis and `init_from` take it."""

from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from resjax import files, machine
from resjax.config import durations, plain
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.train import ema
from resjax.train.checkpoint import Checkpoints
from resjax.train.freeze import split
from resjax.train.optim import learning_rate, optimizer
from resjax.train.progress import Progress
from resjax.train.step import TrainState


def adopt(
    workdir: Path, config: ConfigDict, variables: dict[str, Any], own: Preprocessing, origin: dict[str, Any]
) -> str:
    """Writes a run of which no step is done yet, that starts from these weights; returns the digest of its state.

    Args:
      workdir: a new or empty folder.
      config: of the run; nothing in it is left to the data set that the weights know better.
      variables: `params` and `batch_stats`, unrolled.
      own: what the weights were trained with.
      origin: where they come from, JSON values.

    Raises:
      BadInput: if the folder is not empty or cannot be written.
    """
    check_new("--workdir", workdir)
    params, batch_stats = (jax.device_put(variables[part]) for part in ("params", "batch_stats"))
    tx = optimizer(config, learning_rate(config, durations(config, config.batch_size)))
    average = ema.start(params, batch_stats) if config.ema.decay else None
    trained, _ = split(params, tuple(config.optimizer.freeze))
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(trained), average)
    meta = {
        "config": plain(config),
        "preprocessing": own.json(),
        "machine": machine.describe(1) | {"compilation_cache": machine.cache()},
        "data": {"next_step": 0, "seed": config.seed},
        "progress": Progress().json(),
        "origin": origin,
    }
    with files.writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / "config.json", plain(config))
    with closing(Checkpoints(workdir, keep=1)) as checkpoints:
        return checkpoints.save(state, meta).result()


def check_new(field: str, folder: Path) -> None:
    """Raises BadInput, naming the field, unless the folder is empty or not there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(f"{field}={folder} is there already: give a new folder")
