"""What the devices of a compiled program send each other, read from its text."""

import math
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
BYTES = {"pred": 1, "bf16": 2, "f16": 2}  # of an element; of other types the digits at the end are its bits


class Collective(NamedTuple):
    """One kind of message.

    Attributes:
      kind: one of `KINDS`.
      group: devices that take part in one.
      apart: places from one of them to the next.
      size: bytes that one is about: what is reduced, the whole of what is gathered or scattered, what is sent.
    """

    kind: str
    group: int
    apart: int
    size: int


def read(text: str, devices: int) -> Counter[Collective]:
    """How often one execution of a compiled program, given as HLO text, runs each collective.

    The body of a loop counts as often as the compiler says that the loop runs.
    """
    own: dict[str, Counter[Collective]] = {}
    calls: dict[str, Counter[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
            own[name], calls[name] = Counter(), Counter()
        elif name:
            if found := re.match(rf"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ({'|'.join(KINDS)})\(", line):
                own[name][_collective(found[2], found[1], line, devices)] += 1
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            for callee in re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)", line):
                calls[name][callee] += int(trips[1]) if trips else 1

    def total(name: str) -> Counter[Collective]:
        found = Counter(own[name])
        for callee, times in calls[name].items():
            for collective, count in total(callee).items():
                found[collective] += times * count
        return found

    return total(entry)


def _collective(kind: str, result: str, line: str, devices: int) -> Collective:
    members = _members(line, devices)
    size = sum(
        math.prod(map(int, filter(None, shape.split(",")))) * _width(dtype)
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
    )
    group = len(members)
    apart = int(members[1] - members[0]) if group > 1 else 1
    return Collective(kind, group, apart, size * group if kind == "reduce-scatter" else size)


def _width(dtype: str) -> int:
    return BYTES.get(dtype) or int(re.sub(r"\D", "", dtype)) // 8


def _members(line: str, devices: int) -> np.ndarray:
    """The devices of the first group. Groups are written in four ways:

    {{0,1},{2,3}}; [2,4]<=[4,2]T(1,0), which is numbers from 0, shaped [4,2], transposed and cut into [2,4];
    mesh['x'=2,'y'=4] {'y'}, perhaps with device_ids=([4,2]T(1,0)) before the axes; or nothing for one group of all.
    """
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?)\))? \{([^}]*)\}", line):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        numbers = _numbers(mesh[2] or "", devices).reshape(tuple(axes.values()))
        chosen = re.findall(r"'(\w+)'", mesh[3])
        return numbers[tuple(slice(None) if name in chosen else 0 for name in axes)].reshape(-1)
    if tiles := re.search(r"replica_groups=\[\d+,(\d+)\]<=(\S*?),? ", line):
        return _numbers(tiles[2], devices)[: int(tiles[1])]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return np.array([int(number) for number in listed[1].split(",")])
    return np.arange(devices)


def _numbers(how: str, devices: int) -> np.ndarray:
    """The numbers of the devices in the order of [4,2]T(1,0), or as they are for [8] and nothing."""
    found = re.match(r"\[([\d,]+)\]T\(([\d,]+)\)", how)
    if not found:
        return np.arange(devices)
    shape, order = (tuple(map(int, part.split(","))) for part in found.groups())
    return np.arange(devices).reshape(shape).transpose(order).reshape(-1)
