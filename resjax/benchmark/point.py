"""One point: a compiled training step, or what a device can do at best, in a process that does nothing else.

    python -m resjax.benchmark --point=step --config=configs/cifar10.py:v1-20 --config.data.name=synthetic

It needs neither a data set nor what reads one.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resjax import experiment, machine
from resjax.benchmark import ceilings, twins
from resjax.benchmark.measure import ROUNDS, BareStep, peak_memory, unwaited
from resjax.errors import BadInput
from resjax.models import counts, scan
from resjax.train.loop import Experiment
from resjax.train.program import Feed

SEEDS = 4


def measure(kind: str, config: ConfigDict, steps: int, began: float) -> dict[str, Any]:
    """Measures a point of one of `KINDS`.

    Args:
      steps: how many, over all rounds; at least one call of each round.
      began: `time.monotonic()` when the process started.

    Raises:
      BadInput: for a config that cannot train here, or that a twin does not have.
    """
    if kind == "ceilings":
        return {"platform": jax.default_backend(), **machine.describe(1), **ceilings.measure()}
    if kind.startswith("pytorch"):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the device's memory is for PyTorch
    run = experiment.open(config)
    found = KINDS[kind](run, steps, began)
    config, spec, total = run.config, run.spec, counts.total(run.spec)
    seconds = statistics.median(found.pop("rounds"))
    memory, of = found.pop("memory", None) or peak_memory()
    flop = 3 * 2 * total.macs * config.batch_size
    if "bytes" in found:
        found["bytes_per_second"] = found.pop("bytes") / seconds
    result = {
        "network": config.name,
        "dtype": spec.dtype,
        "batch_size": config.batch_size,
        "image_size": spec.input_size,
        **machine.describe(run.program.mesh.size),
        **found,
        "step_seconds": seconds,
        "images_per_second": config.batch_size / seconds,
        "flop_per_second": flop / seconds,
        "peak_memory_bytes": memory,
        "peak_memory_of": of,
    }
    if config.total_steps and "first_step_seconds" in found:
        result["projected_steps"] = config.total_steps
        result["projected_seconds"] = found["first_step_seconds"] + config.total_steps * seconds
    return result


def rounds(step: twins.Step, calls: int) -> list[float]:
    """Seconds of a call in each of `ROUNDS` rounds of `calls` calls, which are waited for at its end."""
    step()
    return [unwaited(step.advance, step.wait, calls) for _ in range(ROUNDS)]


def own_step(run: Experiment, steps: int, began: float) -> dict[str, Any]:
    """resjax: the program of a run, its data where `data.placement` says, `steps_per_call` steps a call."""
    program, stride, seed = run.program, run.program.stride, np.uint32(run.config.seed)
    feed = first(run)
    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
    seconds, cached = [], []
    for _ in range(2):  # the second time out of the cache that the first one filled
        jax.clear_caches()
        hits.clear()
        since = time.perf_counter()
        compiled = run.program.train_step.lower(program.abstract, feed, seed).compile()  # type: ignore[attr-defined]
        seconds.append(time.perf_counter() - since)
        cached.append(bool(hits))
        if len(seconds) == 1:
            cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
            program = dataclasses.replace(program, train_step=compiled)
    bare = BareStep(dataclasses.replace(run, program=program), feed)
    bare()
    found: dict[str, Any] = {
        "steps_per_call": stride,
        "placement": "host" if program.data is None else "device",
        "first_step_seconds": time.monotonic() - began - seconds[1],
        "compile_seconds": seconds[0],
        "compilation_cache": "hit" if cached[0] else "miss",
    }
    if cached[1]:
        found["compile_warm_seconds"] = seconds[1]
    if memory:
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        found["program_bytes"] = held + memory.temp_size_in_bytes
    # The compiler counts the body of a loop once: right for many steps a call, wrong for the units of a stage.
    if "bytes accessed" in cost and not run.spec.scan:
        found["bytes"] = cost["bytes accessed"]
    times = rounds(bare, -(-steps // (ROUNDS * stride)))
    return found | {"rounds": [each / stride for each in times]}


def first(run: Experiment) -> Feed:
    """What the first call of the training step works on."""
    with closing(run.batches()) as batches:
        return run.program.take(batches)


def pytorch(run: Experiment, steps: int, began: float, mode: str = "default") -> dict[str, Any]:
    """The twin in PyTorch, from its own initial weights."""
    step, how = twins.pytorch(run.config, run.spec, None, *random_batch(run), mode=mode)
    if step is None:
        raise BadInput(how)
    import torch

    first_step_seconds = time.monotonic() - began
    times = rounds(step, -(-steps // ROUNDS))
    found: dict[str, Any] = {"how": how, "first_step_seconds": first_step_seconds, "rounds": times}
    if torch.cuda.is_available():
        found["device"] = f"1 x {torch.cuda.get_device_name()}"
        found["memory"] = torch.cuda.max_memory_allocated(), "device memory"
    return found


def stock_flax(run: Experiment, steps: int, began: float) -> dict[str, Any]:
    """The twin in stock Flax."""
    state = scan.unroll(run.program.init(np.uint32(run.config.seed)))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    step, how = twins.stock_flax(run.config, run.spec, variables, *random_batch(run))
    if step is None:
        raise BadInput(how)
    first_step_seconds = time.monotonic() - began
    times = rounds(step, -(-steps // ROUNDS))
    return {"how": how, "first_step_seconds": first_step_seconds, "rounds": times}


def random_batch(run: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W, C] and labels [N]."""
    spec, n, rng = run.spec, run.config.batch_size, np.random.default_rng(0)
    images = rng.standard_normal((n, spec.input_size, spec.input_size, spec.input_channels), np.float32)
    return images, rng.integers(0, spec.num_classes, n, np.int32)


def several_seeds(run: Experiment, steps: int, began: float, how: str) -> dict[str, Any]:
    """`SEEDS` seeds in one program, all on the same batches, mapped or vectorised; times are of one seed's step."""
    stride, step = run.program.stride, SeveralSeeds(run, how)
    since = time.perf_counter()
    step()
    compile_seconds, first_step_seconds = time.perf_counter() - since, time.monotonic() - began
    times = rounds(step, -(-steps // (ROUNDS * stride * SEEDS)))
    return {
        "seeds": SEEDS,
        "steps_per_call": stride,
        "first_step_seconds": first_step_seconds,
        "compile_seconds": compile_seconds,
        "rounds": [each / (stride * SEEDS) for each in times],
    }


class SeveralSeeds:
    """The training step of several seeds as one program: by `lax.map`, or by `vmap`."""

    def __init__(self, run: Experiment, how: str) -> None:
        one_step = run.program.train_step.__wrapped__  # type: ignore[attr-defined]

        def all_steps(states: Any, feed: Feed, seeds: jax.Array) -> Any:
            def next_state(each: Any) -> Any:
                return one_step(each[0], feed, each[1])[0]

            return (
                jax.lax.map(next_state, (states, seeds)) if how == "map" else jax.vmap(next_state)((states, seeds))
            )

        states = [run.program.init(np.uint32(seed)) for seed in range(SEEDS)]
        self._states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        self._feed, self._seeds = first(run), jnp.arange(SEEDS, dtype=jnp.uint32)
        self._step = jax.jit(all_steps, donate_argnums=0)

    def advance(self) -> None:
        """Makes a call, which may still be under way."""
        self._states = self._step(self._states, self._feed, self._seeds)

    def wait(self) -> None:
        """Waits for all that is under way."""
        jax.block_until_ready(self._states)

    def __call__(self) -> None:
        self.advance()
        self.wait()


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "step": own_step,
    "pytorch": pytorch,
    "pytorch-max-autotune": partial(pytorch, mode="max-autotune"),
    "flax": stock_flax,
    "seeds-map": partial(several_seeds, how="map"),
    "seeds-vmap": partial(several_seeds, how="vmap"),
}
NAMES = ("ceilings", *KINDS)
