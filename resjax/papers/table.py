"""What a published table is: rows of networks with recipes, each with the number that the paper gives."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CIFAR = ("cifar10", "digits")
IMAGENET = ("imagenet2012", "digits")
Draw = Callable[[Mapping[str, list[Path]], Path, str], object]


@dataclasses.dataclass(frozen=True)
class Published:
    """What the paper says of a row: errors in percent, or `words` where it gives no number."""

    top1: float | None = None
    top5: float | None = None
    std: float | None = None
    words: str = ""
    statistic: str = ""  # what the number is: a mean, a median of 5 runs; empty: the paper does not say

    def __str__(self) -> str:
        if self.top1 is None:
            return self.words
        number = f"{self.top1:.2f}" if self.std is None else f"{self.top1:.2f} ± {self.std:.2f}"
        number = number if self.top5 is None else f"{number} / {self.top5:.2f}"
        return f"{number} ({self.words})" if self.words else number


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: a network by name, and the fields in which it or its recipe differs from the default.

    Attributes:
      name: what `--rows` takes, and the folder of its runs.
      label: the row as the paper has it.
      network: the SPEC of the data set's config file, such as `v1-110`.
      published: the paper's number.
      model: overrides of `model.*`.
      fields: overrides of the recipe on the paper's own data; they do not carry over to other data.
      size: the paper's parameter count, as printed.
      note: what a reader must know about the row.
    """

    name: str
    label: str
    network: str
    published: Published = Published()
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure to draw from finished runs: `draw({label: workdirs of its seeds}, path, note)` writes `file`."""

    file: str
    draw: Draw
    rows: tuple[str, ...] = ()  # empty: all


@dataclasses.dataclass(frozen=True)
class Table:
    """A table or figure of a paper.

    Attributes:
      name: what `python -m resjax.papers` takes.
      what: what it shows, in one line.
      source: where the paper gives the numbers.
      data: the sets that it can run on, the paper's own first.
      seeds: how many by default: as many as the paper took.
      training: also show training errors.
      note: what differs between the paper's numbers and ours, for all rows.
      jobs: how many runs at a time by default.
    """

    name: str
    what: str
    source: str
    rows: tuple[Row, ...]
    data: tuple[str, ...] = CIFAR
    seeds: int = 1
    training: bool = False
    pictures: tuple[Picture, ...] = ()
    note: str = ""
    jobs: int = 1
