"""What a device can do at best, measured: arithmetic by one large matrix product, traffic by one large copy."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

TYPES = ("float32", "bfloat16")  # float32 as convolutions have it: in TF32 where the device does
SIZE = {"cpu": 2048, "else": 8192}  # rows of the matrices
COPY = {"cpu": 2**28, "else": 2**30}  # bytes, beyond any cache
REPEATS, ENOUGH = 20, 1.0  # calls, and seconds of them together


def measure() -> dict[str, Any]:
    """`matmul_TYPE_flop_per_second` of every type, and `copy_bytes_per_second`, reading and writing together."""
    where = "cpu" if jax.default_backend() == "cpu" else "else"
    n, size = SIZE[where], COPY[where]
    found = {}
    for dtype in TYPES:
        a = jax.random.normal(jax.random.key(0), (n, n), dtype)
        found[f"matmul_{dtype}_flop_per_second"] = 2 * n**3 / fastest(jax.jit(jnp.matmul), a, a)
    x = jnp.ones(size // 4, jnp.float32)
    found["copy_bytes_per_second"] = 2 * size / fastest(jax.jit(jnp.negative), x)
    return found


def fastest(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < ENOUGH:
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)
