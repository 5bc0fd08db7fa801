"""One config, measured in rounds on the first batch of its own data, beside the same network elsewhere."""

import dataclasses
import itertools
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import experiment, machine
from resjax.benchmark import twins
from resjax.benchmark.parts import parts
from resjax.config import in_training
from resjax.data.augment.device import training_views
from resjax.evaluation.evaluate import Batch
from resjax.models import counts, scan
from resjax.train.checkpoint import Checkpoints
from resjax.train.log import RunLog
from resjax.train.loop import Experiment, fit, record
from resjax.train.preemption import StopRequest
from resjax.train.program import Feed
from resjax.train.progress import Progress

ROUNDS = 3


def measure(
    config: ConfigDict, steps: int, names: Collection[str] = twins.NAMES, began: float | None = None
) -> dict[str, Any]:
    """Measures a config and returns what the command prints.

    Args:
      steps: how many of each kind, over all rounds; every round first takes one more, which does not count.
      names: of the twins to measure too, where they are installed and have the network.
      began: `time.monotonic()` when the process started.

    Raises:
      BadInput: for a config that cannot train.
      NonFinite: if it diverges within these steps.
    """
    began = time.monotonic() if began is None else began
    load = os.getloadavg()[0]  # by others: taken before our own work
    run = experiment.open(config)
    config, spec = run.config, run.spec
    with closing(run.dataset.train(config.batch_size, config.seed)) as batches:
        placed = run.program.place(next(batches))
    batch = training_views(placed, run.program.normalization, config.data.pad)  # for parts and twins
    with closing(run.batches()) as batches:
        feed = run.program.take(batches)

    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
    compiling = time.perf_counter()
    seed = np.uint32(config.seed)
    compiled = run.program.train_step.lower(run.program.abstract, feed, seed).compile()  # type: ignore[attr-defined]
    compile_seconds, cached = time.perf_counter() - compiling, bool(hits)
    run = dataclasses.replace(run, program=dataclasses.replace(run.program, train_step=compiled))
    bare = BareStep(run, feed)
    bare()
    first_step_seconds = time.monotonic() - began

    in_loop(run, 1)  # compiles what surrounds the step
    memory, memory_of = peak_memory()  # before PyTorch takes some
    saving_steps(run, bare, 1)  # the first save of a process takes longer
    notes: list[str] = []
    others = twins_of(run, batch, names, notes)

    stride = run.program.stride
    calls = -(-steps // (ROUNDS * stride))
    each = calls * stride
    own, looped, waits, overheads, saving, blocked = [], [], [], [], [], []
    inside = parts(run, batch)
    theirs: dict[str, list[float]] = {name: [] for name in (*inside, *others)}
    for _ in range(ROUNDS):
        own += [seconds / stride for seconds in single_steps(bare, calls)]
        seconds, during = saving_steps(run, bare, calls)
        blocked.append(seconds)
        saving += [seconds / stride for seconds in during]
        for name, step in (inside | others).items():
            theirs[name] += single_steps(step, each)
        bare()
        together = unwaited(bare.advance, bare.wait, calls) / stride
        seconds, wait = in_loop(run, each)
        looped.append(seconds)
        waits.append(wait)
        overheads.append(seconds / together - 1)

    step_seconds, total = statistics.median(own), counts.total(in_training(config))
    result: dict[str, Any] = {
        "network": config.name,
        "depth": spec.depth,
        "params": total.params,
        "macs": total.macs,
        "dtype": spec.dtype,
        "batch_size": config.batch_size,
        **machine.describe(run.program.mesh.size),
        "load_average": load,
        "steps": each * ROUNDS,
        "compile_seconds": compile_seconds,
        "compilation_cache": "hit" if cached else "miss",
        "first_step_seconds": first_step_seconds,
        "step_seconds": step_seconds,
        "fastest_step_seconds": min(own),
        **{f"{name}_seconds": statistics.median(theirs.pop(name)) for name in inside},
        "images_per_second": config.batch_size / step_seconds,
        "flop_per_second": 3 * 2 * total.macs * config.batch_size / step_seconds,
        "loop_step_seconds": statistics.median(looped),
        "loop_overhead": statistics.median(overheads),
        "input_wait": statistics.median(waits),
        "save_step_ratio": statistics.median(saving) / step_seconds,
        "save_blocking_seconds": statistics.median(blocked),
        "peak_memory_bytes": memory,
        "peak_memory_of": memory_of,
    }
    for name, times in theirs.items():
        median = statistics.median(times)
        result |= {
            f"{name}_step_seconds": median,
            f"{name}_fastest_step_seconds": min(times),
            f"{name}_images_per_second": config.batch_size / median,
            f"ratio_to_{name}": median / step_seconds,
        }
    if load > 0.5 * machine.threads():
        notes.append(
            f"the machine was busy with other work: load average {load:.1f} on {machine.threads()} threads"
        )
    return result | ({"note": "; ".join(notes)} if notes else {})


class BareStep:
    """Calls of the compiled training step and nothing else, on the first batches, which lie on the device."""

    def __init__(self, run: Experiment, feed: Feed) -> None:
        self._step, self._feed, self._seed = run.program.train_step, feed, np.uint32(run.config.seed)
        self.state = run.program.init(self._seed)

    def __call__(self) -> None:
        """Makes a call and waits for it."""
        self.advance()
        self.wait()

    def advance(self) -> None:
        """Makes a call, which may still be under way."""
        self.state, _ = self._step(self.state, self._feed, self._seed)

    def wait(self) -> None:
        """Waits for all that is under way."""
        jax.block_until_ready(self.state)


def unwaited(advance: Callable[[], object], wait: Callable[[], object], n: int) -> float:
    """Seconds per call, over `n` calls that are waited for only at the end, as the loop waits."""
    began = time.perf_counter()
    for _ in range(n):
        advance()
    wait()
    return (time.perf_counter() - began) / n


def twins_of(run: Experiment, batch: Batch, names: Collection[str], notes: list[str]) -> dict[str, twins.Step]:
    """The same training step, from the same weights, in every twin that can be built; `notes` says how."""
    config, spec, program = run.config, run.spec, run.program
    state = scan.unroll(jax.device_get(program.init(np.uint32(config.seed))))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images, labels = jax.device_get((batch["image"], batch["label"]))
    found = {}
    for name in names:
        if program.mesh.size > 1:
            notes.append(f"no {name} twin for: a mesh of {program.mesh.size} devices")
            continue
        step, words = twins.BUILD[name](config, spec, variables, images, labels)
        notes.append(words)
        if step:
            found[name] = step
    return found


def single_steps(step: Callable[[], object], n: int) -> list[float]:
    """Seconds of each of `n` steps, after one that does not count."""
    marks = []
    for _ in range(n + 1):
        step()
        marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


def in_loop(run: Experiment, n: int) -> tuple[float, float]:
    """Seconds per step, and the share spent waiting for input, over `n` steps of the training loop itself."""
    total = n + run.program.stride  # the first call compiles, and does not count
    durations = dataclasses.replace(run.durations, total=total, eval_every=total, checkpoint_every=total)
    short = dataclasses.replace(run, durations=durations, evaluations=())
    progress = Progress()
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as silence,
        redirect_stderr(silence),
        closing(RunLog(Path(folder), 0, durations.total)) as log,
    ):
        fit(short, run.program.init(np.uint32(run.config.seed)), progress, log, None, StopRequest())
    clock = progress.clock
    return clock.seconds / clock.steps, clock.waited / clock.seconds


def saving_steps(run: Experiment, bare: BareStep, n: int) -> tuple[float, list[float]]:
    """Seconds until a save lets the loop go on, and of each of up to `n` calls that begin while it is under way."""
    meta = record(run, Progress(), int(bare.state.step))
    with tempfile.TemporaryDirectory() as folder, closing(Checkpoints(Path(folder), keep=1)) as checkpoints:
        bare()
        marks = [time.perf_counter()]
        checkpoints.save(bare.state, meta)
        marks.append(time.perf_counter())
        while len(marks) == 2 or (checkpoints.saving and len(marks) < n + 2):
            bare()
            marks.append(time.perf_counter())
    blocked, *steps = (after - before for before, after in itertools.pairwise(marks))
    return blocked, steps


def peak_memory() -> tuple[int, str]:
    """Peak bytes and of what: of the device's memory if it keeps count, else of the process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device memory"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "resident memory of the process"
