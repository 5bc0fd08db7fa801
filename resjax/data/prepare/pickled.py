"""Pickles that are read and never run.

An unpickler calls what a file names, and NumPy's own `__setstate__` believes whatever memory layout a file claims.
Here the instructions are followed on a stack of plain values, and only those that such values need.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np


def read(data: bytes) -> dict[Any, Any]:
    """The pickled dictionary: by name, arrays of bytes, byte strings, whole numbers and lists of the two.

    Reads what Python 2 wrote (its strings are bytes) and what Python 3 writes, up to protocol 4.

    Raises:
        Exception: of many kinds, if the pickle is damaged or asks for anything else.
    """
    found = {}
    for key, item in _of(dict, _follow(data)).items():
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


# The names that published batches ask for, and what is done for them.
_GLOBALS = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "kind",
    "numpy dtype": "type",
    "_codecs encode": "text",  # how Python 3 writes byte strings in protocol 2
}


def _follow(data: bytes) -> Any:
    """The value that a pickle's instructions build on their stack."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    def pairs(items: list[Any]) -> dict[Any, Any]:
        return dict(zip(items[::2], items[1::2], strict=True))

    arg: Any
    for code, arg, _ in pickletools.genops(data):
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                [value] = stack
                return value
            case "BININT" | "BININT1" | "BININT2" | "INT" | "LONG" | "LONG1" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(arg)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "UNICODE":
                stack.append(arg)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # Python 2's, which are bytes
                stack.append(arg.encode("latin1"))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(code.name))
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"T": (), "L": [], "D": {}}[code.name[6]])
            case "TUPLE" | "LIST" | "DICT":
                items = since_mark()
                stack.append(
                    pairs(items) if code.name == "DICT" else items if code.name == "LIST" else tuple(items)
                )
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-int(code.name[-1]) :] = [tuple(stack[-int(code.name[-1]) :])]
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if code.name == "APPEND" else since_mark()
                _of(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if code.name == "SETITEM" else since_mark()
                _of(dict, stack[-1]).update(pairs(items))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL" | "STACK_GLOBAL":
                name = arg if code.name == "GLOBAL" else " ".join([stack.pop(), stack.pop()][::-1])
                if name not in _GLOBALS:
                    raise ValueError(f"it asks for {name.replace(' ', '.')}")
                stack.append(_Global(_GLOBALS[name]))
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(_call(_of(_Global, function), args))
            case "BUILD":
                state = stack.pop()
                _build(_of(_Stub, stack[-1]), state)
            case _:
                raise ValueError(f"it asks for {code.name}")
    raise ValueError("it has no end")


@dataclass(frozen=True)
class _Global:
    """A name that a pickle asks for, by what is done for it: a value of `_GLOBALS`."""

    what: str


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _call(function: _Global, args: Any) -> Any:
    if function.what == "text":
        text, encoding = args
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"byte strings in {encoding!r}")
        return text.encode("latin1")
    if function.what == "type" and args[0] not in ("u1", b"u1"):
        raise ValueError(f"an array of {args[0]!r}, not of bytes")
    return _Stub()


def _build(stub: _Stub, state: Any) -> None:
    """Gives an array its bytes; a type has nothing to be given that `_call` has not checked."""
    if len(state) == 5:  # version, shape, type, order, bytes
        _, shape, kind, by_columns, content = state
        _of(_Stub, kind)
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"an array of shape {shape!r}")
        flat = np.frombuffer(_of(bytes, content), np.uint8)
        stub.array = flat.reshape(shape, order="F" if by_columns else "C")
