"""Pickles that are read and never run.

An unpickler calls what a file names, and NumPy's own `__setstate__` believes whatever memory layout a file claims.
Here the instructions are followed on a stack of plain values, and only those that such values need.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Named:
    """A name that a pickle asks for, which `follow` knows: `call` is done in its place, never what it names."""

    name: str
    call: Callable[..., Any]


def follow(
    data: bytes,
    known: Mapping[str, Callable[..., Any]],
    build: Callable[[Any, Any], None],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value that a pickle's instructions build on their stack, up to protocol 4; strings of Python 2 are bytes.

    Args:
        known: name, such as `numpy dtype` -> what is done where the pickle calls it.
        build: takes a value and the state that the pickle gives it.
        persistent: an identifier -> the value that lies outside of the pickle; None: there are none.

    Raises:
        Exception: of many kinds, if the pickle is damaged or asks for anything else.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    def pairs(items: list[Any]) -> dict[Any, Any]:
        # Tuples of tuples of themselves would take forever to hash.
        for key in items[::2]:
            if type(key) not in (str, bytes, int):
                raise ValueError(f"a {type(key).__name__} as the key of a dictionary")
        return dict(zip(items[::2], items[1::2], strict=True))

    arg: Any
    for code, arg, _ in pickletools.genops(data):
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                [value] = stack
                return value
            case "BININT" | "BININT1" | "BININT2" | "INT" | "LONG" | "LONG1" | "BINFLOAT":
                stack.append(arg)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "UNICODE" | "BINBYTES" | "SHORT_BINBYTES":
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
                of(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if code.name == "SETITEM" else since_mark()
                of(dict, stack[-1]).update(pairs(items))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL" | "STACK_GLOBAL":
                name = arg if code.name == "GLOBAL" else " ".join([stack.pop(), stack.pop()][::-1])
                if name not in known:
                    raise ValueError(f"it asks for {name.replace(' ', '.')}")
                stack.append(Named(name, known[name]))
            case "BINPERSID" if persistent:
                stack.append(persistent(stack.pop()))
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(of(Named, function).call(*of(tuple, args)))
            case "BUILD":
                state = stack.pop()
                build(stack[-1], state)
            case _:
                raise ValueError(f"it asks for {code.name}")
    raise ValueError("it has no end")


def of(kind: type, value: Any) -> Any:
    """The value, if it is of this very type; raises ValueError for any other."""
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def said(value: Any) -> str:
    """A value for a message; not a structure, which may hold itself many times over."""
    return repr(value)[:80] if type(value) in (str, bytes, int, float, bool) else f"a {type(value).__name__}"
