"""Batches whose order and augmentation are pure functions of (seed, step).

There is no iterator state to save: the position in the data is the step, whatever the number of workers.
"""

import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resjax.data import sources, statistics, worker
from resjax.data.augment import random_views
from resjax.data.order import Order, Share
from resjax.data.preprocess import Preprocessing
from resjax.data.resolve import Resolved, resolve
from resjax.errors import BadInput

HostBatch = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Dataset(Resolved):
    """A data set that is ready to be read in batches; `Resolved` explains its other attributes.

    Attributes:
        preprocessing: what turns stored pixels into network input; to be saved with the weights.
    """

    preprocessing: Preprocessing = field(repr=False)
    _records: dict[str, sources.Records] = field(repr=False)
    _workers: int = field(repr=False)

    def train(self, batch_size: int, seed: int, start_step: int = 0, rows: np.ndarray | None = None) -> "Batches":
        """Endless shuffled and augmented batches, the one for step `start_step` first.

        Each epoch is a new permutation; batches run across the border between epochs, so every image is seen
        exactly once in an epoch. HostBatch k is the same for every `start_step` and number of workers.

        Args:
            batch_size: of all processes together.
            rows: those of each batch that this process reads, ascending; None for all, then B = batch_size.

        Returns:
            An iterator of {'image': float32 [B, H, W, C], 'label': int32 [B]}.

        Raises:
            BadInput: for a damaged record, when the batch that holds it is due.
        """
        import grain

        order, share = Order(self.train_size, batch_size, seed), Share.of(batch_size, rows)
        read = _TrainBatch(order, share, self._records["train"], self.augment, self.pad, self.preprocessing)
        # The generator of random_map depends on the seed and on the element, which here is the step, alone.
        steps = grain.MapDataset.range(sys.maxsize).seed(seed).random_map(read)
        return Batches(steps[start_step:], self._threads("train"), self._workers)

    def evaluate(self, split: str, batch_size: int, rows: np.ndarray | None = None) -> "Batches":
        """Every image of 'train', 'validation' or 'test' once, in stored order and without augmentation.

        Args:
            batch_size, rows: as in `train`.

        Returns:
            An iterator of {'image': float32 [B, H, W, C], 'label': int32 [B], 'mask': float32 [B]}. The last batch
            is filled up with zeros whose mask is 0; the mask of images is 1.
            All processes get as many batches.

        Raises:
            BadInput: for a split that is not configured, or a damaged record, when the batch that holds it is due.
        """
        import grain

        if split not in self._records:
            raise BadInput(f"split {split!r} is not configured: choose one of {', '.join(self._records)}")
        read = _EvaluationBatch(self._records[split], self.preprocessing, Share.of(batch_size, rows))
        steps = -(-len(self._records[split]) // batch_size)
        # Starting processes takes longer than one pass over a set in memory.
        workers = 0 if self._ready(split) else self._workers
        return Batches(grain.MapDataset.range(steps).map(read), self._threads(split), workers)

    def _threads(self, split: str) -> int:
        """All cores, to decode photographs; for a set in memory more threads would only wait for Python's lock."""
        return 2 if self._ready(split) else min(16, os.cpu_count() or 1)

    def _ready(self, split: str) -> bool:
        """True if images lie in memory at their final size."""
        return isinstance(self._records[split], sources.InMemory) and not self.preprocessing.size


class Batches(Iterator[HostBatch]):
    """Reads batches ahead in threads, or in processes if there are workers; `close` ends them."""

    def __init__(self, dataset: Any, threads: int, workers: int):
        import grain
        from absl import flags

        threads = 1 if workers else threads
        reader = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain passes its flags to the workers, even if a program has none
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            reader = reader.mp_prefetch(options, worker_init_fn=worker.live_and_die_with_parent)
        self._workers = workers
        self._open = [iter(reader)]
        # Also at garbage collection and before the interpreter exits, when Grain could no longer close itself.
        self._finalizer = weakref.finalize(self, _close_all, self._open)

    def __next__(self) -> HostBatch:
        if not self._open:
            raise StopIteration
        try:
            batch = next(self._open[0])
        except StopIteration:
            self.close()
            raise
        except RuntimeError as error:
            if self._workers and "Worker process was terminated" in str(error):
                reason = str(error).split(". ")[0]
                raise BadInput(
                    f"data.workers={self._workers}: {reason}; batches pass through shared memory, so give /dev/shm "
                    "more room, or set data.workers=0"
                ) from error
            raise
        # Workers' arrays lie in shared memory, which is scarce and must not outlive the iterator: give plain ones.
        return {key: np.array(value) for key, value in batch.items()} if self._workers else batch

    def close(self) -> None:
        """Stops the threads and processes; calling it again does nothing."""
        self._finalizer()


def _close_all(iterators: list[Any]) -> None:
    while iterators:
        iterators.pop().close()


@dataclass(frozen=True)
class _TrainBatch:
    """Step and its own generator -> a process's rows of the batch."""

    order: Order
    share: Share
    records: sources.Records
    augment: str
    pad: int
    preprocessing: Preprocessing

    def __call__(self, step: int, rng: np.random.Generator) -> HostBatch:
        images, labels = self.records.read(self.order(step)[self.share.rows])
        views = random_views(images, self.share, self.augment, self.pad, self.preprocessing, rng)
        return {"image": views, "label": labels}


@dataclass(frozen=True)
class _EvaluationBatch:
    """Number of the batch -> a process's rows of it, filled up to their full number."""

    records: sources.Records
    preprocessing: Preprocessing
    share: Share

    def __call__(self, step: int) -> HostBatch:
        rows = step * self.share.batch_size + self.share.rows
        there = rows[rows < len(self.records)]
        # Rows that are filled up take their shape from an image that is there.
        images, labels = self.records.read(there if there.size else np.array([0]))
        batch = {
            "image": self.preprocessing.evaluate(images)[: there.size],
            "label": labels[: there.size],
            "mask": np.ones(there.size, np.float32),
        }
        missing = len(rows) - there.size
        if not missing:
            return batch
        return {key: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for key, x in batch.items()}


def open_dataset(*, preprocessing: Preprocessing | None = None, **data: Any) -> Dataset:
    """Opens a data set.

    Args:
        preprocessing: what the weights were trained with; None makes it from the training split.
        data: the fields of `config.data`, which `resolve` explains.

    Raises:
        BadInput: for a value that cannot work, or a set that is missing, damaged or does not fit `preprocessing`.
    """
    resolved = resolve(preprocessing=preprocessing, **data)
    read = resolved.source.load if resolved.in_memory else resolved.source.open
    records = {split: read(part) for split, part in resolved.parts.items()}
    return Dataset(
        **vars(resolved),
        preprocessing=preprocessing or _preprocessing(resolved, records["train"]),
        _records=records,
        _workers=data["workers"],
    )


def _preprocessing(resolved: Resolved, train: sources.Records) -> Preprocessing:
    if not isinstance(train, sources.InMemory):
        mean, std = statistics.IMAGENET_MEAN, statistics.IMAGENET_STD
    elif resolved.normalize == "pixel_mean":
        mean, std = statistics.by_pixel(train.images)
    else:
        mean, std = statistics.by_channel(train.images)
    size = resolved.image_size if resolved.resized else 0
    return Preprocessing(mean, std, size, class_names=resolved.class_names)
