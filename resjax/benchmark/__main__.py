"""Measures how fast a network trains here.

    python -m resjax.benchmark --config=configs/cifar10.py:v1-20 --steps=30

Prints one JSON object. It measures, in turns over several rounds, on the first batch of the config's own data:

  step_seconds       median of single training steps on a batch that lies on the device, each waited for
  forward_seconds    the forward pass by itself; `gradient_seconds` is forward and backward, the step less the
                     optimizer and the norms that are logged
  loop_step_seconds  a step of the training loop itself, input and logs included, evaluation and checkpoints not;
                     `loop_overhead` compares it with steps that are also waited for only at the end
  save_step_ratio    single steps while a checkpoint of the state is being saved, beside those of `step_seconds`;
                     `save_blocking_seconds` is how long the loop waits until it may go on
  flax_...           single steps of the same network, weights and batch as people write them in Flax today, each
                     waited for; `ratio_to_flax` above 1 means that resjax is faster
  pytorch_...        the same in PyTorch, where it is installed
"""

import time

BEGAN = time.monotonic()  # before the imports, which are part of what a person waits for

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import json
from pathlib import Path

import jax
from absl import flags

from resjax import cli, files
from resjax.benchmark import twins
from resjax.benchmark.measure import ROUNDS, measure
from resjax.errors import BadInput
from resjax.train.progress import NonFinite


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("steps", 30, "Steps to measure of each kind.", flag_values=values)
    flags.DEFINE_string("out", None, "Also write the JSON into this file.", flag_values=values)
    flags.DEFINE_boolean("cold", False, "Compile anew, without the cache on disk.", flag_values=values)
    flags.DEFINE_boolean("pytorch", True, "Measure PyTorch too, where it is installed.", flag_values=values)
    flags.DEFINE_boolean("flax", True, "Measure stock Flax too.", flag_values=values)


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
        names = [name for name in twins.NAMES if values[name].value]
        result = measure(values.config, values.steps, names, BEGAN)
    except NonFinite as error:
        raise BadInput(f"the recipe diverges within {values.steps} steps: {error}") from error
    print(json.dumps(result, indent=2))
    if values.out:
        files.write_json(Path(values.out), result)
    return 0


if __name__ == "__main__":
    cli.run(main)
