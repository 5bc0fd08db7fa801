"""What a run computes on: its devices, the processor, and the threads of XLA's CPU programs.

The threads matter on a CPU beyond speed: XLA cuts sums into as many pieces, so another number gives other roundings
and, after some steps, other weights. The number of cores by itself does not.
"""

import os
import platform
from pathlib import Path
from typing import Any

import jax

import resjax

# XLA's CPU client sizes its thread pool by the first that is a number, and else by the cores it may run on.
THREADS = "PJRT_NPROC"
VARIABLES = (THREADS, "NPROC")


def describe(devices: int) -> dict[str, Any]:
    """What figures are measured on, and with.

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
    """The threads that a CPU program of XLA has in this process, when it is on one device."""
    for name in VARIABLES:
        try:
            return max(1, int(os.environ[name]))
        except (KeyError, ValueError):
            continue
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as Linux has it; its architecture elsewhere."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
