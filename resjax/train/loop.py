"""Training from the first step to the summary, read from top to bottom.

Where a run starts, in this order:
  1. the latest sound checkpoint of its own workdir, with the optimizer, the step and so the position in the data;
  2. the weights and statistics of another run, `config.init_from`;
  3. fresh weights, a pure function of `config.seed`.
"""

import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from resjax import files
from resjax.config import Durations, plain
from resjax.data.loader import Dataset
from resjax.evaluation.evaluate import Metrics, add, evaluate, means
from resjax.models import counts
from resjax.models.spec import Spec
from resjax.train import checkpoint
from resjax.train.log import RunLog
from resjax.train.preemption import Preempted, StopRequest
from resjax.train.program import Program
from resjax.train.progress import Clock
from resjax.train.step import TrainState


class NonFiniteLoss(Exception):
    """The loss became infinite or NaN; the message names the step."""


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
                    latest[split] = evaluate(
                        program.eval_step, state.params, state.batch_stats, images, program.place
                    )
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

        state_digest = checkpoints.save(state, record()).result()  # the last step is saved: nothing is saved again
        summary = _summary(spec, state_digest, record(), config.batch_size)
    files.write_json(workdir / "summary.json", summary)  # closing the checkpoints waited for the last one
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


def _summary(spec: Spec, state_digest: str, record: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """What a finished run leaves: results, cost, and the digest of its final state."""
    results = {
        f"{split}_{name}": value for split, values in record["latest"].items() for name, value in values.items()
    }
    total, train_seconds = counts.total(spec), record["train_seconds"]
    return {
        **results,
        "steps": record["data"]["next_step"],
        "seconds": round(record["seconds"], 3),
        "images_per_second": batch_size * record["train_steps"] / train_seconds if train_seconds else 0.0,
        "params": total.params,
        "macs": total.macs,
        "depth": spec.depth,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "state_digest": state_digest,
    }
