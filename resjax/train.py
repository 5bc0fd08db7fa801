"""Training from the first step to the summary, read from top to bottom.

Where a run starts, in this order:
  1. the latest sound checkpoint of its own workdir, with the optimizer, the step and so the position in the data;
  2. the weights and statistics of another run, `config.init_from`;
  3. fresh weights, a pure function of `config.seed`.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resjax import checkpoint, sharding
from resjax.clock import Clock
from resjax.config import Durations, mesh_shape, plain
from resjax.data.loader import Dataset
from resjax.evaluate import evaluate
from resjax.metrics import RunLog, add, means, write_json
from resjax.models import counts
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.optim import learning_rate, optimizer
from resjax.preemption import Preempted, StopRequest
from resjax.step import Batch, Metrics, TrainState, init_state, make_eval_step, make_train_step


class NonFiniteLoss(Exception):
    """The loss became infinite or NaN; the message names the step."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A run's compiled functions and the layout of what they work on."""

    mesh: Mesh
    abstract: TrainState
    init: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    eval_step: Callable[[Any, Any, Batch], Metrics]
    place: Callable[[Any], Batch]


def build(config: ConfigDict, spec: Spec, plan: Durations) -> Program:
    """Shapes, then shardings by rule, then jit: every array is born where it belongs. Compiles nothing yet."""
    mesh = sharding.make_mesh(*mesh_shape(config, jax.device_count()))
    model, tx = ResNet(spec), optimizer(config, learning_rate(config, plan))
    init = partial(init_state, spec, tx, config.seed)
    shapes = jax.eval_shape(init)
    state, images, all_ = (
        sharding.state_shardings(mesh, shapes),
        sharding.batch_sharding(mesh),
        sharding.replicated(mesh),
    )
    o = config.optimizer
    train_step = make_train_step(
        model, tx, seed=config.seed, label_smoothing=o.label_smoothing, accumulate=o.accumulate
    )
    return Program(
        mesh=mesh,
        abstract=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, state),
        # It runs once: compiling it well would take longer than all else before the first step.
        init=jax.jit(init, out_shardings=state, compiler_options={"xla_backend_optimization_level": 0}),
        train_step=jax.jit(train_step, in_shardings=(state, images), out_shardings=(state, all_), donate_argnums=0),
        eval_step=jax.jit(
            make_eval_step(model), in_shardings=(state.params, state.batch_stats, images), out_shardings=all_
        ),
        place=partial(jax.device_put, device=images),
    )


def train(
    config: ConfigDict,
    spec: Spec,
    plan: Durations,
    dataset: Dataset,
    workdir: Path,
    program: Program,
    began: float | None = None,
) -> dict[str, Any]:
    """Trains to the end, or on to it, and returns the summary that it leaves in `workdir/summary.json`.

    Args:
      config: the run; already validated, as is what was derived from it: `spec`, `plan`, `program`.
      dataset: where batches come from.
      workdir: the run's folder; exists.
      began: `time.monotonic()` when the process started, for the times that the summary states.

    Raises:
      Preempted: after a signal, when the state is saved.
      NonFiniteLoss: naming the step.
    """
    began = time.monotonic() if began is None else began
    checkpoints = checkpoint.Checkpoints(workdir, config.checkpoint_keep)
    state, meta = _start(config, checkpoints, program)
    start = step = int(state.step)
    log = RunLog(workdir, start, plan.total)
    if start:
        log.say(f"resumed  from step {start}")

    clock = Clock()
    pending: list[Metrics] = []  # sums on the device since the last fetch
    interval: dict[str, float] = meta["interval"]  # sums since the last evaluation
    latest: dict[str, dict[str, float]] = meta["latest"]  # split -> its latest means

    def record() -> dict[str, Any]:
        """What a checkpoint stores beside the state."""
        return {
            "config": plain(config),
            "data": {"next_step": step, "seed": config.seed},
            "interval": interval,
            "latest": latest,
            "seconds": meta["seconds"] + time.monotonic() - began,
            "train_seconds": meta["train_seconds"] + clock.seconds,
            "train_steps": meta["train_steps"] + clock.steps,
        }

    with (
        StopRequest() as stop,
        closing(log),
        closing(checkpoints),
        closing(dataset.train(config.batch_size, config.seed, start)) as batches,
    ):
        while step < plan.total:
            with clock.waiting():
                batch = program.place(next(batches))
            state, sums = program.train_step(state, batch)
            step += 1
            pending.append(sums)

            last = step == plan.total
            stopping = stop.requested  # asked once: a signal from here on counts at the next step
            # One that is due shortly before the end is left to the end, whose training means would be of few steps.
            evaluating = last or (step % plan.eval_every == 0 and plan.total - step > plan.eval_every // 2)
            saving = last or step % plan.checkpoint_every == 0 or stopping
            if step == start + 1:
                jax.block_until_ready(sums)
                log.say(f"compiled first step after {time.monotonic() - began:.1f} s")
                clock.restart()
            if evaluating or saving or step % plan.log_every == 0:
                fetched, pending = jax.device_get(pending), []
                clock.tick()
                for at, part in enumerate(fetched, step - len(fetched) + 1):
                    _check_finite("training loss", float(part["loss"]), at)
                interval = add([interval, *fetched])
                speed = {"images_per_second": clock.rate * config.batch_size, "input_wait": clock.wait_share}
                log.write(step, "train", means(add(fetched)) | (speed if clock.rate else {}))
            if evaluating:
                latest, interval = {"train": means(interval)}, {}
                for split in ["validation", "test"] if dataset.validation_size else ["test"]:
                    images = dataset.evaluate(split, config.batch_size)
                    latest[split] = evaluate(program.eval_step, state, images, program.place)
                    _check_finite(f"{split} loss", latest[split]["loss"], step)
                    log.write(step, split, latest[split])
            if saving:
                # A finite loss can leave weights with which the next one overflows: no state to go on from.
                _check_finite("norm of the weights", float(jax.jit(optax.tree.norm)(state.params)), step)
                # Before the next batch is drawn: the position in the data is the step.
                validated = latest["validation"]["accuracy"] if evaluating and "validation" in latest else None
                checkpoints.save(state, record(), validated)
            if evaluating or saving:
                clock.restart()
            if stopping and not last:
                raise Preempted(f"stopped at step {step} of {plan.total}; saved in {workdir}")

        summary = _summary(spec, state, record(), config.batch_size)
    write_json(workdir / "summary.json", summary)  # closing the checkpoints waited for the last one
    return summary


def _start(config: ConfigDict, checkpoints: checkpoint.Checkpoints, program: Program) -> tuple[TrainState, Any]:
    """The state that a run starts from, in the order that the module states, and what was recorded beside it."""
    fresh = {"interval": {}, "latest": {}, "seconds": 0.0, "train_seconds": 0.0, "train_steps": 0}
    if resumed := checkpoints.restore_latest(program.abstract):
        return resumed
    if config.init_from:
        return checkpoint.initialize_from(Path(config.init_from), program.init()), fresh
    return program.init(), fresh


def _check_finite(name: str, value: float, step: int) -> None:
    """Raises NonFiniteLoss, which names the step, unless `value` is finite."""
    if not math.isfinite(value):
        raise NonFiniteLoss(
            f"the {name} is {value} at step {step}: lower optimizer.learning_rate, warm up, or set "
            "optimizer.clip_norm; checkpoints are from before that"
        )


def _summary(spec: Spec, state: TrainState, record: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """What a finished run leaves: results, cost, and the digest of its final state."""
    results = {
        f"{split}_{name}": value for split, values in record["latest"].items() for name, value in values.items()
    }
    total, train_seconds = counts.total(spec), record["train_seconds"]
    return {
        **results,
        "steps": int(state.step),
        "seconds": round(record["seconds"], 3),
        "images_per_second": batch_size * record["train_steps"] / train_seconds if train_seconds else 0.0,
        "params": total.params,
        "macs": total.macs,
        "depth": spec.depth,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "state_digest": checkpoint.digest(state),
    }
