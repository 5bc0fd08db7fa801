"""A finished run, or a file of weights, and how it is judged: alone or as a member of an ensemble."""

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resjax import checks, cli, experiment, files
from resjax.config import network, restored
from resjax.data.augment.device import Normalization, training_views
from resjax.data.loader import open_dataset
from resjax.data.preprocess import Preprocessing
from resjax.data.resolve import resolve
from resjax.data.sources import Source
from resjax.data.splits import parse_slice
from resjax.errors import BadInput
from resjax.evaluation import exact, views
from resjax.evaluation.ensemble import Task
from resjax.evaluation.views import Views
from resjax.models import scan
from resjax.models.spec import Spec
from resjax.train import digest, sharding
from resjax.train.adopt import adopt
from resjax.train.checkpoint import Checkpoints
from resjax.weights import hub, ready, source

WEIGHTS = ("last", "best", "ema")
QUIET = 10.0  # seconds between two lines of progress


class Exact(NamedTuple):
    """BN statistics to be taken over `batches` training batches, by one of `exact.DEFINITIONS`."""

    definition: str
    batches: int


class Opened(NamedTuple):
    """A run, or a file of weights as the run that `python -m resjax.weights import` would make of it.

    Attributes:
      name: the workdir, or what a person calls the file.
      workdir: of a run; None of a file.
      config: its own.
      preprocessing: that the weights were trained with; 0.1.0 saved none.
      step: of the weights; 0 of a file.
      digest: that was saved with the weights of a run.
      read: `params` and `batch_stats`, unrolled, on the host; raises BadInput for what is damaged.
      origin: tells where weights come from that were trained elsewhere, JSON values; None of those trained here.
        Of a file it reads the whole file.
      notes: what a person should know, a line each.
    """

    name: str
    workdir: Path | None
    config: ConfigDict
    preprocessing: Preprocessing | None
    step: int
    digest: str | None
    read: Callable[[], dict[str, Any]]
    origin: Callable[[], dict[str, Any] | None]
    notes: tuple[str, ...] = ()

    @property
    def spec(self) -> Spec:
        """The network of the weights, unrolled."""
        return dataclasses.replace(network(self.config), scan=False)

    def trained_with(self, data: ConfigDict) -> Preprocessing:
        """The preprocessing that goes with the weights; of a run of 0.1.0 made again, from the data set."""
        return self.preprocessing or open_dataset(**data).preprocessing


def of_run(workdir: Path, which: str) -> Opened:
    """A run from its folder, with those of its weights that `which` of WEIGHTS names; reads none yet.

    Raises:
      BadInput: if there is no run or no such checkpoint.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise BadInput(f"--workdir={workdir} holds no run; train one there first")
    config = restored(files.read_json(path), path)
    with closing(Checkpoints(workdir)) as checkpoints:
        step = find(checkpoints, workdir, which)
        meta = checkpoints.meta(step)
    averaged = which == "ema"
    if averaged and "ema_digest" not in meta:
        raise BadInput(f"--weights=ema: --workdir={workdir} has no moving average (ema.decay=0): use last or best")

    def read() -> dict[str, Any]:
        with closing(Checkpoints(workdir)) as checkpoints:
            return scan.unroll(checkpoints.weights(step, averaged))

    saved = meta.get("preprocessing")  # 0.1.0 saved none
    own = Preprocessing.from_json(saved) if saved else None
    whole = meta["ema_digest" if averaged else "weights_digest"]
    return Opened(str(workdir), workdir, config, own, step, whole, read, partial(meta.get, "origin"))


def of_file(name: str, path: Path, arch: str | None) -> Opened:
    """A file or folder of weights.

    Args:
      name: what a person calls it.
      arch: its network, a name of configs/imagenet.py; needed where no config file says it.

    Raises:
      BadInput: for what cannot be read, or if nobody says the network.
    """
    found = ready.ready(source.open(path), name, arch)
    read = partial(found.weights.variables, found.spec)
    origin = partial(ready.origin, found.weights, name)
    return Opened(name, None, found.config, found.preprocessing, 0, None, read, origin, found.notes)


def opened(name: str, path: Path, which: str, arch: str | None) -> Opened:
    """The run or the file that a --workdir names.

    Args:
      path: where it lies, see `hub.local`.
      which: one of WEIGHTS.
      arch: as in `of_file`.

    Raises:
      BadInput: as `of_run` and `of_file`, or for what is not for a run or not for a file.
    """
    if source.is_weights(path):
        if which != "last":
            raise BadInput(f"--weights={which} is for runs, and --workdir={name} is none: leave it out")
        return of_file(name, path, arch)
    if arch:
        raise BadInput(f"--arch={arch} is for files of weights, and --workdir={name} is none: leave it out")
    return of_run(path, which)


def as_run(name: str, arch: str | None, folder: Path) -> Path:
    """The workdir that `name` is; of a file of weights one in `folder`, of the run that import makes of it.

    Args:
      arch: as in `of_file`.

    Raises:
      BadInput: as `opened`.
    """
    path = hub.local(name)
    if not arch and not source.is_weights(path):
        return path  # a sweep, or a run that has only begun
    one = opened(name, path, "last", arch)
    for note in one.notes:
        say(f"note      {note}")
    origin = one.origin()
    assert one.preprocessing is not None
    assert origin is not None
    workdir = folder / name.strip("/").rpartition("/")[2]
    adopt(workdir, one.config, one.read(), one.preprocessing, origin)
    return workdir


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """What was opened, and what it is judged on.

    Attributes:
      config: its own, with the data set and the splits that it is judged on.
      source: of the records.
    """

    opened: Opened
    config: ConfigDict
    spec: Spec
    preprocessing: Preprocessing
    source: Source
    task: Task

    @classmethod
    def open(cls, name: str, overrides: list[str], split: str, which: str, arch: str | None = None) -> "Member":
        """The run or the file that a --workdir names; reads no images, unless the run is of 0.1.0.

        Args:
          overrides: FIELD=VALUE of the config, for another data set, folder or split.
          split: `train`, `validation` or `test` of the run, or a slice of a stored split.
          which: one of WEIGHTS.
          arch: as in `of_file`.

        Raises:
          BadInput: as `opened`, if there is no such split, or if an override would change the run.
        """
        one = opened(name, hub.local(name), which, arch)
        config = cli.judged(one.config, overrides, "this command")
        listing = experiment.listing(one.workdir, config, one.config) if one.workdir else None
        preprocessing = one.trained_with(config.data)
        facts = resolve(**config.data, preprocessing=preprocessing, listing=listing)
        listing, data = facts.source.listing, config.data.name
        classes = one.config.model.num_classes
        if classes and classes != facts.num_classes:  # named classes that differ are refused by now
            raise BadInput(
                f"{name} has {classes:,} classes, data.name={data!r} has {facts.num_classes:,}: take a set "
                "of the same classes, or fine-tune the weights on this one: configs/finetune.py"
            )
        for note in (*one.notes, *facts.source.notes):
            say(f"note      {note}")
        task = Task(
            whose=name,
            class_names=preprocessing.class_names or facts.class_names,
            num_classes=facts.num_classes,
            data=f"{data} {config.data.dir}" if listing else data,
            key=listing.digest if listing else data,
            part=facts.parts.get(split) or parse_slice("--split", split, facts.source.sizes),
        )
        spec = dataclasses.replace(network(checks.resolved(config, facts)), scan=False)
        return cls(one, config, spec, preprocessing, facts.source, task)

    def weights(self, mesh: Mesh, bn: Exact | None = None) -> dict[str, Any]:
        """`params` and `batch_stats` on every device, unrolled; with `bn` with these statistics.

        Raises:
          BadInput: for a damaged checkpoint, or a damaged record of the training split.
        """
        weights = jax.device_put(self.opened.read(), sharding.replicated(mesh))
        if bn is None:
            return weights
        size, seed = self.config.batch_size, self.config.seed
        say(f"BN statistics of {bn.batches} training batches of {size} images, {bn.definition}")
        # A part of each batch on every device, or, where that does not come out even, all of it.
        where = sharding.replicated(mesh) if size % mesh.size else sharding.batch_sharding(mesh)
        dataset = open_dataset(**self.config.data, preprocessing=self.preprocessing, listing=self.source.listing)
        normalization = Normalization.of(self.preprocessing)
        with closing(dataset.train(size, seed, self.opened.step)) as batches:
            placed = (jax.device_put(batch, where) for batch in itertools.islice(batches, bn.batches))
            images = (training_views(batch, normalization, dataset.pad)["image"] for batch in placed)
            params, running = weights["params"], weights["batch_stats"]
            return {
                "params": params,
                "batch_stats": exact.statistics(self.spec, params, running, images, bn.definition, seed),
            }

    def judge(self, chosen: Views, mesh: Mesh, bn: Exact | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities float64 [N, K] and labels int32 [N]; says on stderr what is going on.

        Raises:
          BadInput: for a damaged checkpoint or record.
        """
        records, shown = self.source.open(self.task.part), time.monotonic()
        whose = f"step {self.opened.step} of {self.opened.name}"
        say(f"evaluating {whose} on {self.task.records}, {len(records):,} images")

        def seen(images: int) -> None:
            nonlocal shown
            if time.monotonic() - shown > QUIET:
                shown = time.monotonic()
                say(f"  {images:,} of {len(records):,} images")

        return views.scores(
            self.spec,
            self.weights(mesh, bn),
            self.preprocessing,
            records,
            chosen,
            lambda batch: sharding.place_rows(mesh, batch),
            batch_size=self.config.batch_size,
            devices=mesh.size,
            threads=min(16, os.cpu_count() or 1),
            seen=seen,
        )

    def json(self) -> dict[str, Any]:
        """What a result says of the run."""
        return {
            "workdir": self.opened.name,
            "name": self.config.name,
            "step": self.opened.step,
            "weights_digest": self.opened.digest or digest.of(self.opened.read()),
            "preprocessing": self.preprocessing.json(),
        }


def find(checkpoints: Checkpoints, workdir: Path, which: str) -> int:
    """The step of the weights that `which` of WEIGHTS names; raises BadInput if there are none."""
    steps = checkpoints.steps()
    if not steps:
        raise BadInput(f"--workdir={workdir} holds no checkpoint; train on")
    step = checkpoints.best_step() if which == "best" else steps[0]
    if step is None:
        raise BadInput(f"--weights=best: nothing was validated in --workdir={workdir}: use --weights=last")
    return step


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
