"""What one of several jobs gets of the machine: its cores, its accelerators, its part of their memory."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from resjax import machine

ON_A_DEVICE = 4  # runs that are chosen to share the CPU, or each GPU

Item = TypeVar("Item")


def share(items: Sequence[Item], slot: int, jobs: int) -> Sequence[Item]:
    """The part of `items` that job `slot` of `jobs` gets: neighbours, and at least one if there are any."""
    if jobs > len(items):
        return [items[slot % len(items)]] if items else []
    return items[slot * len(items) // jobs : (slot + 1) * len(items) // jobs]


def environment(slot: int, jobs: int) -> dict[str, str]:
    """The environment of a job: some of the GPUs, or a part of one's memory where jobs must share it.

    XLA's threads are the sweep's own, however few cores a job has: results do not depend on the number of jobs.
    """
    environ = os.environ | {machine.THREADS: str(machine.threads())}
    gpus = _gpus()
    if jobs == 1 or not gpus:
        return environ
    environ["CUDA_VISIBLE_DEVICES"] = ",".join(share(gpus, slot, jobs))
    if jobs > len(gpus):
        # By default each process takes three quarters of the memory when it starts.
        together = -(-jobs // len(gpus))
        environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / together:.3f}")
    return environ


def together(jobs: int) -> int:
    """How many runs each of `jobs` processes trains at a time if nobody says.

    On two cores, four short runs of ResNet-20 took 14 to 17 % less time in one process than two at a time in
    processes of their own, and half the memory. In one process a GPU computes for one run at a time.
    """
    return max(1, ON_A_DEVICE * max(1, len(_gpus())) // jobs)


@contextmanager
def cores(slot: int, jobs: int) -> Iterator[None]:
    """Processes started inside run on the job's share of the cores."""
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, share(sorted(every), slot, jobs))
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def _gpus() -> list[str]:
    """The visible NVIDIA GPUs, found without JAX: a parent that initialises it would hold their memory."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return [str(i) for i, _ in enumerate(sorted(Path("/proc/driver/nvidia/gpus").glob("*")))]
