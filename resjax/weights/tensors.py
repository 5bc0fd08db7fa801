"""Safetensors: named arrays in a file that runs nothing. All that a header claims is checked before it is used.

8 bytes   N, little-endian
N bytes   JSON: name -> {dtype, shape, data_offsets: [begin, end]}; __metadata__: text -> text
the rest  the arrays, little-endian, without gaps
"""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from resjax import files, paths
from resjax.errors import BadInput

Tensors = Mapping[str, np.ndarray]

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
LARGEST_HEADER = 10**7  # bytes; a network of a thousand layers needs a tenth
MOST_AXES = 8
METADATA = "__metadata__"


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, mapped and not yet read, and its metadata.

    Raises:
        BadInput: if the file is not in this format, or does not hold what its header claims.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"it ends within its header, which would take {length:,} bytes")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header takes {length:,} bytes, more than {LARGEST_HEADER:,}")
            header = json.loads(file.read(length).decode(), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("its header is not a dictionary")
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError(f"its {METADATA} is not text by name")
        entries = {name: _entry(name, entry) for name, entry in header.items()}
        _check_tiled(entries, size - 8 - length)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not a sound safetensors file ({error}): get it again") from error
    if not entries:
        return {}, metadata
    start = 8 + length
    data = np.memmap(path, np.uint8, "r", start, size - start) if size > start else np.zeros(0, np.uint8)
    return {
        name: data[begin:end].view(dtype).reshape(shape) for name, (dtype, shape, begin, end) in entries.items()
    }, metadata


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Writes the arrays in the order of their names; the same arrays always give the same bytes.

    Raises:
        OSError: for example on a full disk; the file is then as it was.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, array in sorted(tensors.items()):
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": codes[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    arrays = (np.ascontiguousarray(array).tobytes() for _, array in sorted(tensors.items()))
    files.replace(path, b"".join([len(text).to_bytes(8, "little"), text, *arrays]))


Entry = tuple[np.dtype, tuple[int, ...], int, int]  # type, shape, where it begins and ends


def _entry(name: str, entry: Any) -> Entry:
    """What the header says of an array, if it agrees with itself."""
    shown = paths.short(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown} is not given as dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{shown} is of type {paths.short(str(code))}, which is not read here")
    if not _counts(shape) or len(shape) > MOST_AXES:
        raise ValueError(f"the shape of {shown} is not of whole numbers, or of more than {MOST_AXES}")
    if not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"the data_offsets of {shown} are not two whole numbers")
    (begin, end), dtype = offsets, DTYPES[code]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{shown} is of shape {shape} and type {code}, but has {end - begin} bytes")
    return dtype, tuple(shape), begin, end


def _check_tiled(entries: Mapping[str, Entry], size: int) -> None:
    """Raises ValueError unless the arrays cover `size` bytes, each byte once."""
    spans = sorted((begin, end) for _, _, begin, end in entries.values())
    for (_, end), (begin, _) in pairwise([(0, 0), *spans, (size, size)]):
        if begin != end:
            raise ValueError(f"{begin - end} bytes lie between two arrays" if begin > end else "arrays overlap")


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**63 for n in values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of JSON, if no name comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found
