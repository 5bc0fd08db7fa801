"""What a published table is: rows of networks with recipes, each with the number that the paper gives."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CIFAR = ("cifar10", "digits")
IMAGENET = ("imagenet2012", "digits")
Draw = Callable[[Mapping[str, list[Path]], Path, str], object]


MEAN, MEDIAN = "mean of 5 runs", "median of 5 runs"


@dataclasses.dataclass(frozen=True)
class Published:
    """What the paper says of a row: errors in percent, or `words` where it gives no number.

    Attributes:
      top1: what `statistic` says: MEAN or MEDIAN; empty: the paper does not say, or has one run.
      mean: where `top1` is another statistic, and the paper gives the mean besides.
      std: of the mean.
      best: of the runs.
    """

    top1: float | None = None
    top5: float | None = None
    mean: float | None = None
    std: float | None = None
    best: float | None = None
    words: str = ""
    statistic: str = ""

    def __str__(self) -> str:
        """`8.75`, `22.85 / 6.71`, `mean 6.61 ± 0.16, best 6.43`, `median 4.92, mean 4.89 ± 0.14`, or the words."""
        if self.top1 is None:
            return self.words
        number = f"{self.top1:.2f}" if self.top5 is None else f"{self.top1:.2f} / {self.top5:.2f}"
        parts = [f"{self.kind} {number}".strip()]
        if self.mean is not None:
            parts.append(f"mean {self.mean:.2f}")
        if self.std is not None:
            parts[-1] += f" ± {self.std:.2f}"
        if self.best is not None:
            parts.append(f"best {self.best:.2f}")
        return ", ".join(parts)

    @property
    def kind(self) -> str:
        """The statistic in a word: mean, median, or nothing."""
        return self.statistic.partition(" ")[0]


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
class Ensemble:
    """Runs of a table's rows judged as one, the mean of softmax; a line of its own below them.

    Attributes:
      row: its name, label, number and note; no network is trained for it.
      members: rows by name; one that is named k times gives its first k seeds.
    """

    row: Row
    members: tuple[str, ...]


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
      validation: hold out the last tenth of the training split (45k/5k of CIFAR-10), show the errors on it, and say
        which row has the lowest.
      config: the config file for all sets; by default the set's own.
      views: how `resjax.evaluate` judges the finished runs on the paper's own data, ten or scales; empty, and on
        other data: their own test errors, of the centre of every image.
      ensemble: judged besides, with the same views.
      note: what differs between the paper's numbers and ours, for all rows.
      jobs: how many runs at a time by default.
      quick: the rows that run if neither rows nor seeds are asked for; empty: all.
    """

    name: str
    what: str
    source: str
    rows: tuple[Row, ...]
    data: tuple[str, ...] = CIFAR
    seeds: int = 1
    training: bool = False
    validation: bool = False
    config: str = ""
    pictures: tuple[Picture, ...] = ()
    views: str = ""
    ensemble: Ensemble | None = None
    note: str = ""
    jobs: int = 1
    quick: tuple[str, ...] = ()
