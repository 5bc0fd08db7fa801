"""Measures how fast a network trains here.

    python -m resjax.benchmark --config=configs/cifar10.py:v1-20 --steps=30

Prints one JSON object. It measures, in turns over several rounds, on the first batch of the config's own data:

  step_seconds       median of single training steps on a batch that lies on the device, each waited for
  loop_step_seconds  a step of the training loop itself, input and logs included, evaluation and checkpoints not;
                     `loop_overhead` compares it with steps that are also waited for only at the end
  save_step_ratio    single steps while a checkpoint of the state is being saved, beside those of `step_seconds`;
                     `save_blocking_seconds` is how long the loop waits until it may go on
  pytorch_...        if PyTorch is installed: single steps of the same network, weights and batch, each waited
                     for; `ratio_to_pytorch` above 1 means that resjax is faster
"""

import time

BEGAN = time.monotonic()  # before the imports, which are part of what a person waits for

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds
elif __name__ == "__mp_main__":
    from resjax.data import worker

    worker.live_and_die_with_parent()

import dataclasses
import importlib.util
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from resjax import cli, experiment, files, machine
from resjax.errors import BadInput
from resjax.evaluation.evaluate import Batch
from resjax.models import counts, scan
from resjax.train.checkpoint import Checkpoints
from resjax.train.log import RunLog
from resjax.train.loop import Experiment, fit, record
from resjax.train.preemption import StopRequest
from resjax.train.progress import NonFinite, Progress

ROUNDS = 3
Step = Callable[[], object]  # takes one training step and waits for it


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("steps", 30, "Steps to measure of each kind.", flag_values=values)
    flags.DEFINE_string("out", None, "Also write the JSON into this file.", flag_values=values)
    flags.DEFINE_boolean("cold", False, "Compile anew, without the cache on disk.", flag_values=values)
    flags.DEFINE_boolean("pytorch", True, "Measure PyTorch too, where it is installed.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define)
    if values.steps < ROUNDS:
        raise BadInput(f"--steps={values.steps}: must be at least {ROUNDS}, one for each round")
    if values.out and not Path(values.out).absolute().parent.is_dir():
        raise BadInput(f"--out={values.out}: there is no such folder; make it first")
    if values.cold:
        jax.config.update("jax_enable_compilation_cache", False)
    else:
        cli.use_compilation_cache()
    try:
        result = benchmark(values.config, values.steps, values.pytorch, BEGAN)
    except NonFinite as error:
        raise BadInput(f"the recipe diverges within {values.steps} steps: {error}") from error
    print(json.dumps(result, indent=2))
    if values.out:
        files.write_json(Path(values.out), result)
    return 0


def benchmark(config: ConfigDict, steps: int, pytorch: bool = True, began: float | None = None) -> dict[str, Any]:
    """Measures a config and returns what the command prints.

    Args:
      steps: how many of each kind, over all rounds; every round first takes one more, which does not count.
      pytorch: measure it too, where it is installed and has the network.
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
        batch = run.program.place(next(batches))

    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
    compiling = time.perf_counter()
    seed = np.uint32(config.seed)
    compiled = run.program.train_step.lower(run.program.abstract, batch, seed).compile()  # type: ignore[attr-defined]
    compile_seconds, cached = time.perf_counter() - compiling, bool(hits)
    run = dataclasses.replace(run, program=dataclasses.replace(run.program, train_step=compiled))
    bare = BareStep(run, batch)
    bare()
    first_step_seconds = time.monotonic() - began

    in_loop(run, 1)  # compiles what surrounds the step
    memory, memory_of = peak_memory()  # before PyTorch takes some
    saving_steps(run, bare, 1)  # the first save of a process takes longer
    other, notes = twin_step(run, batch) if pytorch else (None, ["PyTorch was not asked for"])

    each = -(-steps // ROUNDS)
    own, torch, looped, waits, overheads, saving, blocked = [], [], [], [], [], [], []
    for _ in range(ROUNDS):
        own += single_steps(bare, each)
        seconds, during = saving_steps(run, bare, each)
        blocked.append(seconds)
        saving += during
        torch += single_steps(other, each) if other else []
        unwaited = bare.run(each)
        seconds, wait = in_loop(run, each)
        looped.append(seconds)
        waits.append(wait)
        overheads.append(seconds / unwaited - 1)

    step_seconds, total = statistics.median(own), counts.total(spec)
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
    if torch:
        torch_seconds = statistics.median(torch)
        result |= {
            "pytorch_step_seconds": torch_seconds,
            "pytorch_fastest_step_seconds": min(torch),
            "pytorch_images_per_second": config.batch_size / torch_seconds,
            "ratio_to_pytorch": torch_seconds / step_seconds,
        }
    if load > 0.5 * machine.threads():
        notes.append(
            f"the machine was busy with other work: load average {load:.1f} on {machine.threads()} threads"
        )
    return result | ({"note": "; ".join(notes)} if notes else {})


class BareStep:
    """The compiled training step and nothing else, on one batch that lies on the device."""

    def __init__(self, run: Experiment, batch: Batch) -> None:
        self._step, self._batch, self._seed = run.program.train_step, batch, np.uint32(run.config.seed)
        self.state = run.program.init(self._seed)

    def __call__(self) -> None:
        """Takes a step and waits for it."""
        self.state, _ = jax.block_until_ready(self._step(self.state, self._batch, self._seed))

    def run(self, n: int) -> float:
        """Seconds per step, over `n` steps that are waited for only at the end, as the loop waits."""
        self()
        began = time.perf_counter()
        for _ in range(n):
            self.state, _ = self._step(self.state, self._batch, self._seed)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - began) / n


def single_steps(step: Step, n: int) -> list[float]:
    """Seconds of each of `n` steps, after one that does not count."""
    marks = []
    for _ in range(n + 1):
        step()
        marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


def in_loop(run: Experiment, n: int) -> tuple[float, float]:
    """Seconds per step, and the share spent waiting for input, over `n` steps of the training loop itself."""
    durations = dataclasses.replace(run.durations, total=n + 1)
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
    """Seconds until a save lets the loop go on, and of each of up to `n` steps that begin while it is under way."""
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


def twin_step(run: Experiment, batch: Batch) -> tuple[Step | None, list[str]]:
    """The same training step in PyTorch, or None if it cannot be built, and notes for the result."""
    if importlib.util.find_spec("torch") is None:
        return None, ["PyTorch is not installed"]
    import torch

    from resjax import torch_twin

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    config, spec, program = run.config, run.spec, run.program
    reasons = torch_twin.missing(spec, config)
    if program.mesh.size > 1:
        reasons.append(f"a mesh of {program.mesh.size} devices")
    if jax.default_backend() == "tpu" or (device == "cuda" and not torch.cuda.is_available()):
        reasons.append(f"this device ({jax.default_backend()})")
    if reasons:
        return None, [f"no PyTorch twin for: {', '.join(reasons)}"]
    torch.set_num_threads(machine.threads())
    twin = torch_twin.Twin(spec)
    state = scan.unroll(jax.device_get(program.init(np.uint32(config.seed))))
    torch_twin.copy({"params": state.params, "batch_stats": state.batch_stats}, twin)
    images, labels = jax.device_get((batch["image"], batch["label"]))
    try:
        step, how = torch_twin.training_step(twin, config, images, labels, device)
        step()
    except torch.OutOfMemoryError:
        return None, ["PyTorch ran out of memory"]
    if spec.bn_group not in (0, config.batch_size):
        how.append(f"BN over the whole batch instead of groups of {spec.bn_group}")
    return step, [f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {', '.join(how)}"]


def peak_memory() -> tuple[int, str]:
    """Peak bytes and of what: of the device's memory if it keeps count, else of the process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device memory"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "resident memory of the process"


if __name__ == "__main__":
    cli.run(main)
