"""Work shared between processes, in no order; a task that fails ends all of it."""

import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from resjax.data import worker
from resjax.errors import BadInput


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], processes: int) -> Iterator[Any]:
    """The results of `function(*task)` for every task, as they come.

    Raises:
        BadInput: of the first task that raises one; a process that ends unasked, as for want of memory, is one.
    """
    waiting = iter(tasks)
    if processes == 1:
        yield from (function(*task) for task in waiting)
        return
    context = multiprocessing.get_context("spawn")
    running: dict[connection.Connection, BaseProcess] = {}
    try:
        for task in waiting:
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_serve, args=(theirs, function))
            with _held_signals():  # until the process can ignore them, a terminal's would meet it
                process.start()
            theirs.close()
            running[ours] = process
            ours.send(task)
            if len(running) == processes:
                break
        while running:
            for pipe in connection.wait(list(running)):
                assert isinstance(pipe, connection.Connection)
                result = _received(pipe, running[pipe])
                for task in itertools.islice(waiting, 1):
                    pipe.send(task)
                    break
                else:
                    _end(pipe, running.pop(pipe))
                yield result
    finally:
        for pipe, process in running.items():
            process.kill()
            _end(pipe, process)


def _end(pipe: connection.Connection, process: BaseProcess) -> None:
    pipe.close()  # for which a process that waits for a task ends
    process.join()


def _received(pipe: connection.Connection, process: BaseProcess) -> Any:
    try:
        result = pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        raise BadInput(
            f"a process that prepared a shard ended (exit code {process.exitcode}; -9 is often a lack of memory): "
            "run the same command again, with fewer --processes"
        ) from error
    if isinstance(result, BadInput | OSError):
        raise result
    return result


def _serve(pipe: connection.Connection, function: Callable[..., Any]) -> None:
    worker.live_and_die_with_parent()
    with contextlib.suppress(EOFError):
        while True:
            task = pipe.recv()
            try:
                result = function(*task)
            except (BadInput, OSError) as error:
                result = error
            pipe.send(result)


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back, also in a process that is started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
