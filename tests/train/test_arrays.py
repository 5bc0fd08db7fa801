"""What is written in one go is what Orbax itself would have written, to every reader of Orbax."""

import json
import time
from contextlib import closing
from typing import Any

import flax.struct
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from resjax import experiment
from resjax.cli import load
from resjax.train import digest, orbax
from resjax.train.checkpoint import Checkpoints
from resjax.train.step import TrainState

NETWORK = (
    "--config=configs/digits.py",
    "--config.model.units=1,3",
    "--config.model.widths=16,32",
    "--config.batch_size=32",
)
STATES = {
    "1 device": ("--config.mesh.data=1",),
    "8 devices": ("--config.mesh.data=8", "--config.optimizer.accumulate=1"),
    "2 x 4": ("--config.mesh.data=2", "--config.mesh.fsdp=4"),
    "scanned, 1 x 8": ("--config.mesh.data=1", "--config.mesh.fsdp=8", "--config.model.scan=true"),
    "adamw": ("--config.mesh.data=1", "--config.optimizer.name=adamw"),
}


class Extended(TrainState):
    """Beside what a state holds: nothing, types that are not numpy's, and nodes without children."""

    absent: Any = None
    others: Any = flax.struct.field(default_factory=dict)


def states(name):
    abstract = experiment.open(load([*NETWORK, *STATES[name]])).program.abstract
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding), abstract)
    one = abstract.step.sharding
    types = ("bfloat16", "float16", "int8", "uint32", "bool")
    others = {name: jax.device_put(np.ones((2, 3)).astype(jax.numpy.dtype(name)), one) for name in types}
    others |= {"dict": {}, "list": [], "tuple": (), "sequence": [others["int8"]]}
    return Extended(
        jax.device_put(np.int32(7), one), state.params, state.batch_stats, state.opt_state, None, others
    )


@pytest.mark.parametrize("name", STATES)
def test_orbax_finds_what_it_would_have_written(tmp_path, name):
    state = states(name)
    with closing(Checkpoints(tmp_path / "run", keep=1)) as checkpoints:
        checkpoints.save(state, {"config": {}})
    ours, theirs = tmp_path / "run" / "checkpoints" / "7" / "state", tmp_path / "orbax"
    with closing(ocp.StandardCheckpointer()) as orbax_itself:
        orbax_itself.save(theirs, state)
        orbax_itself.wait_until_finished()
        # Shapes, types, shardings; how the shards of an array lie is ours to choose.
        one, other = (orbax_itself.metadata(folder).item_metadata.tree for folder in (ours, theirs))
        described = [jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree) for tree in (one, other)]
        assert described[0] == described[1]
        assert jax.tree.structure(one) == jax.tree.structure(other)
        restored = orbax_itself.restore(ours, jax.tree.map(ocp.tree.to_shape_dtype_struct, state))
        unasked = orbax_itself.restore(ours)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for found in (restored, unasked):
        assert digest.of(found) == digest.of(state)
        for array, saved in zip(
            jax.tree.leaves(found["params"] if found is unasked else found.params),
            jax.tree.leaves(state.params),
            strict=True,
        ):
            assert array.sharding == saved.sharding


def test_the_files_of_a_step(tmp_path):
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(states("2 x 4"), {"config": {}})
    step = tmp_path / "checkpoints" / "7"
    found = {str(path.relative_to(step)) for path in step.rglob("*") if path.is_file()}
    [data] = (step / "state" / "d").iterdir()
    assert found - {"commit_success.txt", "state/commit_success.txt", "meta/commit_success.txt"} == {
        "_CHECKPOINT_METADATA",
        "meta/metadata",
        "state/_METADATA",
        "state/_sharding",
        "state/array_metadatas/process_0",
        "state/manifest.ocdbt",
        f"state/d/{data.name}",
    }


def test_orbax_restores_the_state_of_a_step(tmp_path):
    """Without being told into what, and with the reader that the step itself names."""
    state = states("1 device")
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(state, {"config": {}})
    said = json.loads((tmp_path / "checkpoints" / "7" / "_CHECKPOINT_METADATA").read_text())
    assert said["item_handlers"]["state"] == ocp.StandardCheckpointHandler.typestr()
    with closing(ocp.CheckpointManager(tmp_path / "checkpoints")) as manager:
        found = manager.restore(7, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    assert digest.of(found["state"]) == digest.of(state)


class Waits:
    """Stands for the event that a pace waits for."""

    def __init__(self):
        self.seconds = []

    def is_set(self):
        return False

    def wait(self, seconds):
        self.seconds.append(seconds)


def work(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_save_rests_as_long_as_its_share_says(monkeypatch):
    pace = orbax.Pace()
    monkeypatch.setattr(pace, "_hurry", Waits())
    for _ in pace.over(range(4)):
        work(0.001)
    assert len(pace._hurry.seconds) == 4
    assert min(pace._hurry.seconds) >= 0.001 * (1 / orbax.SHARE - 1)


def test_where_steps_are_computed_elsewhere_a_save_does_not_rest(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert orbax.Pace()._hurry.is_set()


def test_a_save_that_is_waited_for_does_not_rest(tmp_path, monkeypatch):
    """By the next save, for its digest, and at the end; each would else rest for hours."""
    monkeypatch.setattr(orbax, "SHARE", 1e-12)
    monkeypatch.setattr(orbax, "AT_A_TIME", 0)
    state = states("1 device")
    with closing(Checkpoints(tmp_path, keep=3)) as checkpoints:
        checkpoints.save(state, {"config": {}})
        assert checkpoints.saving
        for step in (8, 9):
            checkpoints.save(state.replace(step=jax.numpy.int32(step)), {"config": {}})
        found = checkpoints.save(state.replace(step=jax.numpy.int32(9)), {"config": {}}).result(timeout=60)
        checkpoints.save(state.replace(step=jax.numpy.int32(10)), {"config": {}})
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.steps() == [10, 9, 8]
        assert checkpoints.meta(9)["digest"] == found
