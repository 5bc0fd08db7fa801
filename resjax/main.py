"""Trains a network, or evaluates a checkpoint of one.

    python -m resjax.main --config=configs/digits.py --config.total_epochs=10 --workdir=runs/short

The same command goes on with a run that was stopped.
Exit codes: 0 done, 2 bad input, 3 the loss became non-finite, 75 stopped by a signal with the state saved.
"""

import time

BEGAN = time.monotonic()  # before the imports, which are part of what a person waits for

import json
import os
import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

import resjax
from resjax import cli
from resjax.checks import differences, mesh_shape, validate, validate_data
from resjax.config import Durations, durations, plain
from resjax.data.loader import Dataset, open_dataset
from resjax.errors import INTERRUPTED, NON_FINITE, BadInput
from resjax.evaluation.evaluate import evaluate
from resjax.files import read_json, write_json
from resjax.models import counts
from resjax.models.spec import Spec
from resjax.train import preemption
from resjax.train.checkpoint import Checkpoints, check_source
from resjax.train.loop import NonFiniteLoss, train
from resjax.train.program import build


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME by default.", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint.", flag_values=values)
    flags.DEFINE_string("step", "latest", "With --mode=eval: latest, best or a step.", flag_values=values)
    flags.DEFINE_integer("devices", None, "Split the CPU into so many devices.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define)
    config = values.config
    if values.devices is not None:
        cli.use_devices(values.devices)
    cli.use_compilation_cache()

    # Everything that can be wrong is found here, before anything is written or compiled.
    spec = validate(config, jax.device_count())
    workdir = Path(values.workdir or Path("runs") / config.name)
    check_workdir(workdir, config, training=values.mode == "train")
    if config.init_from and values.mode == "train":
        check_source(Path(config.init_from), spec)
    dataset = open_dataset(**config.data)
    validate_data(config, spec, dataset.image_shape, dataset.num_classes)
    plan = durations(config, dataset.train_size)

    if values.mode == "eval":
        print(json.dumps(evaluate_checkpoint(config, spec, plan, dataset, workdir, values.step), indent=2))
        return 0
    if (workdir / "summary.json").exists():
        summary = read_json(workdir / "summary.json")
        if summary["steps"] >= plan.total:
            say(f"{workdir} is finished: {summary['steps']} steps; raise total_steps or choose another --workdir")
            return report(workdir, summary)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", plain(config))
    except OSError as error:
        raise BadInput(f"workdir={workdir} is not writable: {error}; choose another --workdir") from error
    announce(config, spec, plan, dataset, workdir)
    try:
        summary = train(config, spec, plan, dataset, workdir, build(config, spec, plan), BEGAN)
    except preemption.Preempted as stopped:
        say(f"{stopped}\nto go on, run the same command again: python -m resjax.main {shlex.join(argv)}")
        return INTERRUPTED
    except NonFiniteLoss as error:
        say(f"error: {error}")
        return NON_FINITE
    from resjax.analysis import curves  # matplotlib takes a second to import; nothing waits for it by now

    curves.draw({config.name: workdir}, workdir / "curves.png")
    return report(workdir, summary)


def check_workdir(workdir: Path, config: ConfigDict, training: bool) -> None:
    """Raises BadInput if a run of `config` cannot be started, resumed or evaluated in `workdir`."""
    saved = workdir / "config.json"
    if saved.is_file():
        changed = differences(read_json(saved), config)
        if not training:
            changed = [line for line in changed if line.startswith("model.")]
        if changed:
            raise BadInput(
                f"workdir={workdir} holds another run: {'; '.join(changed)}. Use its values or another --workdir"
            )
    elif not training:
        raise BadInput(f"workdir={workdir} holds no run to evaluate; train one there first")
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise BadInput(f"workdir={workdir} exists and is no run of resjax; choose an empty or new folder")
    if training:
        parent = workdir.absolute()
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise BadInput(
                f"workdir={workdir} is not writable: {parent} is closed to you; choose another --workdir"
            )


def evaluate_checkpoint(
    config: ConfigDict, spec: Spec, plan: Durations, dataset: Dataset, workdir: Path, which: str
) -> dict[str, Any]:
    """Accuracy and loss of one checkpoint on the test split (and the validation split, if any); writes nothing."""
    program = build(config, spec, plan)
    with closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.find(which)
        state, _ = checkpoints.restore(program.abstract, step)
    result: dict[str, Any] = {"step": step}
    for split in ["validation", "test"] if dataset.validation_size else ["test"]:
        images = dataset.evaluate(split, config.batch_size)
        means = evaluate(program.eval_step, state.params, state.batch_stats, images, program.place)
        result |= {f"{split}_{name}": value for name, value in means.items()}
    return result


def announce(config: ConfigDict, spec: Spec, plan: Durations, dataset: Dataset, workdir: Path) -> None:
    """Says what is about to run, on what, and where its logs will be."""
    cost, device, mesh = counts.total(spec), jax.devices()[0], mesh_shape(config, jax.device_count())
    scan = ", scanned" if spec.scan else ""
    say(
        f"resjax {resjax.__version__}, jax {jax.__version__}\n"
        f"device    {jax.device_count()} x {device.device_kind} ({device.platform}); "
        f"mesh data={mesh[0]} fsdp={mesh[1]}\n"
        f"network   {config.name}: depth {spec.depth}, {cost.params:,} parameters, "
        f"{cost.macs / 1e6:,.1f} M multiply-adds per image, {spec.dtype}{scan}\n"
        f"data      {config.data.name}: {dataset.train_size:,} training, {dataset.validation_size:,} validation, "
        f"{dataset.test_size:,} test images of {' x '.join(map(str, dataset.image_shape))}\n"
        f"training  {plan.total:,} steps of {config.batch_size} images, {plan.total / plan.per_epoch:.1f} epochs\n"
        f"logs      {workdir}  (metrics.jsonl, tensorboard/, checkpoints/)"
    )


def report(workdir: Path, summary: dict[str, Any]) -> int:
    """Prints the result of a finished run."""
    say(
        f"done      test accuracy {100 * summary['test_accuracy']:.2f} %, {summary['steps']:,} steps, "
        f"{summary['seconds']:.1f} s, {summary['images_per_second']:,.0f} images/s\n"
        f"digest    {summary['state_digest']}\n"
        f"results   {workdir / 'summary.json'}, {workdir / 'curves.png'}"
    )
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
