"""Batches that are made ahead, in their order: in threads, or in processes."""

import collections
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from resjax.data import worker
from resjax.errors import BadInput

HostBatch = dict[str, np.ndarray]
Make = Callable[[int], HostBatch]


class InThreads(Iterator[HostBatch]):
    """`make(step)` for the steps of a range; `close` ends it, and nothing is read any more when it returns.

    Args:
        ahead: batches that are begun before they are asked for.
    """

    def __init__(self, make: Make, steps: range, threads: int, ahead: int):
        self._make, self._steps, self._ahead = make, iter(steps), ahead
        self._due: collections.deque[Future[HostBatch]] = collections.deque()
        self._pool = ThreadPoolExecutor(threads, "batches")
        # Of an iterator that is dropped; its own thread may find out, which cannot wait for itself.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __next__(self) -> HostBatch:
        while len(self._due) < self._ahead and (step := next(self._steps, None)) is not None:
            self._due.append(self._pool.submit(self._make, step))
        if not self._due:
            self.close()
            raise StopIteration
        return self._due.popleft().result()

    def close(self) -> None:
        """Ends the threads; calling it again does nothing."""
        self._steps = iter(range(0))
        self._due.clear()
        self._pool.shutdown(cancel_futures=True)


class InWorkers(Iterator[HostBatch]):
    """The same in processes; `close` ends them.

    Raises:
        BadInput: where a process was killed, as for want of shared memory, when its batch is due.
    """

    def __init__(self, make: Make, steps: range, workers: int):
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain passes its flags to the workers, even if a program has none
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        reader = grain.MapDataset.range(steps.start, steps.stop).map(make)
        reader = reader.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
        self._workers = workers
        self._open = [iter(reader.mp_prefetch(options, worker_init_fn=worker.live_and_die_with_parent))]
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
            if "Worker process was terminated" in str(error):
                reason = str(error).split(". ")[0]
                raise BadInput(
                    f"data.workers={self._workers}: {reason}; batches pass through shared memory, so give /dev/shm "
                    "more room, or set data.workers=0"
                ) from error
            raise
        # The arrays lie in shared memory, which is scarce and must not outlive the iterator: give plain ones.
        return {key: np.array(value) for key, value in batch.items()}

    def close(self) -> None:
        """Ends the processes; calling it again does nothing."""
        self._finalizer()


def _close_all(iterators: list[Any]) -> None:
    while iterators:
        iterators.pop().close()


Batches = InThreads | InWorkers
