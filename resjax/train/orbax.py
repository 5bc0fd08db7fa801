"""What Orbax needs around it: its chatter, which checkpoints stay, a file that is still being computed."""

import asyncio
import dataclasses
import functools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp


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
