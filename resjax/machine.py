"""What a run computes on: its devices, the processor, and the threads of XLA's CPU programs.

On a CPU the threads change more than the speed: XLA cuts sums into as many pieces, so another number rounds
differently and, after some steps, gives other weights. The number of cores by itself changes nothing.
"""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

import resjax

# XLA's CPU client sizes its thread pool by the first of these that is a number, else by the cores it may run on.
THREADS = "PJRT_NPROC"
VARIABLES = (THREADS, "NPROC")


def describe(devices: int) -> dict[str, Any]:
    """The hardware and software that a figure was measured with.

    Args:
      devices: how many of this machine's devices take part.
    """
    return {
        "device": f"{devices} x {jax.devices()[0].device_kind}",
        "processor": processor(),
        "threads": threads(),
        "versions": {"resjax": resjax.__version__, "jax": jax.__version__, "python": platform.python_version()},
    }


def threads() -> int:
    """How many threads XLA's CPU programs have in this process, on one device."""
    for name in VARIABLES:
        try:
            return max(1, int(os.environ[name]))
        except (KeyError, ValueError):
            continue
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of main memory; where the system does not say, as many as there are numbers for."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return sys.maxsize


def processor() -> str:
    """The processor's name on Linux, elsewhere its architecture."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
