"""Starting from the weights of another run, or of a file."""

import dataclasses
import sys
from contextlib import closing
from pathlib import Path

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
from resjax.weights import source


def check_source(workdir: Path, spec: Spec) -> None:
    """Raises BadInput unless `initialize_from` can take the weights of `workdir` for `spec`."""
    if source.is_weights(workdir):
        source.for_network(workdir, spec)
        return
    with closing(Checkpoints(workdir)) as checkpoints:
        there = checkpoints.weights_structure(_latest(checkpoints, workdir))
    here = digest.structure(jax.eval_shape(lambda: init_variables(dataclasses.replace(spec, scan=False), 0)))
    without_head = [{k: v for k, v in side.items() if not k.startswith("params/head/")} for side in (there, here)]
    if difference := digest.difference(*without_head):
        raise BadInput(f"init_from={workdir} holds {difference}; use that run's model fields")


def initialize_from(workdir: Path, state: TrainState, spec: Spec, classes: tuple[str, ...] = ()) -> TrainState:
    """`state` with the parameters and batch statistics of another run's latest checkpoint, and nothing else of it.

    `workdir` may also be a file of weights, or a folder of another library (`resjax.weights.source`); they must be
    of the network `spec`. Where the weights are for another number of classes, or for classes of other names than
    `classes` as far as both are known, the head keeps its fresh start, and stderr says so.

    Raises:
      BadInput: if there is no checkpoint, or it is damaged.
    """
    if source.is_weights(workdir):
        found = source.for_network(workdir, spec)
    else:
        with closing(Checkpoints(workdir)) as checkpoints:
            found = scan.unroll(checkpoints.weights(_latest(checkpoints, workdir)))
    own = {part: getattr(state, part) for part in digest.WEIGHTS}
    head = own["params"]["head"]
    theirs = _classes(workdir) if classes else ()
    other = next((f", such as {a}, not {b}" for a, b in zip(theirs, classes, strict=False) if a != b), "")
    if other or found["params"]["head"]["kernel"].shape != head["kernel"].shape:
        if jax.process_index() == 0:
            what = paths.one_line(
                f"init_from={workdir}: its head is for other classes{other}; the head starts fresh"
            )
            print(what, file=sys.stderr)
        found["params"]["head"] = head
    found = scan.roll(found) if digest.is_rolled(digest.structure(own)) else found
    placed = jax.tree.map(lambda x, like: x if x is like else sharding.put(x, like.sharding), found, own)
    average = ema.start(**placed) if state.ema is not None else None
    return state.replace(**placed, ema=average)


def normalizes_otherwise(workdir: Path, own: Preprocessing) -> bool:
    """Whether the weights were trained on pixels with another mean or deviation than `own`, as far as is known."""
    there = _preprocessing(workdir)
    if there is None:
        return False
    same = there.mean.shape == own.mean.shape and np.allclose(there.mean, own.mean, rtol=1e-3)
    return not (same and np.allclose(there.std, own.std, rtol=1e-3))


def _classes(workdir: Path) -> tuple[str, ...]:
    there = _preprocessing(workdir)
    return there.class_names if there else ()


def _preprocessing(workdir: Path) -> Preprocessing | None:
    """What the weights were trained with, as far as is known."""
    if source.is_weights(workdir):
        return source.open(workdir).preprocessing
    with closing(Checkpoints(workdir)) as checkpoints:
        saved = checkpoints.meta(_latest(checkpoints, workdir)).get("preprocessing")
    return Preprocessing.from_json(saved) if saved else None


def _latest(checkpoints: Checkpoints, workdir: Path) -> int:
    if steps := checkpoints.steps():
        return steps[0]
    raise BadInput(f"init_from={workdir}: holds no checkpoint; give the workdir of a run, or a file of weights")
