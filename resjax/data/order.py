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
    """Endless epochs of `size` records, each in its own permutation, cut into batches without regard to epochs.

    Calling it with a step gives the positions of that batch, int64 [batch_size]. Every record comes exactly once in
    an epoch.
    """

    size: int
    batch_size: int
    seed: int

    def __call__(self, step: int) -> np.ndarray:
        start = step * self.batch_size
        stop = start + self.batch_size
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.size)
            piece = _permutation(self.size, self.seed, epoch)[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)


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
