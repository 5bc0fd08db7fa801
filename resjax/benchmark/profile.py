"""A trace of a few training steps, for TensorBoard."""

import sys
from contextlib import closing
from pathlib import Path

import jax
from ml_collections import ConfigDict

from resjax import experiment
from resjax.benchmark.measure import BareStep

CALLS = 5


def profile(config: ConfigDict, folder: Path) -> None:
    """Writes a trace of `CALLS` calls of the compiled step into a folder, and says how to look at it.

    Raises:
      BadInput: for a config that cannot train.
    """
    run = experiment.open(config)
    with closing(run.batches()) as batches:
        step = BareStep(run, run.program.take(batches))
    step()  # compiles
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        for i in range(CALLS):
            with jax.profiler.StepTraceAnnotation("train", step_num=i):
                step()
    print(
        f"a trace of {CALLS} calls is in {folder}. To look at it:\n"
        f"  pip install tensorboard xprof && tensorboard --logdir={folder}      then the tab Profile\n"
        f"  or open its perfetto_trace.json.gz at https://ui.perfetto.dev",
        file=sys.stderr,
    )
