"""A state on disk, in Orbax's layout, written in one go.

Orbax opens and writes every array by itself, in a coroutine of its own: 0.1 s of Python for a state of 150 small
arrays, in which the training step lacks a core and waits for the interpreter. Here all of them are one transaction.
What lies on disk is the same to every reader of Orbax: an OCDBT database [1] of Zarr arrays [2] with one chunk for
each shard, the shape of the tree, and the shardings. Reading is Orbax's own.

[1] https://google.github.io/tensorstore/kvstore/ocdbt
[2] https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

import base64
import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore

from resjax.train import digest

FILE_BYTES = 2**31  # after so many the arrays go on in another file
SEQUENCES = (jax.tree_util.SequenceKey, jax.tree_util.FlattenedIndexKey)
EMPTY: dict[Any, str] = {dict: "Dict", list: "List", tuple: "Tuple"}  # any other node without children is "None"


class StateHandler(ocp.StandardCheckpointHandler):
    """Orbax's own handler for trees of arrays, except that it writes them as this module says."""

    def __init__(self) -> None:
        super().__init__()
        # What a checkpoint says that it was written by: there, Orbax finds its own reader.
        self.typestr = ocp.StandardCheckpointHandler.typestr

    async def async_save(
        self, directory: Any, item: Any = None, save_args: Any = None, args: Any = None
    ) -> list[Any]:
        async def write() -> None:
            leaves, tree = jax.tree.flatten(args.abstract)
            _write(Path(directory), _layout(tuple(leaves), tree), args.leaves)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="state")]


@ocp.args.register_with_handler(StateHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class StateSave(ocp.args.CheckpointArgs):
    """What to store of a state.

    Attributes:
      abstract: its shapes, types and shardings.
      leaves: `digest.leaves` of it.
    """

    abstract: Any
    leaves: Iterable[digest.Leaf]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What one state has in common with the next.

    Attributes:
      tree: the file `_METADATA`.
      shardings: the file `_sharding`, for those who restore without saying onto which devices.
      chunks: the file `array_metadatas/process_N`, which Orbax compares between processes.
      arrays: of every array its name, its Zarr metadata and the shape of its chunks.
    """

    tree: str
    shardings: str
    chunks: str
    arrays: tuple[tuple[str, bytes, tuple[int, ...]], ...]


@functools.lru_cache(maxsize=1)
def _layout(leaves: tuple[jax.ShapeDtypeStruct, ...], tree: jax.tree_util.PyTreeDef) -> _Layout:
    nodes, shardings, chunks, arrays = {}, {}, [], []
    for path, node in jax.tree_util.tree_leaves_with_path(tree.unflatten(leaves), is_leaf=_has_no_children):
        keys = ocp.tree.str_keypath(path)
        value: dict[str, Any] = {"value_type": EMPTY.get(type(node), "None"), "skip_deserialize": True}
        if isinstance(node, jax.ShapeDtypeStruct):
            name, chunk = ".".join(keys), node.sharding.shard_shape(node.shape)
            value = {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": chunk}
            shapes = {"param_name": name, "write_shape": chunk, "chunk_shape": chunk, "ext_metadata": None}
            chunks.append({"array_metadata": shapes})
            shardings[base64.urlsafe_b64encode(name.encode()).decode()] = _sharding(node.sharding)
            arrays.append((name, json.dumps(_zarr(node, chunk)).encode(), chunk))
        nodes[str(keys)] = {
            "key_metadata": [
                {"key": key, "key_type": 1 if isinstance(step, SEQUENCES) else 2}
                for key, step in zip(keys, path, strict=True)
            ],
            "value_metadata": value,
        }
    metadata = {
        "tree_metadata": nodes,
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    return _Layout(
        json.dumps(metadata), json.dumps(shardings), json.dumps({"array_metadatas": chunks}), tuple(arrays)
    )


def _has_no_children(node: Any) -> bool:
    level = jax.tree_util.default_registry.flatten_one_level(node)
    return level is None or not list(level[0])


@functools.lru_cache
def _sharding(sharding: jax.sharding.Sharding) -> str:
    named = isinstance(sharding, jax.sharding.NamedSharding)
    kind = ocp.metadata.NamedShardingMetadata if named else ocp.metadata.SingleDeviceShardingMetadata
    return kind.from_jax_sharding(sharding).to_serialized_string()


def _zarr(array: jax.ShapeDtypeStruct, chunk: tuple[int, ...]) -> dict[str, Any]:
    dtype = jnp.dtype(array.dtype)
    return {
        "zarr_format": 2,
        "shape": array.shape,
        "chunks": chunk,
        "dtype": dtype.str if dtype.isbuiltin == 1 else dtype.name,  # bfloat16 is not of numpy
        "compressor": None,  # the floats of a network hardly shrink
        "fill_value": None,
        "order": "C",
        "filters": None,
        "dimension_separator": ".",
    }


def _write(folder: Path, layout: _Layout, leaves: Iterable[digest.Leaf]) -> None:
    """Writes what this process counts of a state, and the first process what is said of it."""
    process, alone = jax.process_index(), jax.process_count() == 1
    (folder / "array_metadatas").mkdir(exist_ok=True)
    (folder / "array_metadatas" / f"process_{process}").write_text(layout.chunks)
    if process == 0:
        (folder / "_METADATA").write_text(layout.tree)
        (folder / "_sharding").write_text(layout.shardings)
    # Processes write side by side; once all are done, Orbax merges what they wrote.
    files = {"driver": "file", "path": f"{folder}/" if alone else f"{folder}/ocdbt.process_{process}/"}
    database = {
        "driver": "ocdbt",
        "base": {**files, "file_io_locking": {"mode": "non_atomic"}},  # each file once, and by nobody else
        "manifest": files,
        "config": {"manifest_kind": "single", "max_inline_value_bytes": 1024, "max_decoded_node_bytes": 10**8},
        "assume_config": True,  # without the manifest of an empty database first
        "target_data_file_size": FILE_BYTES,
    }
    transaction = tensorstore.Transaction(atomic=True)
    values = tensorstore.KvStore.open(database).result().with_transaction(transaction)
    for (name, metadata, chunk), leaf in zip(layout.arrays, leaves, strict=True):
        if process == 0:
            values[f"{name}/.zarray"] = metadata
        for start, data in leaf.shards:
            index = ".".join(str(at // size) for at, size in zip(start, chunk, strict=True))
            values[f"{name}/{index or 0}"] = data.tobytes()
    transaction.commit_sync()
