"""Evaluates finished runs as the papers do: one view of every image, ten, or many scales; one run, or an ensemble.

    python -m resjax.evaluate --workdir=runs/digits-v1-20
    python -m resjax.evaluate --workdir=runs/A --workdir=runs/B --views=scales --out=ensemble.json

Prints top-1 and top-5 accuracy with bootstrap intervals, and how every class fares. Of several runs the class
probabilities are averaged; they may differ in network and preprocessing, not in their classes. A run's own config
and preprocessing count; only the data set, its folder and its splits may differ, such as --config.data.dir=DIR.
Every image counts once, on any number of devices. Nothing is written but what --out and --confusion name.
"""

from resjax import allocation, interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds
    allocation.keep()

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resjax import checks, cli, files, machine
from resjax.config import network, restored
from resjax.data.loader import open_dataset
from resjax.data.preprocess import Preprocessing
from resjax.data.resolve import resolve
from resjax.data.sources import Source
from resjax.data.splits import parse_slice
from resjax.errors import DONE, BadInput
from resjax.evaluation import ensemble, report, views
from resjax.evaluation.ensemble import Task
from resjax.evaluation.views import Views
from resjax.models import scan
from resjax.models.spec import Spec
from resjax.train import sharding
from resjax.train.checkpoint import Checkpoints

WEIGHTS = ("last", "best")
LARGEST = 4096  # pixels of a scale
QUIET = 10.0  # seconds between two lines of progress


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One run, opened: which weights of what network, and what it is judged on.

    Attributes:
      meta: what was saved beside the weights.
      source: of the records.
    """

    workdir: Path
    config: ConfigDict
    spec: Spec
    step: int
    meta: dict[str, Any]
    preprocessing: Preprocessing
    source: Source
    task: Task

    @classmethod
    def open(cls, workdir: Path, overrides: list[str], split: str, which: str) -> "Member":
        """A run from its folder; reads no weights and no images.

        Raises:
          BadInput: if there is no run, no such split or no such checkpoint, or an override would change the run.
        """
        path = workdir / "config.json"
        if not path.is_file():
            raise BadInput(f"--workdir={workdir} holds no run to evaluate; train one there first")
        config = cli.judged(restored(files.read_json(path), path), overrides, "this command")
        with closing(Checkpoints(workdir)) as checkpoints:
            step = find(checkpoints, workdir, which)
            meta = checkpoints.meta(step)
        saved = meta.get("preprocessing")  # 0.1.0 saved none
        preprocessing = Preprocessing.from_json(saved) if saved else open_dataset(**config.data).preprocessing
        facts = resolve(**config.data, preprocessing=preprocessing)
        part = facts.parts.get(split) or parse_slice("--split", split, facts.source.sizes)
        data = f"{config.data.name} {Path(config.data.dir).absolute()}"
        task = Task(
            whose=str(workdir),
            class_names=preprocessing.class_names or facts.class_names,
            num_classes=facts.num_classes,
            data=data if config.data.name == "folder" else config.data.name,
            part=part,
        )
        spec = dataclasses.replace(network(checks.resolved(config, facts)), scan=False)
        return cls(workdir, config, spec, step, meta, preprocessing, facts.source, task)

    def json(self) -> dict[str, Any]:
        """What the result says of the run."""
        return {
            "workdir": str(self.workdir),
            "name": self.config.name,
            "step": self.step,
            "weights_digest": self.meta["weights_digest"],
            "preprocessing": self.preprocessing.json(),
        }


def find(checkpoints: Checkpoints, workdir: Path, which: str) -> int:
    """The step of the weights that `which` of WEIGHTS names; raises BadInput if there are none."""
    steps = checkpoints.steps()
    if not steps:
        raise BadInput(f"--workdir={workdir} holds no checkpoint to evaluate; train on")
    best = checkpoints.best_step() if which == "best" else steps[0]
    if best is None:
        raise BadInput(f"--weights=best: nothing was validated in --workdir={workdir}: use --weights=last")
    return best


def define(values: flags.FlagValues) -> None:
    scales = ",".join(map(str, views.SCALES))
    flags.DEFINE_multi_string(
        "workdir", None, "A run; repeat it, or separate with commas, for an ensemble.", flag_values=values
    )
    flags.DEFINE_enum("views", "centre", views.KINDS, "Which views of every image.", flag_values=values)
    flags.DEFINE_list("scales", None, f"With --views=scales: short sides; by default {scales}.", flag_values=values)
    flags.DEFINE_string(
        "split",
        "test",
        "test, validation or train as the run has them, or such as train[:500].",
        flag_values=values,
    )
    flags.DEFINE_enum("weights", "last", WEIGHTS, "The latest, or the best by validation.", flag_values=values)
    flags.DEFINE_string("out", None, "Write all numbers into this new JSON file.", flag_values=values)
    flags.DEFINE_string("confusion", None, "Draw what is taken for what into this new PNG.", flag_values=values)
    flags.DEFINE_integer("devices", None, "Split the CPU into so many devices.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define, config="optional")
    workdirs = [Path(part) for given in values.workdir or [] for part in given.split(",") if part]
    if not workdirs:
        raise BadInput("--workdir is missing: give the folder of a run")
    if values.config:
        raise BadInput("--config is given, but a run's own config is taken: leave it out")
    chosen = Views(values.views, scales_of(values.views, values.scales))
    out, picture = (
        files.new(f"--{name}", path) if (path := values[name].value) else None for name in ("out", "confusion")
    )
    if values.devices is not None:
        cli.use_devices(values.devices)
    cli.use_compilation_cache()
    members = [Member.open(workdir, cli.overrides(argv), values.split, values.weights) for workdir in workdirs]
    ensemble.check([member.task for member in members])
    for member in members:
        chosen.check(member.spec, member.preprocessing, f"--workdir={member.workdir}")

    mesh = sharding.make_mesh(jax.device_count(), 1)
    log_probabilities, labels = ensemble.mean(judge(member, chosen, mesh) for member in members)
    names = next((member.task.class_names for member in members if member.task.class_names), ())
    found = {
        "views": dataclasses.asdict(chosen) | {"mirrored": chosen.mirrored},
        "averaged": "softmax, over the views of an image and then over runs",
        "weights": values.weights,
        "split": values.split,
        "records": members[0].task.records,
        "runs": [member.json() for member in members],
        **report.measure(log_probabilities, labels, names),
        **machine.describe(jax.device_count()),
    }
    print(report.text(found))
    if out:
        with writing("--out", out):
            files.write_json(out, found)
    if picture:
        from resjax.analysis import confusion  # matplotlib takes a second to import

        with writing("--confusion", picture):
            confusion.draw(found, picture)
    return DONE


def scales_of(kind: str, given: list[str] | None) -> tuple[int, ...]:
    """The scales of `--scales`; raises BadInput unless they are ascending and no smaller than a network's grid."""
    if kind != "scales":
        if given is not None:
            raise BadInput(f"--scales={','.join(given)} is for --views=scales: leave it out")
        return ()
    try:
        scales = views.SCALES if given is None else tuple(map(int, given))
    except ValueError:
        scales = ()
    if not scales or list(scales) != sorted(set(scales)) or not views.GRID <= scales[0] <= scales[-1] <= LARGEST:
        raise BadInput(
            f"--scales={','.join(given or [])}: must be ascending whole numbers from {views.GRID} to {LARGEST}, "
            f"such as {','.join(map(str, views.SCALES))}"
        )
    return scales


def judge(member: Member, chosen: Views, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and labels of one run; says on stderr what is going on.

    Raises:
      BadInput: for a damaged checkpoint or record.
    """
    with closing(Checkpoints(member.workdir)) as checkpoints:
        weights = scan.unroll(checkpoints.weights(member.step))
    records = member.source.open(member.task.part)
    say(f"evaluating step {member.step} of {member.workdir} on {member.task.records}, {len(records):,} images")
    began = [time.monotonic()]

    def seen(images: int) -> None:
        if time.monotonic() - began[0] > QUIET:
            began[0] = time.monotonic()
            say(f"  {images:,} of {len(records):,} images")

    return views.scores(
        member.spec,
        jax.device_put(weights, sharding.replicated(mesh)),
        member.preprocessing,
        records,
        chosen,
        partial(sharding.place_rows, mesh),
        batch_size=member.config.batch_size,
        devices=mesh.size,
        threads=min(16, os.cpu_count() or 1),
        seen=seen,
    )


@contextmanager
def writing(field: str, path: Path) -> Iterator[None]:
    """Turns what keeps a file from being written into one line, and says in the end what was."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{field}={path} could not be written ({error.strerror}); give another file") from error
    say(f"written  {path}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
