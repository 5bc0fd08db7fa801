"""The pickled dictionaries of arrays that data sets are published as, read without running them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from resjax import pickles


def read(data: bytes) -> dict[Any, Any]:
    """The pickled dictionary: by name, arrays of bytes, byte strings, whole numbers and lists of the two.

    Reads what Python 2 wrote (its strings are bytes) and what Python 3 writes, up to protocol 4.

    Raises:
        Exception: of many kinds, if the pickle is damaged or asks for anything else.
    """
    found = {}
    for key, item in pickles.of(dict, pickles.follow(data, _KNOWN, _build)).items():
        item = item.array if isinstance(item, _Stub) else item
        several = item if isinstance(item, list) else []
        if type(key) not in (bytes, str) or not isinstance(item, np.ndarray | bytes | int | list):
            raise ValueError(f"it holds a {type(item).__name__}")
        for one in several:
            if not isinstance(one, bytes | int):
                raise ValueError(f"it holds a list with a {type(one).__name__}")
        found[key] = item
    return found


class _Stub:
    """What a pickled NumPy array or type becomes; NumPy itself is never called."""

    array: np.ndarray | None = None


def _array(*_: Any) -> _Stub:
    return _Stub()


def _type(kind: Any, *_: Any) -> _Stub:
    if kind not in ("u1", b"u1"):
        raise ValueError(f"an array of {pickles.said(kind)}, not of bytes")
    return _Stub()


def _text(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"byte strings in {pickles.said(encoding)}")
    return pickles.of(str, text).encode("latin1")


# The names that published batches ask for, and what is done for them.
_KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray _reconstruct": _array,
    "numpy._core.multiarray _reconstruct": _array,
    "numpy ndarray": _array,
    "numpy dtype": _type,
    "_codecs encode": _text,  # how Python 3 writes byte strings in protocol 2
}


def _build(stub: Any, state: Any) -> None:
    """Gives an array its bytes; a type has nothing to be given that `_type` has not checked."""
    stub = pickles.of(_Stub, stub)
    if len(state) == 5:  # version, shape, type, order, bytes
        _, shape, kind, by_columns, content = state
        pickles.of(_Stub, kind)
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array whose shape is not of whole numbers")
        flat = np.frombuffer(pickles.of(bytes, content), np.uint8)
        stub.array = flat.reshape(shape, order="F" if by_columns else "C")
