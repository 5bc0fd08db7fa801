"""One step on one device, on eight, and with the state split over a mesh: the same numbers."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from resjax import experiment
from resjax.checks import mesh_shape
from resjax.cli import load
from resjax.errors import BadInput
from resjax.train import sharding

BASE = (
    "--config=configs/digits.py",
    "--config.model.units=1,1",
    "--config.model.widths=16,32",
    "--config.batch_size=64",
    "--config.optimizer.learning_rate=0.01",
    "--config.schedule.warmup=none",
)
BLANK = {"image": np.zeros((64, 8, 8, 1), np.uint8), "label": np.zeros(64, np.int32)}
SEED = np.uint32(0)
ONE, EIGHT, FSDP = ("mesh.data=1",), ("mesh.data=8",), ("mesh.data=2", "mesh.fsdp=4")


def program(*changes):
    config = load([*BASE, "--config.data.placement=host", *(f"--config.{change}" for change in changes)])
    run = experiment.open(config)
    return run.program, run


def losses(steps, *changes):
    """The losses of the first steps on the digits."""
    own, run = program(*changes)
    state, found = own.init(SEED), []
    batches = run.batches()
    for _ in range(steps):
        state, metrics = own.train_step(state, own.take(batches), SEED)
        found.append(float(metrics["loss"][0]))
    batches.close()
    return np.array(found), state


@pytest.fixture(scope="module")
def single():
    return losses(10, *ONE)


@pytest.mark.parametrize("mesh", [EIGHT, FSDP, ("mesh.data=1", "mesh.fsdp=8")], ids=" ".join)
def test_ten_losses_agree(single, mesh):
    found, state = losses(10, *mesh)
    np.testing.assert_allclose(found, single[0], rtol=0, atol=1e-5)
    assert found[-1] < found[0]
    assert len(state.params["head"]["kernel"].sharding.device_set) == 8


@pytest.mark.parametrize(
    "changes", [("model.bn_group=8",), ("model.bn_group=16", "optimizer.accumulate=2")], ids=" ".join
)
def test_bn_groups_agree(single, changes):
    """Groups of images give the same numbers wherever the images are, and other numbers than the whole batch."""
    one, eight = (losses(5, *mesh, *changes)[0] for mesh in (ONE, EIGHT))
    np.testing.assert_allclose(one, eight, rtol=0, atol=1e-5)
    assert abs(one - single[0][:5]).max() > 1e-3


def test_slices_are_crossed_by_the_data_axis_alone(monkeypatch):
    """Two TPU slices of four chips, whose numbers come mixed: the network between them carries the data axis."""

    class Chip:
        platform, device_kind, process_index, core_on_chip = "tpu", "a kind that JAX has no rule for", 0, 0

        def __init__(self, id, slice_index):
            self.id, self.slice_index = id, slice_index
            self.coords = (id // 2 % 2, id // 4, 0)

    chips = [Chip(i, i % 2) for i in range(8)]
    monkeypatch.setattr(jax, "devices", lambda: chips)
    monkeypatch.setattr(sharding, "Mesh", lambda grid, axes, axis_types: grid)
    grid = sharding.make_mesh(4, 2)
    assert grid.shape == (4, 2)
    assert [{chip.slice_index for chip in row} for row in grid] == [{0}, {0}, {1}, {1}]
    with pytest.raises(BadInput, match=r"mesh\.data=1: must be a multiple of the 2 slices"):
        sharding.make_mesh(1, 8)


def test_state_is_born_sharded_and_stays_so():
    own, _ = program(*FSDP)
    state = own.init(SEED)
    after, _ = own.train_step(own.init(SEED), own.take(iter([BLANK])), SEED)
    for tree in (state, after):
        assert jax.tree.map(lambda x: x.sharding, tree) == jax.tree.map(lambda a: a.sharding, own.abstract)
        for part in (tree.params, tree.opt_state):
            split = [leaf for leaf in jax.tree.leaves(part) if not leaf.sharding.is_fully_replicated]
            assert split
            for leaf in split:
                assert "fsdp" in leaf.sharding.spec
                assert leaf.addressable_shards[0].data.size * 4 == leaf.size

    def on_one_device(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert on_one_device(state) < 0.5 * whole  # a quarter of the large leaves, and the small ones
    assert on_one_device(program(*EIGHT)[0].init(SEED)) == whole


def test_momentum_is_split_as_its_parameter():
    own, _ = program(*FSDP)
    state = own.abstract
    [momentum] = [part.trace for part in state.opt_state if hasattr(part, "trace")]
    assert jax.tree.map(lambda x: x.sharding, momentum) == jax.tree.map(lambda x: x.sharding, state.params)


def test_state_is_donated():
    own, _ = program(*ONE)
    state = own.init(SEED)
    own.train_step(state, own.take(iter([BLANK])), SEED)
    leaves = jax.tree.leaves((state.params, state.opt_state, state.batch_stats))
    assert all(leaf.is_deleted() for leaf in leaves)


def test_batch_lies_over_all_devices():
    for mesh in (EIGHT, FSDP):
        own, _ = program(*mesh)
        placed = own.place(BLANK)
        for x in placed.values():
            assert [shard.data.shape[0] for shard in x.addressable_shards] == [8] * 8


def test_rule():
    """The largest axis that fsdp divides; small leaves and those without such an axis are whole."""
    mesh = sharding.make_mesh(2, 4)
    shapes = {
        "out": (3, 3, 16, 32),
        "in": (3, 3, 64, 32),
        "dense": (4096, 10),
        "odd": (999, 1001),
        "small": (8, 8),
        "step": (),
    }
    found = sharding.state_shardings(mesh, {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in shapes.items()})
    assert {name: s.spec for name, s in found.items()} == {
        "out": PartitionSpec(None, None, None, "fsdp"),
        "in": PartitionSpec(None, None, "fsdp"),
        "dense": PartitionSpec("fsdp"),
        "odd": PartitionSpec(),
        "small": PartitionSpec(),
        "step": PartitionSpec(),
    }
    whole = sharding.state_shardings(sharding.make_mesh(8, 1), {"in": jax.ShapeDtypeStruct((64, 64), np.float32)})
    assert whole["in"].is_fully_replicated


@pytest.mark.parametrize(
    ("data", "fsdp", "devices", "expected"),
    [
        (-1, 1, 8, (8, 1)),
        (-1, 4, 8, (2, 4)),
        (2, -1, 8, (2, 4)),
        (1, 1, 8, (1, 1)),
        (-1, 3, 8, (2, 3)),
        (-1, 1, 1, (1, 1)),
    ],
)
def test_mesh_shape(data, fsdp, devices, expected):
    config = load([*BASE, f"--config.mesh.data={data}", f"--config.mesh.fsdp={fsdp}"])
    assert mesh_shape(config, devices) == expected


@pytest.mark.parametrize(("data", "fsdp"), [(-1, -1), (0, 1), (1, 0), (-2, 1), (4, 4), (-1, 16)])
def test_bad_mesh(data, fsdp):
    config = load([*BASE, f"--config.mesh.data={data}", f"--config.mesh.fsdp={fsdp}"])
    with pytest.raises(BadInput, match=r"mesh\."):
        mesh_shape(config, 8)
