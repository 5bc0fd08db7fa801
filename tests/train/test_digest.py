"""The digest: what it sees, and that shards, devices and processes can each compute their part of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resjax.models import scan
from resjax.train import digest

TYPES = ("bool", "int8", "uint8", "int16", "float16", "bfloat16", "int32", "float32", "uint64", "float64")


def example(dtype, shape=(6, 4, 8)):
    return np.random.default_rng(0).integers(0, 2, shape).astype(jnp.dtype(dtype))


def split_mix(seed, n):
    """The first n outputs of SplitMix64 in Python's integers."""
    mask, outputs = 2**64 - 1, []
    for i in range(1, n + 1):
        z = (seed + i * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        outputs.append(z ^ (z >> 31))
    return outputs


def test_the_form_stays():
    """A digest that is stored must be found again by every later version."""
    assert split_mix(1234567, 2) == [6457827717110365317, 3203168211198807973]  # as published
    values = np.array([7, 0, 2**32 - 1], np.uint32)
    expected = sum(split_mix(int(value), 3)[i] for i, value in enumerate(values)) % 2**64
    assert digest.sums(digest.leaves({"a": values})) == {("a", "uint32", (3,)): expected}
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.int32(3)}}
    assert digest.of(tree) == "v2:285ca48bd108db55ec5e51da41e48180009f93d5c085437d49b1462c3e0400b1"


@pytest.mark.parametrize("dtype", TYPES)
def test_every_bit_counts(dtype):
    """Of elements before, on and after the border between two chunks."""
    values = example(dtype, (digest.CHUNK + 5,))
    whole = digest.of([values])
    for at in (0, 1, digest.CHUNK - 1, digest.CHUNK, len(values) - 1):
        for bit in range(8):
            changed = values.copy()
            if dtype == "bool":
                changed[at] = not changed[at]
            else:
                changed[at : at + 1].view(np.uint8)[-1] ^= 1 << bit
            assert digest.of([changed]) != whole


def test_names_types_shapes_and_places_count():
    values = np.arange(12, dtype=np.int32).reshape(3, 4)
    swapped = values.copy()
    swapped[0, [1, 2]] = values[0, [2, 1]]
    others = [{"b": values}, {"a": values.view("uint32")}, {"a": values.reshape(4, 3)}, {"a": swapped}]
    others += [{"a": values[::-1]}, {"a": values, "b": np.zeros(0)}, {"a": values.T.reshape(3, 4)}]
    found = {digest.of(tree) for tree in [{"a": values}, *others]}
    assert len(found) == 1 + len(others)
    assert digest.of({"a": values.T.copy().T}) == digest.of({"a": values})  # strides do not
    assert digest.of({"a": jax.random.key(0)}) not in (
        digest.of({"a": jax.random.key(1)}),
        digest.of({"a": jax.random.key_data(jax.random.key(0))}),
    )


def layouts():
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("x", "y"))
    specs = [(), ("x",), (None, "y"), (None, None, "y"), ("x", None, "y"), (None, "x", "y"), (("x", "y"),)]
    return {str(spec): NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs}


@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float32"])
@pytest.mark.parametrize("layout", layouts())
def test_the_layout_does_not_count(layout, dtype):
    values = example(dtype, (16, 4, 8))
    assert digest.of([jax.device_put(values, layouts()[layout])]) == digest.of([values])


def test_processes_add_up_their_parts():
    """Each one sums the shards that it has; none has all."""
    tree = {"a": example("float32", (16, 4, 8)), "stage": {"units": {"b": example("float32", (4, 8))}}}
    specs = {"a": layouts()["('x', None, 'y')"], "stage": {"units": {"b": layouts()["(None, 'y')"]}}}
    leaves = digest.leaves(jax.device_put(tree, specs))
    assert {len(leaf.shards) for leaf in leaves} == {8, 4}
    parts = [digest.sums(leaf._replace(shards=leaf.shards[i::3]) for leaf in leaves) for i in range(3)]
    total = {leaf: sum(part[leaf] for part in parts) % 2**64 for leaf in parts[0]}
    assert digest.text(total) == digest.of(tree)
    assert all(digest.text(part) != digest.of(tree) for part in parts)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scanned_as_unrolled(axis):
    rng = np.random.default_rng(0)
    stage = {f"unit{i}": {"conv": rng.normal(size=(4, 8)).astype("float32")} for i in range(5)}
    tree = {"params": {"stage1": stage}}
    rolled = scan.roll(tree)
    spec = PartitionSpec(*[None] * axis, "x")
    mesh = Mesh(np.asarray(jax.devices()[:4]), "x")
    sharded = rolled["params"]["stage1"]["units"]["conv"]
    rolled["params"]["stage1"]["units"]["conv"] = jax.device_put(sharded, NamedSharding(mesh, spec))
    assert digest.of(rolled) == digest.of(tree)
    stage["unit1"], stage["unit2"] = stage["unit2"], stage["unit1"]
    assert digest.of(rolled) != digest.of(tree)


def test_the_copy_outlives_a_donated_buffer():
    values = jax.device_put(example("float32", (1000, 1000)))
    expected = digest.of([values])
    leaves = digest.leaves([values])
    jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(values))
    assert values.is_deleted()
    assert digest.text(digest.sums(leaves)) == expected


def test_what_is_saved_is_a_copy():
    """On a CPU an array on the device is memory of the host."""
    values = jnp.zeros(100)
    [leaf] = digest.leaves([values])
    assert not np.shares_memory(leaf.shards[0][1], np.asarray(values))
