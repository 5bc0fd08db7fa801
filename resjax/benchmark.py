"""Measures how fast a network trains here.

    python -m resjax.benchmark --config=configs/cifar10.py:v1-20 --steps=30

Prints one JSON object. Measured, on the first batch of the config's own data, in rounds that take turns:

  step_seconds       median of single training steps on a batch that lies on the device, each waited for
  loop_step_seconds  a step of the real training loop, input and logs included, evaluation and checkpoints not;
                     `loop_overhead` compares it with steps that are also waited for only at the end
  pytorch_...        where PyTorch is importable: single steps of the same network, weights and batch, each waited
                     for; `ratio_to_pytorch` above 1 says that resjax is faster
"""

import time

BEGAN = time.monotonic()  # before the imports, which are part of what a person waits for

import dataclasses
import importlib.util
import itertools
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

import resjax
from resjax import cli
from resjax.checks import validate, validate_data
from resjax.config import Durations, durations
from resjax.data.loader import Batches, Dataset, open_dataset
from resjax.errors import INTERRUPTED, BadInput
from resjax.evaluation.evaluate import Batch
from resjax.files import read_lines, write_json
from resjax.models import counts, scan
from resjax.models.spec import Spec
from resjax.train.loop import NonFiniteLoss, train
from resjax.train.preemption import Preempted
from resjax.train.program import Program, build

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
    except NonFiniteLoss as error:
        raise BadInput(f"the recipe diverges within {values.steps} steps: {error}") from error
    except Preempted:
        return INTERRUPTED
    print(json.dumps(result, indent=2))
    if values.out:
        write_json(Path(values.out), result)
    return 0


def benchmark(config: ConfigDict, steps: int, pytorch: bool = True, began: float | None = None) -> dict[str, Any]:
    """Measures a config and returns what the command prints.

    Args:
      steps: how many of each kind, over all rounds; every round takes one more first that does not count.
      pytorch: measure it too, where it is installed and has the network.
      began: `time.monotonic()` when the process started.

    Raises:
      BadInput: for a config that cannot train.
      NonFiniteLoss: if it diverges meanwhile.
    """
    began = time.monotonic() if began is None else began
    load = os.getloadavg()[0]  # of others: taken before our own work
    spec = validate(config, jax.device_count())
    dataset = open_dataset(**config.data)
    validate_data(config, spec, dataset.image_shape, dataset.num_classes)
    plan = durations(config, dataset.train_size)
    program = build(config, spec, plan)
    with closing(dataset.train(config.batch_size, config.seed)) as batches:
        batch = program.place(next(batches))

    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
    compiling = time.perf_counter()
    compiled = program.train_step.lower(program.abstract, batch).compile()  # type: ignore[attr-defined]
    compile_seconds, cached = time.perf_counter() - compiling, bool(hits)
    program = dataclasses.replace(program, train_step=compiled)
    bare = BareStep(program, batch)
    bare()
    first_step_seconds = time.monotonic() - began

    def loop(n: int) -> tuple[float, float]:
        return in_loop(config, spec, plan, dataset, program, n)

    loop(1)  # compiles what surrounds the step
    memory, memory_of = peak_memory()  # before PyTorch comes in
    other, notes = twin_step(config, spec, program, batch) if pytorch else (None, ["PyTorch was not asked for"])

    each = -(-steps // ROUNDS)
    own, torch, looped, waits, overheads = [], [], [], [], []
    for _ in range(ROUNDS):
        own += single_steps(bare, each)
        torch += single_steps(other, each) if other else []
        unwaited = bare.run(each)
        seconds, wait = loop(each)
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
        **machine(program),
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
    if load > 0.5 * threads():
        notes.append(f"the machine was busy with other work: load average {load:.1f} on {threads()} threads")
    return result | ({"note": "; ".join(notes)} if notes else {})


class BareStep:
    """The compiled training step and nothing else, on one batch that lies on the device."""

    def __init__(self, program: Program, batch: Batch) -> None:
        self._step, self._batch, self._state = program.train_step, batch, program.init()

    def __call__(self) -> None:
        """Takes a step and waits for it."""
        self._state, _ = jax.block_until_ready(self._step(self._state, self._batch))

    def run(self, n: int) -> float:
        """Seconds a step, of `n` steps that are waited for at the end, as the loop waits."""
        self()
        began = time.perf_counter()
        for _ in range(n):
            self._state, _ = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - began) / n


def single_steps(step: Step, n: int) -> list[float]:
    """Seconds of each of `n` steps, after one that does not count."""
    marks = []
    for _ in range(n + 1):
        step()
        marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


def in_loop(
    config: ConfigDict, spec: Spec, plan: Durations, dataset: Dataset, program: Program, n: int
) -> tuple[float, float]:
    """Seconds a step, and the share of them spent waiting for input, of `n` steps of `resjax.train.train`."""
    short = dataclasses.replace(plan, total=n + 1, eval_every=n + 1, checkpoint_every=n + 1)
    barely_evaluated = OneBatch(**vars(dataset))
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as silence,
        redirect_stderr(silence),
    ):
        summary = train(config, spec, short, barely_evaluated, Path(folder), program)
        records = [r for r in read_lines(Path(folder) / "metrics.jsonl") if "input_wait" in r]
    times = [1 / r["images_per_second"] for r in records]
    wait = sum(t * r["input_wait"] for t, r in zip(times, records, strict=True)) / sum(times)
    return config.batch_size / summary["images_per_second"], wait


class OneBatch(Dataset):
    """A data set of which only the first batch is evaluated: the loop's evaluation is not what is measured."""

    def evaluate(self, split: str, batch_size: int) -> Batches:
        with closing(super().evaluate(split, batch_size)) as batches:
            return [next(batches)]  # type: ignore[return-value]


def twin_step(config: ConfigDict, spec: Spec, program: Program, batch: Batch) -> tuple[Step | None, list[str]]:
    """The same training step in PyTorch, if it can be had, and what there is to say about it."""
    if importlib.util.find_spec("torch") is None:
        return None, ["PyTorch is not installed"]
    import torch

    from resjax import torch_twin

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    reasons = torch_twin.missing(spec, config)
    if program.mesh.size > 1:
        reasons.append(f"a mesh of {program.mesh.size} devices")
    if jax.default_backend() == "tpu" or (device == "cuda" and not torch.cuda.is_available()):
        reasons.append(f"this device ({jax.default_backend()})")
    if reasons:
        return None, [f"no PyTorch twin for: {', '.join(reasons)}"]
    torch.set_num_threads(threads())
    twin = torch_twin.Twin(spec)
    state = scan.unroll(jax.device_get(program.init()))
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


def machine(program: Program) -> dict[str, Any]:
    """What the figures were measured on, and with."""
    return {
        "device": f"{program.mesh.size} x {jax.devices()[0].device_kind}",
        "processor": platform.processor() or platform.machine(),
        "threads": threads(),
        "versions": {"resjax": resjax.__version__, "jax": jax.__version__, "python": platform.python_version()},
    }


def threads() -> int:
    """The processor cores that this process may use, on which XLA and PyTorch run alike."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> tuple[int, str]:
    """Bytes, and of what: the device's own memory where it keeps count, else the process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device memory"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "resident memory of the process"


if __name__ == "__main__":
    cli.run(main)
