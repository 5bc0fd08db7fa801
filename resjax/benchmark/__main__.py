"""Measures how fast networks train here.

    python -m resjax.benchmark --config=configs/cifar10.py:v1-20 --config.data.name=synthetic
    python -m resjax.benchmark --suite=cifar --limit=540

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

A suite is many such networks and ways to run them, for accelerators: every row is a process of its own with a
time-out, its data made up and on the device. It needs no data set, and nothing that reads one. What is known is in
--out after every row; the same command goes on with the rows that --limit left out. The last thing is a table: the
step, compilation anew and out of the cache, memory, arithmetic by formula and traffic as the compiler counts it,
beside what one large matrix product and one large copy reach, and the seconds of all steps with the first one.

--input measures how fast the config's photos become batches, and trains nothing: with threads and processes on 1,
2, 4, ... cores, stage by stage on one core, and beside decoding the same JPEGs from memory. It prints two tables.

--profile writes a trace of a few steps instead, and says how to look at it.
"""

import time

BEGAN = time.monotonic()  # before the imports, which are part of what a person waits for

from resjax import allocation, interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds
    allocation.keep()
elif __name__ == "__mp_main__":
    from resjax.data import worker

    worker.live_and_die_with_parent()

import json
import os
from pathlib import Path

import jax
from absl import flags

from resjax import cli, files
from resjax.benchmark import conduct, pipeline, point, report, suites, twins
from resjax.benchmark.measure import ROUNDS, measure
from resjax.benchmark.profile import profile
from resjax.errors import DONE, BadInput, unknown
from resjax.train.progress import NonFinite


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("steps", 30, "Steps to measure of each kind.", flag_values=values)
    flags.DEFINE_string(
        "out", None, "Also write the JSON into this file; for a suite benchmark-SUITE.json.", flag_values=values
    )
    flags.DEFINE_boolean("cold", False, "Compile anew, without the cache on disk.", flag_values=values)
    flags.DEFINE_boolean("pytorch", True, "Measure PyTorch too, where it is installed.", flag_values=values)
    flags.DEFINE_boolean("flax", True, "Measure stock Flax too.", flag_values=values)
    flags.DEFINE_string("suite", None, f"Measure many networks: {', '.join(suites.SUITES)}.", flag_values=values)
    flags.DEFINE_float("limit", 3600.0, "Seconds for a suite; what is left is left out.", flag_values=values)
    flags.DEFINE_boolean("tiny", False, "Tiny networks, to see that a suite works.", flag_values=values)
    flags.DEFINE_string("point", None, f"One row of a suite: {', '.join(point.NAMES)}.", flag_values=values)
    flags.DEFINE_boolean("input", False, "Measure the making of batches from photos.", flag_values=values)
    flags.DEFINE_string("profile", None, "Write a trace of a few steps into this folder.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define, config="optional")
    if values.steps < ROUNDS:
        raise BadInput(f"--steps={values.steps}: must be at least {ROUNDS}, one for each round")
    only = [
        f"--{name}" for name in ("suite", "point", "profile", "input") if values[name].value not in (None, False)
    ]
    if len(only) > 1:
        raise BadInput(f"{' and '.join(only)}: give one of them")
    if values.suite is not None:
        return run_suite(values)
    for name in ("limit", "tiny"):
        if values[name].present:
            raise BadInput(f"--{name} is for a --suite: leave it out")
    if not values.config:
        raise BadInput("--config is missing: give a file, such as --config=configs/digits.py, or a --suite")
    out = check_out(values.out) if values.out else None
    if values.input:
        return run_input(values, out)
    if values.point is not None and values.point not in point.NAMES:
        raise BadInput(unknown("--point", values.point, point.NAMES))
    if values.profile is not None:
        check_folder("--profile", Path(values.profile))
    if values.cold:
        jax.config.update("jax_enable_compilation_cache", False)
    else:
        cli.use_compilation_cache()
    if values.profile is not None:
        profile(values.config, Path(values.profile))
        return DONE
    try:
        if values.point is not None:
            result = point.measure(values.point, values.config, values.steps, BEGAN)
        else:
            names = [name for name in twins.NAMES if values[name].value]
            result = measure(values.config, values.steps, names, BEGAN)
    except NonFinite as error:
        raise BadInput(f"the recipe diverges within {values.steps} steps: {error}") from error
    print(json.dumps(result, indent=2))
    if out:
        files.write_json(out, result)
    return DONE


def run_input(values: flags.FlagValues, out: Path | None) -> int:
    """Measures the making of batches and prints its tables."""
    for name in ("cold", "pytorch", "flax"):
        if values[name].present:
            raise BadInput(f"--{name}: nothing is trained with --input; leave it out")
    result = pipeline.measure(values.config, values.steps)
    print(pipeline.table(result))
    if out:
        files.write_json(out, result)
    return DONE


def run_suite(values: flags.FlagValues) -> int:
    """Measures a suite and prints its table."""
    suite, limit = values.suite, values.limit
    if suite not in suites.SUITES:
        raise BadInput(unknown("--suite", suite, suites.SUITES.keys()))
    for name in ("config", "steps", "cold", "pytorch", "flax"):
        if values[name].present:
            raise BadInput(f"--{name}: the rows of --suite={suite} have their own; leave it out")
    if not limit > 0:
        raise BadInput(f"--limit={limit:g}: give the seconds that all of it may take, such as --limit=540")
    if not Path("configs").is_dir():
        raise BadInput(f"--suite={suite} reads the folder configs/: run it in a checkout of resjax")
    out = check_out(values.out or f"benchmark-{suite}.json")
    result = conduct.conduct(suite, out, limit, values.tiny)
    print(report.table(result))
    if not result["complete"]:
        report.say(f"{out} is kept: the same command goes on with what the limit left out")
    return DONE


def check_out(text: str) -> Path:
    """The file that results go to, if it can be written."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise BadInput(f"--out={text}: there is no such folder; make it first")
    if path.exists() and not path.is_file():
        raise BadInput(f"--out={text}: is not a file; give the name of one")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise BadInput(f"--out={text}: no permission to write there; give another file")
    return path


def check_folder(flag: str, path: Path) -> None:
    """Raises BadInput unless a folder is there, or can be made."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise BadInput(f"{flag}={path}: {folder} is a file; give a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"{flag}={path}: no permission to write in {folder}; give another folder")


if __name__ == "__main__":
    cli.run(main)
