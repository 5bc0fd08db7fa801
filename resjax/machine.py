"""What a run computes on: its devices, the processor, and the threads of XLA's CPU programs.

On a CPU the threads change more than the speed: XLA cuts sums into as many pieces, so another number rounds
differently and, after some steps, gives other weights. The number of cores by itself changes nothing.
"""

import os
import platform
import sys
from collections.abc import Mapping
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


def cache() -> str:
    """The folder of compiled programs; "" where none are kept.

    On a GPU they hold the kernels that XLA's autotuner timed and chose. JAX keeps the choices beside them, for
    programs that are compiled anew.
    """
    on = jax.config.values["jax_enable_compilation_cache"]
    return str(jax.config.values["jax_compilation_cache_dir"] or "") if on else ""


def changes(before: Mapping[str, Any], backend: str) -> list[str]:
    """What rounds otherwise here than on the machine of a checkpoint, in lines for people.

    Args:
      before: what that checkpoint's meta has as `machine`; older ones lack some of it.
      backend: cpu, gpu or tpu.
    """
    had, kept = before.get("threads"), before.get("compilation_cache")
    if backend == "cpu" and had not in (None, threads()):
        return [
            f"the run had {had} threads and goes on with {threads()}, which changes roundings: for the same bits, "
            f"stop it and put NPROC={had} before the command"
        ]
    if backend == "gpu" and kept and kept != cache():
        return [
            f"the run's compiled programs are in {kept}, those of this process in {cache() or 'no folder'}: the "
            "autotuner may choose other kernels, which changes roundings; for the same bits, stop it and put "
            f"JAX_COMPILATION_CACHE_DIR={kept} before the command"
        ]
    if backend == "gpu" and kept and not Path(kept).is_dir():
        return [
            f"the run's compiled programs were in {kept}, which is gone: the autotuner may choose other kernels, "
            "which changes roundings"
        ]
    return []


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
