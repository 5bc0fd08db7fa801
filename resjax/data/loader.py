"""Batches whose order and augmentation are pure functions of (seed, step).

There is no iterator state to save: the position in the data is the step, whatever the number of workers. What is
random is drawn first, and then applied: some by the host here, the rest by the device, to which images go as uint8.
"""

import os
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from resjax.data import sources, statistics
from resjax.data.ahead import Batches, HostBatch, InThreads, InWorkers, Make
from resjax.data.augment import draw, host
from resjax.data.jpeg import Shape
from resjax.data.listing import Listing
from resjax.data.order import Order, Share, generator
from resjax.data.preprocess import Images, Preprocessing
from resjax.data.resolve import Resolved, resolve
from resjax.errors import BadInput

DRAWS_AHEAD = 128  # batches, of some bytes an image


@dataclass(frozen=True, eq=False)
class Dataset(Resolved):
    """A data set that is ready to be read in batches; `Resolved` explains its other attributes.

    Attributes:
        preprocessing: what turns stored pixels into network input; to be saved with the weights.
        workers: processes that prepare batches.
    """

    preprocessing: Preprocessing = field(repr=False)
    _records: dict[str, sources.Records] = field(repr=False)
    workers: int = field(repr=False)

    def train(self, batch_size: int, seed: int, start_step: int = 0, rows: np.ndarray | None = None) -> Batches:
        """Endless shuffled and augmented batches, the one for step `start_step` first.

        Each epoch is a new permutation; batches run across the border between epochs, so every image is seen
        exactly once in an epoch, unless they are repeated. HostBatch k is the same for every `start_step` and
        number of workers.

        Args:
            batch_size: of all processes together.
            rows: those of each batch that this process reads, ascending; None for all, then B = batch_size.

        Returns:
            An iterator of {'image': uint8 [B, H, W, C], 'label': int32 [B]} and the draws that the device is to
            apply, see `augment.device.training_views`.

        Raises:
            BadInput: for a damaged record, when the batch that holds it is due.
        """
        return self._ahead(self.training(batch_size, seed, rows), range(start_step, sys.maxsize), self.workers)

    @property
    def to_train(self) -> Preprocessing:
        """The preprocessing, to the size of training images."""
        return replace(self.preprocessing, size=self.train_image_size if self.preprocessing.size else 0)

    def training(self, batch_size: int, seed: int, rows: np.ndarray | None = None) -> "TrainBatch":
        """What makes the batches of `train` by their steps; arguments as there."""
        return TrainBatch(self._draw(batch_size, seed, rows), self._records["train"], self.to_train)

    def draws(self, batch_size: int, seed: int, start_step: int = 0, rows: np.ndarray | None = None) -> Batches:
        """What `train` draws for its batches, without the images: for a set that lies on the device.

        Args:
            batch_size, seed, start_step, rows: as in `train`.

        Returns:
            An iterator of {'index': int32 [B]} and what `augment.draw.draw` returns.
        """
        return InThreads(self._draw(batch_size, seed, rows), range(start_step, sys.maxsize), 1, DRAWS_AHEAD)

    def stored(self, split: str) -> sources.InMemory:
        """The images of a split at their final size, and their labels; only of a set that is `ready`."""
        records = self._records[split]
        assert isinstance(records, sources.InMemory)
        return records

    def _draw(self, batch_size: int, seed: int, rows: np.ndarray | None) -> "_Draw":
        order, share = Order(self.train_size, batch_size, seed, self.repeats), Share.of(batch_size, rows)
        return _Draw(order, share, self.augmentation, self.train_shape)

    def evaluate(self, split: str, batch_size: int, rows: np.ndarray | None = None) -> Batches:
        """Every image of 'train', 'validation' or 'test' once, in stored order and without augmentation.

        Args:
            batch_size, rows: as in `train`.

        Returns:
            An iterator of {'image': uint8 [B, H, W, C], 'label': int32 [B], 'mask': float32 [B]}. The last batch
            is filled up with zeros whose mask is 0; the mask of images is 1.
            All processes get as many batches.

        Raises:
            BadInput: for a split that is not configured, or a damaged record, when the batch that holds it is due.
        """
        if split not in self._records:
            raise BadInput(f"split {split!r} is not configured: choose one of {', '.join(self._records)}")
        read = _EvaluationBatch(self._records[split], self.preprocessing, Share.of(batch_size, rows))
        steps = -(-len(self._records[split]) // batch_size)
        # Starting processes takes longer than one pass over a set in memory.
        workers = 0 if self.ready else self.workers
        return self._ahead(read, range(steps), workers)

    def _ahead(self, make: Make, steps: range, workers: int) -> Batches:
        if workers:
            return InWorkers(make, steps, workers)
        # All cores, to decode photographs and for policies; else threads would only wait for Python's lock.
        threads = 2 if self.ready and not self.policy else min(16, os.cpu_count() or 1)
        return InThreads(make, steps, threads, threads + 1)


@dataclass(frozen=True)
class _Draw:
    """Step -> what is drawn for a process's rows of its batch."""

    order: Order
    share: Share
    augmentation: draw.Augmentation
    shape: tuple[int, int]

    def __call__(self, step: int) -> HostBatch:
        index = self.order(step)[self.share.rows].astype(np.int32)
        own = generator(self.order.seed, step)
        return {"index": index} | draw.draw(self.share, self.augmentation, self.shape, own)


@dataclass(frozen=True)
class TrainBatch:
    """Step -> a process's rows of its batch: drawn, read, and cut to views."""

    draw: _Draw
    records: sources.Records
    preprocessing: Preprocessing  # to the size of training images

    def __call__(self, step: int) -> HostBatch:
        draws = self.draw(step)
        images, labels, shapes = self.read(draws)
        done = ("index", *draw.ON_HOST)
        rest = {name: drawn for name, drawn in draws.items() if name not in done}
        return {"image": self.views(draws, images, shapes), "label": labels} | rest

    def read(self, draws: HostBatch) -> tuple[Images, np.ndarray, list[Shape] | None]:
        """Images decoded to what their views need, labels, and the images' own shapes, see `sources.read`."""
        return sources.read(self.records, draws["index"], host.least(draws, self.preprocessing))

    def views(self, draws: HostBatch, images: Images, shapes: list[Shape] | None) -> np.ndarray:
        """uint8 [B, H, W, C]; the device does the rest."""
        return host.views(images, draws, self.preprocessing, self.draw.augmentation.policy, shapes)


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
        positions = there if there.size else np.array([0])
        images, labels, shapes = sources.read(self.records, positions, self.preprocessing.least)
        batch = {
            "image": self.preprocessing.view(images, shapes)[: there.size],
            "label": labels[: there.size],
            "mask": np.ones(there.size, np.float32),
        }
        missing = len(rows) - there.size
        if not missing:
            return batch
        return {key: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for key, x in batch.items()}


def open_dataset(
    *, preprocessing: Preprocessing | None = None, listing: Listing | None = None, **data: Any
) -> Dataset:
    """Opens a data set.

    Args:
        preprocessing: what the weights were trained with; None makes it from the training split.
        listing: of a folder, the files of the run that goes on; None lists what is there.
        data: the fields of `config.data`, which `resolve` explains.

    Raises:
        BadInput: for a value that cannot work, or a set that is missing, damaged or does not fit `preprocessing`.
    """
    resolved = resolve(preprocessing=preprocessing, listing=listing, **data)
    read = resolved.source.load if resolved.in_memory else resolved.source.open
    records = {split: read(part) for split, part in resolved.parts.items()}
    return Dataset(
        **vars(resolved),
        preprocessing=preprocessing or _preprocessing(resolved, records["train"]),
        _records=records,
        workers=data["workers"],
    )


def _preprocessing(resolved: Resolved, train: sources.Records) -> Preprocessing:
    if not isinstance(train, sources.InMemory):
        mean, std = statistics.IMAGENET_MEAN, statistics.IMAGENET_STD
    elif resolved.normalize == "pixel_mean":
        mean, std = statistics.by_pixel(train.images)
    else:
        mean, std = statistics.by_channel(train.images)
    if not resolved.resized:
        return Preprocessing(mean, std, class_names=resolved.class_names)
    assert resolved.crop_share is not None
    assert resolved.interpolation is not None
    return Preprocessing(
        mean,
        std,
        resolved.image_size,
        resolved.crop_share,
        resolved.interpolation,
        resolved.class_names,
        resolved.decode,
    )
