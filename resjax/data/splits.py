"""Slices of splits, written as in TFDS: 'train', 'train[:45000]', 'train[-5000:]', 'test[10%:20%]'."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from resjax import paths
from resjax.errors import BadInput

_BOUND = r"(-?\d{1,12}%?)?"
_SLICE = re.compile(rf"([\w-]+)(?:\[{_BOUND}:{_BOUND}\])?", re.ASCII)


@dataclass(frozen=True)
class Slice:
    """Records start <= index < stop of the stored split `base`."""

    base: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def overlaps(self, other: "Slice") -> bool:
        """Whether the two share a record."""
        return self.base == other.base and max(self.start, other.start) < min(self.stop, other.stop)


def parse_slice(field: str, text: str, sizes: Mapping[str, int]) -> Slice:
    """Reads one slice of one split.

    Args:
        field: name of the config field, for the error message.
        text: a split name, or `name[from:to]` with both bounds optional; a bound is an index or a whole
            percentage (rounded to the nearest record, as TFDS does), negative counts from the end.
        sizes: number of records in every stored split.

    Raises:
        BadInput: for text that is not a slice, an unknown split, a bound outside the split, or an empty slice.
    """
    match = _SLICE.fullmatch(text)
    if not match:
        raise BadInput(
            f"{field}={paths.short(text)} is not a split: write 'train' or a slice of it, such as 'train[:45000]'"
        )
    base, start_text, stop_text = match.groups()
    if base not in sizes:
        raise BadInput(f"{field}={text!r}: there is no split {base!r}; use one of {', '.join(sorted(sizes))}")
    size = sizes[base]
    start = _position(field, text, start_text, size) if start_text else 0
    stop = _position(field, text, stop_text, size) if stop_text else size
    if start >= stop:
        raise BadInput(f"{field}={text!r} selects no record of the {size} in {base!r}: widen the slice")
    return Slice(base, start, stop)


def _position(field: str, text: str, bound: str, size: int) -> int:
    """Index that a bound stands for, 0 <= index <= size."""
    index = round(int(bound[:-1]) * size / 100) if bound.endswith("%") else int(bound)
    if abs(index) > size:
        raise BadInput(f"{field}={text!r}: {bound} is outside the split's {size} records; choose a smaller bound")
    return index + size if bound.startswith("-") else index
