"""Processes that do not outlive the one that started them, however that ends."""

import os
import sys

# Asks Linux for SIGKILL when the parent ends (PR_SET_PDEATHSIG, 1), and becomes the program that it is given. In
# the parent itself, between fork and exec, that would not be safe beside the threads of JAX.
TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])
"""


def tied_to_us(argv: list[str]) -> list[str]:
    """A command whose process does not outlive this one, even if this one is killed; on Linux."""
    if sys.platform != "linux":
        return argv
    return [sys.executable, "-S", "-c", TIE, str(os.getpid()), *argv]
