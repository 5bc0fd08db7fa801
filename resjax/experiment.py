"""From a config to everything that a run needs: the network, the data, the durations, the compiled functions."""

from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from resjax.checks import resolved, validate
from resjax.config import durations, network
from resjax.data.loader import open_dataset
from resjax.evaluation.evaluate import Evaluation
from resjax.train.loop import Experiment
from resjax.train.program import build


def open(config: ConfigDict, workdir: Path | None = None) -> Experiment:
    """Assembles a run; compiles nothing yet.

    Args:
      workdir: where the run has been, if it has: its preprocessing is taken, not found anew in the data.

    In the experiment's config stands what the data set knows, wherever `config` leaves it open.

    Raises:
      BadInput: naming the first field that cannot work.
    """
    validate(config, jax.device_count())
    dataset = open_dataset(**config.data)
    config = resolved(config, dataset.image_shape, dataset.num_classes)
    spec, length = network(config), durations(config, dataset.train_size)
    splits = ["validation", "test"] if dataset.validation_size else ["test"]
    evaluations = tuple(
        Evaluation(split, partial(dataset.evaluate, split, config.batch_size), length.eval_every)
        for split in splits
    )
    return Experiment(config, spec, dataset, length, evaluations, build(config, spec, length))
