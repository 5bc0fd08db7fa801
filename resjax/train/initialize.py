"""Starting from the weights of another run, or of a file."""

import dataclasses
import sys
from contextlib import closing
from typing import Any

import jax
import numpy as np

from resjax import paths
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.models import scan
from resjax.models.resnet import init_variables
from resjax.models.spec import Spec
from resjax.train import digest, ema, sharding
from resjax.train.checkpoint import Checkpoints
from resjax.train.step import TrainState
from resjax.weights import hub, source


def check_source(given: str, spec: Spec) -> None:
    """Raises BadInput unless `initialize_from` can take the weights of `given` for `spec`."""
    path = hub.local(given)
    if source.is_weights(path):
        source.open(path).for_network(spec)
        return
    with closing(Checkpoints(path)) as checkpoints:
        there = checkpoints.weights_structure(_latest(checkpoints, given))
    here = digest.structure(jax.eval_shape(lambda: init_variables(dataclasses.replace(spec, scan=False), 0)))
    without_head = [{k: v for k, v in side.items() if not k.startswith("params/head/")} for side in (there, here)]
    if difference := digest.difference(*without_head):
        raise BadInput(f"init_from={given} holds {difference}; use that run's model fields")


def initialize_from(given: str, state: TrainState, spec: Spec, own: Preprocessing | None = None) -> TrainState:
    """`state` with the parameters and batch statistics of another run's latest checkpoint, and nothing else of it.

    `given` may also be a file of weights, a folder of another library (`resjax.weights.source`), or one on the Hub;
    they must be of the network `spec`. Where the weights are for another number of classes, or for classes of other
    names than those of `own` as far as both are known, the head keeps its fresh start. stderr says so, and where
    images were normalised otherwise.

    Args:
      own: what the images of the new run go through.

    Raises:
      BadInput: if there is no checkpoint, or it is damaged.
    """
    found, theirs = _read(given, spec)
    mine = {part: getattr(state, part) for part in digest.WEIGHTS}
    head = mine["params"]["head"]
    pairs = zip(theirs.class_names, own.class_names, strict=False) if own and theirs else ()
    other = next((f", such as {a}, not {b}" for a, b in pairs if a != b), "")
    if other or found["params"]["head"]["kernel"].shape != head["kernel"].shape:
        _say(f"init_from={given}: its head is for other classes{other}; the head starts fresh")
        found["params"]["head"] = head
    if own and theirs and normalizes_otherwise(theirs, own):
        _say(f"init_from={given}: its weights were trained with another mean or deviation of images")
    found = scan.roll(found) if digest.is_rolled(digest.structure(mine)) else found
    placed = jax.tree.map(lambda x, like: x if x is like else sharding.put(x, like.sharding), found, mine)
    average = ema.start(**placed) if state.ema is not None else None
    return state.replace(**placed, ema=average)


def normalizes_otherwise(there: Preprocessing, here: Preprocessing) -> bool:
    """Whether one takes pixels with another mean or deviation than the other."""
    same = there.mean.shape == here.mean.shape and np.allclose(there.mean, here.mean, rtol=1e-3)
    return not (same and np.allclose(there.std, here.std, rtol=1e-3))


def _read(given: str, spec: Spec) -> tuple[dict[str, Any], Preprocessing | None]:
    """`params` and `batch_stats`, unrolled, and what they were trained with, as far as is known."""
    path = hub.local(given)
    if source.is_weights(path):
        weights = source.open(path)
        return weights.for_network(spec), weights.preprocessing
    with closing(Checkpoints(path)) as checkpoints:
        step = _latest(checkpoints, given)
        saved = checkpoints.meta(step).get("preprocessing")
        return scan.unroll(checkpoints.weights(step)), Preprocessing.from_json(saved) if saved else None


def _latest(checkpoints: Checkpoints, given: str) -> int:
    if steps := checkpoints.steps():
        return steps[0]
    raise BadInput(f"init_from={given}: holds no checkpoint; give the workdir of a run, or a file of weights")


def _say(text: str) -> None:
    """A line on stderr, of the first process alone."""
    if jax.process_index() == 0:
        print(paths.one_line(text), file=sys.stderr)
