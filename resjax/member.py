"""A finished run as it is judged, alone or as a member of an ensemble: whose weights, of what network, on what."""

import dataclasses
import itertools
import os
import sys
import time
from contextlib import closing
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
from resjax.train import sharding
from resjax.train.checkpoint import Checkpoints

WEIGHTS = ("last", "best", "ema")
QUIET = 10.0  # seconds between two lines of progress


class Exact(NamedTuple):
    """BN statistics to be taken over `batches` training batches, by one of `exact.DEFINITIONS`."""

    definition: str
    batches: int


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One run, opened.

    Attributes:
      config: its own, with the data set and the splits that it is judged on.
      step: of the weights.
      meta: what was saved beside them.
      source: of the records.
      averaged: the weights are the moving average.
    """

    workdir: Path
    config: ConfigDict
    spec: Spec
    step: int
    meta: dict[str, Any]
    preprocessing: Preprocessing
    source: Source
    task: Task
    averaged: bool

    @classmethod
    def open(cls, workdir: Path, overrides: list[str], split: str, which: str) -> "Member":
        """A run from its folder; reads no weights and, unless the run is of 0.1.0, no images.

        Args:
          overrides: FIELD=VALUE of the config, for another data set, folder or split.
          split: `train`, `validation` or `test` of the run, or a slice of a stored split.
          which: one of WEIGHTS.

        Raises:
          BadInput: if there is no run, no such split or no such checkpoint, or an override would change the run.
        """
        path = workdir / "config.json"
        if not path.is_file():
            raise BadInput(f"--workdir={workdir} holds no run to evaluate; train one there first")
        own = restored(files.read_json(path), path)
        config = cli.judged(own, overrides, "this command")
        listing = experiment.listing(workdir, config, own)
        with closing(Checkpoints(workdir)) as checkpoints:
            step = find(checkpoints, workdir, which)
            meta = checkpoints.meta(step)
        if which == "ema" and "ema_digest" not in meta:
            raise BadInput(
                f"--weights=ema: --workdir={workdir} has no moving average (ema.decay=0): use last or best"
            )
        saved = meta.get("preprocessing")  # 0.1.0 saved none
        preprocessing = Preprocessing.from_json(saved) if saved else open_dataset(**config.data).preprocessing
        facts = resolve(**config.data, preprocessing=preprocessing, listing=listing)
        listing, name = facts.source.listing, config.data.name
        for note in facts.source.notes:
            say(f"note      {note}")
        task = Task(
            whose=str(workdir),
            class_names=preprocessing.class_names or facts.class_names,
            num_classes=facts.num_classes,
            data=f"{name} {config.data.dir}" if listing else name,
            key=listing.digest if listing else name,
            part=facts.parts.get(split) or parse_slice("--split", split, facts.source.sizes),
        )
        spec = dataclasses.replace(network(checks.resolved(config, facts)), scan=False)
        return cls(workdir, config, spec, step, meta, preprocessing, facts.source, task, which == "ema")

    def weights(self, mesh: Mesh, bn: Exact | None = None) -> dict[str, Any]:
        """`params` and `batch_stats` on every device, unrolled; with `bn` with these statistics.

        Raises:
          BadInput: for a damaged checkpoint, or a damaged record of the training split.
        """
        with closing(Checkpoints(self.workdir)) as checkpoints:
            saved = checkpoints.weights(self.step, self.averaged)
        weights = jax.device_put(scan.unroll(saved), sharding.replicated(mesh))
        if bn is None:
            return weights
        size, seed = self.config.batch_size, self.config.seed
        say(f"BN statistics of {bn.batches} training batches of {size} images, {bn.definition}")
        # A part of each batch on every device, or, where that does not come out even, all of it.
        where = sharding.replicated(mesh) if size % mesh.size else sharding.batch_sharding(mesh)
        dataset = open_dataset(**self.config.data, preprocessing=self.preprocessing, listing=self.source.listing)
        normalization = Normalization.of(self.preprocessing)
        with closing(dataset.train(size, seed, self.step)) as batches:
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
        say(f"evaluating step {self.step} of {self.workdir} on {self.task.records}, {len(records):,} images")

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
            "workdir": str(self.workdir),
            "name": self.config.name,
            "step": self.step,
            "weights_digest": self.meta["ema_digest" if self.averaged else "weights_digest"],
            "preprocessing": self.preprocessing.json(),
        }


def find(checkpoints: Checkpoints, workdir: Path, which: str) -> int:
    """The step of the weights that `which` of WEIGHTS names; raises BadInput if there are none."""
    steps = checkpoints.steps()
    if not steps:
        raise BadInput(f"--workdir={workdir} holds no checkpoint to evaluate; train on")
    step = checkpoints.best_step() if which == "best" else steps[0]
    if step is None:
        raise BadInput(f"--weights=best: nothing was validated in --workdir={workdir}: use --weights=last")
    return step


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
