"""The digest of a state: a short text that differs as soon as one bit does, wherever the arrays lie.

An element with the bits w at the flat index i of its leaf counts as output i of SplitMix64 (Steele et al. 2014)
seeded with w; a leaf counts as the sum of its elements modulo 2^64. So shards, devices and processes can each add
up what they hold, in any order. The digest is SHA-256 over the name, type, shape and sum of every leaf.
A scanned stage counts as its units one by one: both forms of a network have the same digest.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from resjax.models import scan

FORM = "v2:"  # what digests of this form begin with; those of resjax 0.1.0 are bare SHA-256
WEIGHTS = ("params", "batch_stats")  # the parts of a state that a network is
CHUNK = 2**14  # elements that are mixed at a time: two such arrays of 64 bits stay in the cache


class Leaf(NamedTuple):
    """One leaf of a state, and host copies of the shards that this process counts."""

    name: str  # such as params/stage1/unit0/conv1/kernel
    dtype: str
    shape: tuple[int, ...]
    shards: list[tuple[tuple[int, ...], np.ndarray]]  # where a shard starts in the leaf, and its elements


Sums = dict[tuple[str, str, tuple[int, ...]], int]  # name, type and shape -> sum modulo 2^64
Structure = dict[str, tuple[tuple[int, ...], str]]  # name -> shape and type


def of(tree: Any) -> str:
    """The digest of a tree of arrays, each in one piece or sharded over the devices of this process."""
    return text(sums(leaves(tree)))


def leaves(tree: Any) -> list[Leaf]:
    """Every leaf with host copies of the shards that this process counts: the first replica of each."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name, dtype, shards = name_of(path), _dtype(leaf), None
        if dtype.startswith("key<"):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array):
            shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
            for shard in shards:
                shard.data.copy_to_host_async()
        found.append((name, dtype, leaf, shards))

    def copied(leaf: Any, shards: Any) -> list[tuple[tuple[int, ...], np.ndarray]]:
        # np.array, not np.asarray: on a CPU that would be a view of a buffer that the next step may overwrite.
        if shards is None:
            return [((0,) * np.ndim(leaf), np.array(leaf))]
        return [(tuple(part.start or 0 for part in shard.index), np.array(shard.data)) for shard in shards]

    return [Leaf(name, dtype, np.shape(leaf), copied(leaf, shards)) for name, dtype, leaf, shards in found]


def sums(leaves: Iterable[Leaf]) -> Sums:
    """The sum of every leaf over the shards given. The sums of several processes add up modulo 2^64."""
    found: Sums = {}
    for leaf in (unit for stacked in leaves for unit in _units(stacked)):
        total = sum(_sum(data, start, leaf.shape) for start, data in leaf.shards)
        found[leaf.name, leaf.dtype, leaf.shape] = total % 2**64
    return found


def text(sums: Sums) -> str:
    """The digest of a state with these sums."""
    rows = [[*leaf, f"{value:016x}"] for leaf, value in sorted(sums.items())]
    return FORM + hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def add(parts: Iterable[Sums]) -> Sums:
    """The sums of several processes, each of its own shards, as those of all."""
    first, *rest = parts
    return {leaf: (value + sum(part[leaf] for part in rest)) % 2**64 for leaf, value in first.items()}


def matches(tree: Any, digest: str) -> bool:
    """Whether `tree` has this digest, in this form or in that of 0.1.0."""
    return digest == (of(tree) if digest.startswith(FORM) else of_0_1_0(tree))


def of_0_1_0(tree: Any) -> str:
    """The digest that resjax 0.1.0 stored: SHA-256 of every name, shape, type and byte, unrolled."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    leaves = jax.tree_util.tree_leaves_with_path(scan.unroll(jax.device_get(tree)))
    sha = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
        sha.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).data)
    return sha.hexdigest()


def structure(tree: Any) -> Structure:
    """Name -> shape and type of every leaf of a tree of arrays or of their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name_of(path): (tuple(np.shape(leaf)), _dtype(leaf)) for path, leaf in leaves}


def of_structure(structure: Structure) -> str:
    """A text that differs as soon as two structures do."""
    return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()


def difference(there: Structure, here: Structure) -> str | None:
    """The first leaf in which two structures differ, as part of a sentence."""
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            what = "another network" if name.partition("/")[0] in WEIGHTS else "another state"
            one, other = (" ".join(map(str, side.get(name, ["missing"]))) for side in (there, here))
            return f"{what}: {name} is {one} there and {other} here"
    return None


def is_rolled(structure: Structure) -> bool:
    """Whether a structure is that of a scanned network."""
    return any("/units/" in name for name in structure)


def name_of(path: Any) -> str:
    """The keys of a leaf as one name, the same for attributes, dicts and sequences."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _dtype(leaf: Any) -> str:
    return str(leaf.dtype) if hasattr(leaf, "dtype") else str(np.asarray(leaf).dtype)


def _units(leaf: Leaf) -> Iterator[Leaf]:
    """A leaf of a scanned stage as the leaves of its units; any other leaf as it is."""
    before, units, after = leaf.name.partition("/units/")
    if not units:
        yield leaf
        return
    for i in range(leaf.shape[0]):
        shards = [(start[1:], data[i - start[0]]) for start, data in leaf.shards if 0 <= i - start[0] < len(data)]
        yield Leaf(f"{before}/unit{i + 1}/{after}", leaf.dtype, leaf.shape[1:], shards)


def _sum(data: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """What the elements of one shard, which begins at `start` of a leaf of `shape`, add to the sum of the leaf."""
    words = np.ascontiguousarray(data).reshape(-1).view(f"u{data.dtype.itemsize}")
    whole_rows = data.shape[1:] == shape[1:]  # then the shard is one stretch of the leaf
    first = start[0] * math.prod(shape[1:]) if start else 0
    total, mixed, shifted = 0, np.empty(CHUNK, np.uint64), np.empty(CHUNK, np.uint64)
    for at in range(0, len(words), CHUNK):
        chunk = words[at : at + CHUNK]
        index = np.arange(at, at + len(chunk), dtype=np.int64)
        if whole_rows:
            index += first
        else:
            within = np.unravel_index(index, data.shape)
            index = np.ravel_multi_index(tuple(i + s for i, s in zip(within, start, strict=True)), shape)
        z, shift = mixed[: len(chunk)], shifted[: len(chunk)]
        np.multiply(index.astype(np.uint64) + np.uint64(1), np.uint64(0x9E3779B97F4A7C15), out=z)
        z += chunk
        for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            np.right_shift(z, np.uint64(bits), out=shift)
            z ^= shift
            z *= np.uint64(factor)
        np.right_shift(z, np.uint64(31), out=shift)
        z ^= shift
        total += int(z.sum(dtype=np.uint64))
    return total
