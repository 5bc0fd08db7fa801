"""Several runs judged as one: the mean of their class probabilities."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from resjax.data.splits import Slice
from resjax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Task:
    """What one run is asked: two runs make an ensemble if they are asked the same.

    Attributes:
      whose: the run's folder.
      class_names: in label order, or empty if the classes have no names.
      num_classes: how many there are.
      data: the data set by name; of photos with their folder.
      key: equal for equal data sets.
      part: the records, of a stored split of `data`.
    """

    whose: str
    class_names: tuple[str, ...]
    num_classes: int
    data: str
    key: str
    part: Slice

    @property
    def records(self) -> str:
        """The records in a word: `cifar10 test[0:10000]`."""
        return f"{self.data} {self.part.base}[{self.part.start}:{self.part.stop}]"


def check(tasks: Sequence[Task]) -> None:
    """Raises BadInput unless all runs have the same classes in one order, and are judged on the same records."""
    first = tasks[0]
    for other in tasks[1:]:
        between = f"--workdir={first.whose} and --workdir={other.whose}"
        if other.num_classes != first.num_classes:
            raise BadInput(
                f"{between}: {first.num_classes} and {other.num_classes} classes; an ensemble needs the same"
            )
        if first.class_names and other.class_names and first.class_names != other.class_names:
            pairs = zip(first.class_names, other.class_names, strict=True)
            label, (ours, theirs) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            raise BadInput(
                f"{between}: class {label} is {ours!r} and {theirs!r}; an ensemble needs the same in one order"
            )
        if (first.key, first.part) != (other.key, other.part):
            raise BadInput(
                f"{between} are judged on other records, {first.records} and {other.records}: give one "
                "--config.data.name and --split for all"
            )


def mean(members: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The log of the mean of softmax over members, float64 [N, K], and the labels int32 [N].

    Args:
      members: log-probabilities and labels of each, made one after the other.

    Raises:
      BadInput: if the labels differ.
    """
    total, known, count = np.zeros(()), np.zeros(()), 0
    for log_probabilities, labels in members:
        if count and not np.array_equal(labels, known):
            raise BadInput("the runs of the ensemble read other labels: give one --config.data.dir for all")
        total = np.logaddexp(total, log_probabilities, out=log_probabilities) if count else log_probabilities
        known, count = labels, count + 1
    total -= np.log(count)
    return total, known
