"""A process keeps the memory that its programs free, so that the kernel need not clear it for each of them."""

import os
import platform
import subprocess
import sys

import pytest

from resjax import allocation

PROGRAM = """
from resjax import allocation
allocation.keep()
import resource
import jax
import jax.numpy as jnp

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(a, b, c))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

step = jax.jit(lambda a, b, c: (a @ b) @ c)  # 160 MB between the products: 40,000 pages
a, b, c = jnp.ones((20_000, 16)), jnp.ones((16, 2_000)), jnp.ones((2_000, 4))
print(min(faults() for _ in range(16)))  # some call finds it: small pieces may have cut the large one
"""


def faults(**variables: str) -> int:
    """Pages that the kernel gives to one call of a program whose temporaries are 160 MB."""
    environ = {name: value for name, value in os.environ.items() if name not in allocation.OWN_CHOICE}
    command = [sys.executable, "-c", PROGRAM]
    return int(subprocess.run(command, env=environ | variables, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_program_finds_its_memory_again_unless_the_environment_says_otherwise() -> None:
    assert faults() < 1000
    assert faults(MALLOC_ARENA_MAX="4") > 10_000
