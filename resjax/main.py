"""Trains a network, or evaluates a checkpoint of one.

    python -m resjax.main --config=configs/digits.py --config.total_epochs=10 --workdir=runs/short
    python -m resjax.main --mode=eval --workdir=runs/short

The same command resumes a stopped run. To evaluate a run, its folder is enough.
Exit codes: 0 done, 2 bad input, 3 the loss became infinite or NaN, 69 another process of the job is gone,
75 stopped by a signal with the state saved.
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
import math
import os
import shlex
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

import resjax
from resjax import checks, cli, experiment, files
from resjax.config import flatten, network, plain, restored
from resjax.data import folders
from resjax.data.preprocess import CROP_SHARE
from resjax.errors import DONE, INTERRUPTED, NON_FINITE, BadInput
from resjax.evaluation.evaluate import evaluate
from resjax.models import counts
from resjax.train import hosts, lock, placement, summary
from resjax.train.checkpoint import versions
from resjax.train.initialize import check_source
from resjax.train.loop import Experiment, train
from resjax.train.peers import Alone, Peers
from resjax.train.preemption import Preempted
from resjax.train.progress import NonFinite
from resjax.weights import source

CURVES = "curves.png"
DRAWING = threading.Lock()  # matplotlib is made for one thread
OPTIONS = ("jitter", "lighting", "policy", "erase")  # of augmentation, which are named where they are on
OF_A_MACHINE = ("data.dir",)  # fields that the processes of a job need not have in common


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME by default.", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint.", flag_values=values)
    flags.DEFINE_string("step", "latest", "With --mode=eval: latest, best or a step.", flag_values=values)
    flags.DEFINE_integer("devices", None, "Split the CPU into so many devices.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "Of several processes: HOST:PORT of process 0.", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "How many processes train together.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_integer(
        "initialization_timeout", 300, "Seconds to wait for the other processes.", flag_values=values
    )


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define, config="optional")
    if values.devices is not None:
        cli.use_devices(values.devices)
    cli.use_compilation_cache()
    if not values.config and (values.mode == "train" or not values.workdir):
        raise BadInput(
            "--config is missing: give a file, such as --config=configs/digits.py, or with --mode=eval a --workdir"
        )
    workdir, timeout = Path(values.workdir or Path("runs") / values.config.name), values.initialization_timeout
    if timeout < 1:
        raise BadInput(f"--initialization_timeout={timeout}: must be at least 1 second")
    place = hosts.place(values.coordinator, values.num_processes, values.process_id, timeout)
    with hosts.joined(place, common(values, workdir), timeout) as job:
        if values.mode == "train":
            return train_run(workdir, values.config, argv, job)
        result = evaluate_run(workdir, values.config, cli.overrides(argv), values.step, job)
        if job.index == 0:
            print(json.dumps(result, indent=2))
        return DONE


def common(values: flags.FlagValues, workdir: Path) -> dict[str, Any]:
    """What has to be equal in all processes of a job, by name."""
    fields = flatten(plain(values.config)) if values.config else {}
    config = {f"config.{name}": value for name, value in fields.items() if name not in OF_A_MACHINE}
    return {"mode": values.mode, "step": values.step, "workdir": str(workdir)} | versions() | config


def train_run(
    workdir: Path,
    config: ConfigDict,
    argv: list[str],
    job: Peers | Alone,
    devices: Sequence[jax.Device] | None = None,
    shared: experiment.Shared | None = None,
) -> int:
    """Trains in `workdir`, or goes on there, and returns the exit code.

    Args:
      argv: the command line that repeats it.
      devices, shared: as in `experiment.open`.

    Raises:
      BadInput: before anything is written, for whatever cannot work.
    """
    # Everything that can be wrong is found before anything is written or compiled.
    checks.validate(config, len(devices or jax.devices()))
    config = check_workdir(workdir, config)
    if config.init_from and not experiment.preprocessing(workdir):  # else it goes on from its own weights
        check_source(config.init_from, network(checks.described(config)))
    run = experiment.open(config, workdir, devices, shared)
    finished = summary.read(workdir)
    if finished and finished["steps"] >= run.durations.total:
        say(f"{workdir} is finished: {finished['steps']} steps; train longer or choose another --workdir")
        if job.index == 0 and not holds_something(workdir / CURVES):
            draw(run, workdir)
        return report(workdir, finished)
    check_placement(run, job)
    check_listing(run, job)
    try:
        with ExitStack() as held:
            if job.index == 0:
                try:
                    workdir.mkdir(parents=True, exist_ok=True)
                    held.enter_context(lock.hold(workdir))
                    files.remove_temporary(workdir)
                    files.write_json(workdir / "config.json", plain(run.config))
                    if (listing := run.dataset.source.listing) and not (workdir / folders.LIST).exists():
                        files.write_json(workdir / folders.LIST, listing.json())
                except OSError as error:
                    raise BadInput(
                        f"workdir={workdir} is not writable: {error}; choose another --workdir"
                    ) from error
            job.gather("workdir", None)
            check_shared(workdir)
            announce(run, workdir)
            found = train(run, workdir, BEGAN, job)
            if job.index == 0:
                draw(run, workdir)
    except Preempted as stopped:
        say(f"{stopped}; saved in {workdir}")
        say(f"to go on, run the same command again: python -m resjax.main {shlex.join(argv)}")
        return INTERRUPTED
    except NonFinite as error:
        say(f"error: {error}")
        return NON_FINITE
    return report(workdir, found)


def check_workdir(workdir: Path, config: ConfigDict) -> ConfigDict:
    """The config with which a run of `config` is started or resumed in `workdir`.

    Raises:
      BadInput: if it cannot be.
    """
    path = workdir / "config.json"
    try:
        resumes = path.is_file()
    except PermissionError as error:
        raise BadInput(f"workdir={workdir}: no permission to look into it; choose another --workdir") from error
    if resumes:
        saved = restored(files.read_json(path), path)
        if changed := checks.differences(saved, config):
            raise BadInput(
                f"workdir={workdir} holds another run: {'; '.join(changed)}. Use its values or another --workdir"
            )
        config = checks.continued(saved, config)
    elif workdir.exists() and not (workdir.is_dir() and all(map(left_over, workdir.iterdir()))):
        raise BadInput(f"workdir={workdir} exists and is not a resjax run; choose an empty or new folder")
    for folder in (workdir.absolute(), workdir.absolute() / "checkpoints"):
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            why = "no permission to write in" if folder.is_dir() else "a file is in the place of the folder"
            raise BadInput(f"workdir={workdir} is not writable: {why} {folder}; choose another --workdir")
    return config


def check_placement(run: Experiment, job: Peers | Alone) -> None:
    """Raises BadInput unless the data lie in one way in all processes, whose devices may differ."""
    if len(set(job.gather("placement", placement.name(run.program.data)))) > 1:
        raise BadInput("data.placement=auto: the set fits on the devices of some processes alone: use host")


def check_listing(run: Experiment, job: Peers | Alone) -> None:
    """Raises BadInput unless all processes see the same photos, whose folder may be another on each machine."""
    listing = run.dataset.source.listing
    if len(set(job.gather("listing", listing and listing.digest))) > 1:
        raise BadInput(
            f"data.dir={run.config.data.dir}: processes see different photos there: give each the same ones"
        )


def check_shared(workdir: Path) -> None:
    """Raises BadInput unless this process sees what the first one wrote, which a network may delay a little."""
    for _ in range(20):
        if (workdir / "config.json").is_file():
            return
        time.sleep(0.5)
    raise BadInput(f"workdir={workdir} is another folder here than for process 0: give one that all machines share")


def left_over(path: Path) -> bool:
    """True for a file that a process killed at its start leaves in its workdir."""
    return path.name == lock.NAME or files.is_temporary(path)


def holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def draw(run: Experiment, workdir: Path) -> None:
    """Draws the curves of a finished run."""
    from resjax.analysis import curves  # matplotlib takes a second to import; nothing waits for it by now

    with DRAWING, files.writing(workdir):
        curves.draw({run.config.name: workdir}, workdir / CURVES)


def evaluate_run(
    workdir: Path, config: ConfigDict | None, overrides: list[str], which: str, job: Peers | Alone
) -> dict[str, Any]:
    """Accuracy and loss of one checkpoint on the test split (and the validation split, if any); writes nothing.

    The run's own config is used. `overrides` may name another data set, folder or split, and `eval_train` adds the
    training split; stderr names every other difference of `config`.

    Raises:
      BadInput: if there is no run, or for an override that would change what the run is.
    """
    saved = workdir / "config.json"
    if source.is_weights(workdir):
        raise BadInput(f"workdir={workdir} is a file of weights: python -m resjax.evaluate takes it")
    if not saved.is_file():
        raise BadInput(f"workdir={workdir} holds no run; train one there first")
    own = restored(files.read_json(saved), saved)
    asked = cli.judged(own, overrides, "--mode=eval")
    if config:
        for line in checks.differences(own, config, checks.FREE | checks.EVALUATION):
            if line.startswith("model."):
                raise BadInput(f"workdir={workdir} holds another network: {line}. Leave --config out")
            say(f"the run's own value is taken: {line}")
    run, state = experiment.load(workdir, which, asked, job)
    check_placement(run, job)
    check_listing(run, job)
    step, data = int(state.step), run.config.data
    where = f" {data.dir}" if run.dataset.source.listing else ""
    say(f"evaluating step {step} of {workdir} on {data.name}{where}, preprocessed as in training")
    if experiment.listing(workdir, own) not in (None, run.dataset.source.listing):
        say(f"note      data.dir={data.dir} holds other photos than the run's own: they are listed anew")
    for note in run.dataset.source.notes:
        say(f"note      {note}")
    result: dict[str, Any] = {"step": step}
    for evaluation in run.evaluations:
        means = evaluate(run.program.eval_step, *state.weights(evaluation.averaged), evaluation.batches())
        result |= {f"{evaluation.name}_{key}": value for key, value in means.items()}
    return result


def announce(run: Experiment, workdir: Path) -> None:
    """Says what is about to run, on what, and where its logs will be."""
    config, spec, dataset, durations = run.config, run.spec, run.dataset, run.durations
    cost, device, mesh = counts.total(spec), jax.devices()[0], run.program.mesh.shape
    scan = ", scanned" if spec.scan else ""
    where = {"host": "", "whole": ", whole on every device", "split": ", split over the devices"}
    where["whole"] *= device.platform != "cpu" or jax.device_count() > 1  # a CPU's memory is the host's
    placed = where[placement.name(run.program.data)]
    photos = f" {config.data.dir}" if dataset.source.listing else ""
    calls = f", up to {run.program.stride} a call" if run.program.stride > 1 else ""
    switched_on = "".join(f" {name}={getattr(dataset, name)}" for name in OPTIONS if getattr(dataset, name))
    switched_on += f" repeats={dataset.repeats}" if dataset.repeats > 1 else ""
    own = dataset.preprocessing
    switched_on += f" train_image_size={dataset.train_image_size}" if config.data.train_image_size else ""
    switched_on += f" interpolation={own.interpolation}" if own.interpolation != "bilinear" else ""
    switched_on += f" crop_share={own.crop_share:.4g}" if own.crop_share != CROP_SHARE else ""
    switched_on += f" decode={own.decode}" if own.decode != "full" else ""
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    say(
        f"resjax {resjax.__version__}, jax {jax.__version__}\n"
        f"device    {run.program.mesh.size} x {device.device_kind} ({device.platform}){processes}; "
        f"mesh data={mesh['data']} fsdp={mesh['fsdp']}\n"
        f"network   {config.name}: depth {spec.depth}, {cost.params:,} parameters, "
        f"{cost.macs / 1e6:,.1f} M multiply-adds per image, {spec.dtype}{scan}\n"
        f"data      {config.data.name}{photos}: {dataset.train_size:,} training, "
        f"{dataset.validation_size:,} validation, {dataset.test_size:,} test images of "
        f"{' x '.join(map(str, dataset.image_shape))} in {dataset.num_classes} classes{placed}\n"
        f"          augment={dataset.augment} pad={dataset.pad} normalize={dataset.normalize}{switched_on}\n"
        f"training  {durations.total:,} steps of {config.batch_size} images, "
        f"{durations.total / durations.per_epoch:.1f} epochs{calls}\n"
        f"logs      {workdir}  (metrics.jsonl, tensorboard/, checkpoints/)"
    )
    for note in dataset.source.notes:
        say(f"note      {note}")
    unused = dataset.source.sizes.keys() - {part.base for part in dataset.parts.values()}
    for name in sorted(unused) if photos else ():
        say(f"note      {name} is not used: --config.data.validation_split={name} evaluates it, too")
    young = math.ceil(math.log(0.01, spec.bn_momentum)) if spec.bn_momentum else 0
    if spec.norm == "batch" and not config.init_from and min(durations.eval_every, durations.total) < young:
        say(
            f"note      before step {young} BN's running averages still hold over 1 % of their starting values: "
            "test losses can be huge"
        )


def report(workdir: Path, found: dict[str, Any]) -> int:
    """Prints the summary of a finished run."""
    average = found.get("test_ema_accuracy")
    averaged = f" ({100 * average:.2f} % of the moving average)" if isinstance(average, float) else ""
    say(
        f"done      test accuracy {100 * found['test_accuracy']:.2f} %{averaged}, {found['steps']:,} steps, "
        f"{found['seconds']:.1f} s, {found['images_per_second']:,.0f} images/s\n"
        f"digest    {found['state_digest']}\n"
        f"results   {workdir / summary.NAME}, {workdir / CURVES}"
    )
    return DONE


def say(text: str) -> None:
    """A line on stderr, of the first process alone."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
