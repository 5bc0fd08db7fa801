"""The order of training records and the random numbers of a batch: pure functions of (seed, step)."""

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Share:
    """The rows of every batch that one process reads.

    Attributes:
        batch_size: of all processes together.
        rows: ascending indices into such a batch.
    """

    batch_size: int
    rows: np.ndarray

    @classmethod
    def of(cls, batch_size: int, rows: np.ndarray | None = None) -> "Share":
        """These rows; without any, all of them."""
        return cls(batch_size, np.arange(batch_size) if rows is None else rows)


@dataclass(frozen=True)
class Order:
    """Endless epochs of `size` rows, each in its own permutation, cut into batches without regard to epochs.

    Calling it with a step gives the positions of that batch, int64 [batch_size]. Every record comes exactly once in
    an epoch.

    Repeated augmentation (Hoffer et al. 2019; Berman et al. 2019) takes each record `repeats` times in succession,
    and an epoch ends after as many rows as ever: only the first ceil(size / repeats) records of its permutation
    come. A batch holds the rows that DeiT's and timm's samplers give to all ranks together. They deal them out in
    turn, rank k of w gets every w-th, so that the views of one record go to different ranks; here they lie in
    different blocks of the batch, as if w were `repeats`. So a record comes once in a group of BatchNorm that is no
    larger than a block, and mixing neighbours mixes different records. (Those samplers also end an epoch at a
    multiple of 256 rows; this one does not.)
    """

    size: int
    batch_size: int
    seed: int
    repeats: int = 1

    def __call__(self, step: int) -> np.ndarray:
        start = step * self.batch_size
        stop = start + self.batch_size
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.size)
            rows = np.arange(offset, min(self.size, offset + stop - start))
            pieces.append(_permutation(self.size, self.seed, epoch)[rows // self.repeats])
            start += len(rows)
        batch = np.concatenate(pieces)
        return np.concatenate([batch[first :: self.repeats] for first in range(self.repeats)])


@functools.lru_cache(maxsize=2)  # batches are read ahead, so two epochs can be in use at once
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of a batch: Philox (Salmon et al. 2011), with the step as its counter.

    Those that Grain gives to element `step` of a data set; so it was in 0.1.0, and so its runs go on.
    """
    key = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint32)[0]
    bits = np.random.Philox(key)
    state = bits.state
    state["state"]["counter"] = np.array([0, 0, 0, step], np.uint64)
    bits.state = state
    return np.random.Generator(bits)
