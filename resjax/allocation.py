"""The memory that a step frees stays with the process, for the next step.

On a CPU XLA allocates the temporaries of a program, hundreds of megabytes, each time it runs. The C library takes
such pieces from the kernel and gives them back, and the kernel clears every page anew: a sixth of the time of a
step of ResNet-20.
"""

import ctypes
import os
from pathlib import Path

LARGEST = 2**31 - 1  # that a parameter of mallopt can be
# Of glibc's malloc.h: the parameters of mallopt, and values under which nothing is given back. One arena, because
# the pieces of any other are mapped one by one above 64 MB.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
PARAMETERS = {MMAP_THRESHOLD: LARGEST, TRIM_THRESHOLD: LARGEST, ARENA_MAX: 1}
OWN_CHOICE = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
ACCELERATORS = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*")  # below /dev


def keep() -> None:
    """Keeps freed memory from here on; called before there are threads, for each keeps its arena.

    Does nothing where an accelerator computes, where the C library is not glibc, and where the environment says how
    it is to allocate.
    """
    if any(name in os.environ for name in OWN_CHOICE) or any(any(Path("/dev").glob(a)) for a in ACCELERATORS):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for parameter, value in PARAMETERS.items():
            library.mallopt(parameter, value)
