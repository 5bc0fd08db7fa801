"""What Orbax needs around it: its chatter, which checkpoints stay, a file that is still being computed."""

import asyncio
import dataclasses
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import absl.logging
import jax
import orbax.checkpoint as ocp

T = TypeVar("T")

SHARE = 0.05  # of one core, for each of the two threads of a save that nobody waits for
AT_A_TIME = 0.0005  # seconds of work between two rests
_BEGINNING = threading.Lock()


def quieten() -> None:
    """Keeps Orbax's reports from the terminal, in the whole process; its errors are still raised."""
    absl.logging.set_verbosity(absl.logging.FATAL)  # it logs every step of a save
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and every array that it cannot read
    # It reads and writes all arrays at once. When one fails it closes the event loop, and each of the others that
    # ends after that would be a traceback.
    before = sys.unraisablehook
    if not (isinstance(before, functools.partial) and before.func is _unless_late):
        sys.unraisablehook = functools.partial(_unless_late, before)


def _unless_late(before: Callable[[Any], object], unraisable: Any) -> None:
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        before(unraisable)


def give_way() -> None:
    """Lowers the priority of this thread, and so of all that it starts, where threads have one of their own.

    On a CPU they compete with the training step: a thread that is 10 nicer than another gets a tenth of its time.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + 10)


class Pace:
    """Spreads what a save computes on a CPU over a longer time, until somebody waits for it.

    A lower priority alone does not do that: the threads of a step wait for each other for moments, which another
    thread then fills and overruns; and a thread that has the interpreter keeps the next step from being started.
    """

    def __init__(self) -> None:
        self._hurry = threading.Event()
        if jax.default_backend() != "cpu":
            self.hurry()  # the steps are computed elsewhere

    def hurry(self) -> None:
        self._hurry.set()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, with a rest whenever this thread has worked on them for a while."""
        began = time.thread_time()
        for item in items:
            yield item
            if not self._hurry.is_set() and (worked := time.thread_time() - began) > AT_A_TIME:
                self._hurry.wait((1 / SHARE - 1) * worked)
                began = time.thread_time()


def begin(manager: Any, step: int, items: Any) -> None:
    """Begins to save `items`: returns when they have been copied, and are being written in the background.

    One thread of the process at a time, because Orbax numbers its saves by a counter of the process: of two that
    begin at once, one could write before its folder is there, or wait for it in vain.
    """
    with _BEGINNING:
        manager.save(step, args=items, force=True)


def check_writable(folder: Path) -> None:
    """Raises OSError if no folder can be made; Orbax would wait minutes for a folder that it could not make."""
    probe = folder / f"writable{jax.process_index()}.tmp"
    probe.mkdir(exist_ok=True)
    probe.rmdir()


class LatestAndBest:
    """Orbax's rule for what stays: the latest `keep`, and the best by score."""

    def __init__(self, keep: int, scores: dict[int, float | None]) -> None:
        self._keep, self._scores = keep, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]  # ascending
        best = best_of({step: self._scores.get(step) for step in steps})
        return [step in steps[-self._keep :] or step == best for step in steps]


def best_of(scores: dict[int, float | None]) -> int | None:
    """The step with the highest score, of equal ones the latest."""
    return max((step for step in scores if scores[step] is not None), key=lambda s: (scores[s], s), default=None)


class _MetaHandler(ocp.JsonCheckpointHandler):
    """Orbax's JSON file, part of which is still being computed when the save starts."""

    async def async_save(self, directory: Any, item: Any = None, args: Any = None) -> list[Any]:
        async def write() -> None:
            meta = await asyncio.wrap_future(args.meta)
            if jax.process_index() == 0:
                (directory / "metadata").write_text(json.dumps(meta))

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="meta")]


@ocp.args.register_with_handler(_MetaHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class MetaSave(ocp.args.CheckpointArgs):
    """What to store beside a state, once it is known."""

    meta: Future[dict[str, Any]]
