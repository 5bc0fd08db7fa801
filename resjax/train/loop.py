"""Training from the first step to the summary, read from top to bottom.

Where a run starts, in this order:
  1. the latest sound checkpoint of its own workdir, with the optimizer, the step and so the position in the data;
  2. the weights and statistics of another run, `config.init_from`;
  3. fresh weights, a pure function of `config.seed`.
"""

import dataclasses
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import files, machine
from resjax.config import Durations, plain
from resjax.data.ahead import Batches
from resjax.data.loader import Dataset
from resjax.evaluation.evaluate import Evaluation, evaluate
from resjax.models import counts
from resjax.models.spec import Spec
from resjax.train import summary
from resjax.train.checkpoint import Checkpoints
from resjax.train.initialize import initialize_from
from resjax.train.log import RunLog, Silence
from resjax.train.peers import Alone, Peers
from resjax.train.preemption import Preempted, StopRequest
from resjax.train.program import Program
from resjax.train.progress import Progress, check_finite
from resjax.train.step import TrainState


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a run needs beside a folder; `resjax.experiment.open` assembles it."""

    config: ConfigDict
    spec: Spec
    dataset: Dataset
    durations: Durations
    evaluations: tuple[Evaluation, ...]
    program: Program

    def batches(self, start_step: int = 0) -> Batches:
        """What training reads, from a step on: for `Program.take`, and to be closed."""
        read = self.dataset.draws if self.program.data else self.dataset.train
        return read(self.config.batch_size, self.config.seed, start_step, self.program.rows)


def train(
    experiment: Experiment, workdir: Path, began: float | None = None, job: Peers | Alone | None = None
) -> dict[str, Any]:
    """Trains to the last step, resuming if it can, and returns the summary written to `workdir/summary.json`.

    Args:
      workdir: the run's folder; exists.
      began: `time.monotonic()` when the process started, for the times that the summary states.
      job: the processes that train together; all call this, and the first one writes.

    Raises:
      Preempted: after a signal, once the state is saved.
      NonFinite: naming the step.
    """
    began = time.monotonic() if began is None else began
    job = job or Alone()
    with closing(Checkpoints(workdir, experiment.config.checkpoint_keep, job)) as checkpoints:
        state, progress = start(experiment, checkpoints, began)
        total = experiment.durations.total
        log = Silence() if job.index else RunLog(workdir, int(state.step), total)
        # In this order: a signal from here on waits until the last save is on the disk.
        with StopRequest(job=job) as stop, closing(checkpoints), closing(log):
            if state.step:
                log.say(f"resumed  from step {state.step}")
            state = fit(experiment, state, progress, log, checkpoints, stop)
            step = int(state.step)
            # It is saved already: this only asks for its digest.
            digest = checkpoints.save(state, record(experiment, progress, step)).result()
    found = summarize(experiment, step, digest, progress)
    if job.index == 0:
        with files.writing(workdir):
            files.write_json(workdir / summary.NAME, found)  # closing the checkpoints waited for the last one
    return found


def fit(
    experiment: Experiment,
    state: TrainState,
    progress: Progress,
    log: RunLog | Silence,
    checkpoints: Checkpoints | None,
    stop: StopRequest,
) -> TrainState:
    """The loop: from `state` to the last step. Without `checkpoints` nothing is saved."""
    config, durations, program = experiment.config, experiment.durations, experiment.program
    start = step = int(state.step)
    seed = np.uint32(config.seed)
    pending = []  # metrics of calls not waited for yet, and how many steps each took
    if start < durations.total:
        log.say("compiling the first step")
    with closing(experiment.batches(start)) as batches:
        while step < durations.total:
            count = min(program.stride, durations.next_stop(step) - step)
            with progress.clock.waiting(count):
                feed = program.take(batches, count)
            state, metrics = program.train_step(state, feed, seed)
            step += count
            pending.append((metrics, count))
            if step == start + count:
                jax.block_until_ready(metrics)
                log.begin(step, f"compiled first step after {time.monotonic() - progress.began:.1f} s")
                progress.clock.restart()

            last = step == durations.total
            stopping = stop.at(step)  # asked once: a signal from here on counts at the next step
            due = [e for e in experiment.evaluations if e.due(step, durations.total)]
            saving = last or stopping or step % durations.checkpoint_every == 0
            if due or saving or step % durations.log_every < count:
                for at, found in progress.absorb(step, pending, durations.log_every, all=bool(due or saving)):
                    log.write(at, "train", found | speed(progress, config.batch_size))
                pending = []
            if due:
                progress.close_interval()
            for evaluation in due:
                found = evaluate(program.eval_step, *state.weights(evaluation.averaged), evaluation.batches())
                check_finite(f"{evaluation.name} loss", found["loss"], step)
                progress.latest[evaluation.name] = found
                log.write(step, evaluation.name, found)
            if saving and checkpoints:
                # Before the next batch is drawn: the position in the data is the step.
                checkpoints.save(state, record(experiment, progress, step), score(progress, due))
            if due or saving:
                progress.clock.restart()
            if stopping and not last:
                raise Preempted(f"stopped at step {step} of {durations.total}")
    return state


def start(experiment: Experiment, checkpoints: Checkpoints, began: float) -> tuple[TrainState, Progress]:
    """The state that a run starts from, in the order that the module states, and the progress saved with it."""
    config, program = experiment.config, experiment.program
    if resumed := checkpoints.restore_latest(program.abstract):
        state, meta = resumed
        if jax.process_index() == 0:
            for line in machine.changes(meta.get("machine", {}), jax.default_backend()):
                print(line, file=sys.stderr)
        # 0.1.0 kept its progress among the rest.
        return state, Progress.from_json(meta.get("progress", meta), began)
    state = program.init(np.uint32(config.seed))
    if config.init_from:
        state = initialize_from(config.init_from, state, experiment.spec, experiment.dataset.preprocessing)
    return state, Progress(began=began)


def record(experiment: Experiment, progress: Progress, step: int) -> dict[str, Any]:
    """What a checkpoint stores beside the state."""
    return {
        "config": plain(experiment.config),
        "preprocessing": experiment.dataset.preprocessing.json(),
        "machine": machine.describe(experiment.program.mesh.size) | {"compilation_cache": machine.cache()},
        "data": {"next_step": step, "seed": experiment.config.seed},
        "progress": progress.json(),
    }


def score(progress: Progress, due: list[Evaluation]) -> float | None:
    """What the best checkpoint is chosen by: a validation accuracy found at this very step, and nothing else."""
    return progress.latest["validation"]["accuracy"] if any(e.name == "validation" for e in due) else None


def speed(progress: Progress, batch_size: int) -> dict[str, float]:
    """Images per second and the share of time spent waiting for input; empty before any step was timed."""
    clock = progress.clock
    return {"images_per_second": clock.rate * batch_size, "input_wait": clock.wait_share} if clock.rate else {}


def summarize(experiment: Experiment, step: int, digest: str, progress: Progress) -> dict[str, Any]:
    """What a finished run leaves: results, cost, and the digest of its final state."""
    results = {f"{name}_{key}": value for name, found in progress.latest.items() for key, value in found.items()}
    total, clock = counts.total(experiment.spec), progress.clock
    return {
        **results,
        "steps": step,
        "seconds": round(progress.seconds, 3),
        "images_per_second": experiment.config.batch_size * clock.steps / clock.seconds if clock.seconds else 0.0,
        "params": total.params,
        "macs": total.macs,
        "depth": experiment.spec.depth,
        "device": f"{experiment.program.mesh.size} x {jax.devices()[0].device_kind}",
        "threads": machine.threads(),
        "state_digest": digest,
    }
