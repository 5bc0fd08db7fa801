"""A run's folder, opened for analysis: its network, its weights after any saved step, its data."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import cli, experiment, files
from resjax.config import network, restored
from resjax.data.augment.device import Normalization, training_views
from resjax.errors import BadInput
from resjax.evaluation.evaluate import Batch
from resjax.models import scan
from resjax.models.spec import Spec
from resjax.train.checkpoint import Checkpoints
from resjax.train.initialize import initialize_from
from resjax.train.loop import Experiment

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a person may choose; None leaves it to the analysis.

    Attributes:
      step: `latest`, `best`, a saved step, or 0 for the weights that training started from.
      images: how many to look at.
      draws: random sets of units for each number of removed units (lesion).
      seeds: how many times what starts at random is measured.
    """

    step: str | None = None
    images: int | None = None
    draws: int | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        for name in ("images", "draws", "seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"--{name}={value}: must be at least 1")


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedRun:
    """One run, or the runs of one variant that differ in their seeds; `OpenedRun.open` makes it.

    Attributes:
      workdir: the folder of the run, or of the first seed.
      config: its config, for one device, and with the data that it is looked into on.
      own: its config.
      overrides: that changed it.
      seeds: the folders of all seeds; of a single run, its own.
    """

    workdir: Path
    config: ConfigDict
    own: ConfigDict
    seeds: tuple[Path, ...]
    overrides: tuple[str, ...] = ()

    @classmethod
    def open(cls, *workdirs: Path, overrides: Sequence[str] = ()) -> "OpenedRun":
        """The run in `workdirs[0]`, on one device whatever it was trained on; the others are its other seeds.

        Args:
          overrides: FIELD=VALUE of the config, for another data set, folder or split.

        Raises:
          BadInput: if the folder holds no run, or an override would change the run.
        """
        saved = workdirs[0] / "config.json"
        if not saved.is_file():
            raise BadInput(
                f"--workdir={workdirs[0]} holds no run (no config.json); give the workdir of a training run"
            )
        own = restored(files.read_json(saved), saved)
        config = cli.judged(own, list(overrides), "this command")
        config.mesh.data = config.mesh.fsdp = 1
        return cls(workdirs[0], config, own, workdirs, tuple(overrides))

    @functools.cached_property
    def spec(self) -> Spec:
        """The network unrolled and without randomness, so that `train` only selects the batch's statistics.

        In expectation, stochastic depth leaves a branch as it is, and dropout on the shortcut scales it.
        """
        trained = network(self.config)
        return dataclasses.replace(
            trained,
            scan=False,
            remat=False,
            stochastic_depth=0.0,
            shortcut_dropout=0.0,
            shortcut_scale=trained.shortcut_scale * (1 - trained.shortcut_dropout),
        )

    @functools.cached_property
    def experiment(self) -> Experiment:
        """Data, durations and program of the run, under the preprocessing that its weights were trained with."""
        return experiment.open(self.config, self.workdir, own=self.own)

    @functools.cached_property
    def steps(self) -> tuple[int, ...]:
        """The steps with a checkpoint, in ascending order."""
        with closing(Checkpoints(self.workdir)) as checkpoints:
            return tuple(sorted(checkpoints.steps()))

    def find(self, which: str | None) -> int:
        """The step that `latest` (or None), `best`, a number or 0 names.

        Raises:
          BadInput: if there is no such checkpoint.
        """
        if which == "0":
            return 0
        if not self.steps:
            raise BadInput(f"--workdir={self.workdir} holds no checkpoint yet; train on, or look at --step=0")
        if which in (None, "latest"):
            return self.steps[-1]
        if which == "best":
            with closing(Checkpoints(self.workdir)) as checkpoints:
                best = checkpoints.best_step()
            if best is None:
                raise BadInput(
                    f"--step=best: nothing was validated in --workdir={self.workdir}; choose latest or one of "
                    f"{self._saved()}"
                )
            return best
        for step in self.steps:
            if which == str(step):
                return step
        raise BadInput(
            f"--step={which}: not saved in --workdir={self.workdir}; choose latest, best or one of {self._saved()}"
        )

    def _saved(self) -> str:
        return ", ".join(map(str, (0, *self.steps)))

    def variables(self, step: int) -> Variables:
        """`params` and `batch_stats` after `step` steps (0: the start), unrolled even if the run is scanned.

        Raises:
          BadInput: if the checkpoint is damaged or cannot be read.
        """
        if step not in self.steps:  # 0 is saved of a run that was made of imported weights
            return self._start()
        with closing(Checkpoints(self.workdir)) as checkpoints:
            return scan.unroll(jax.device_put(checkpoints.weights(step)))

    def batch(self, images: int) -> Batch:
        """The run's first training images, augmented: as many whole BN groups as `images` holds, at least one."""
        group = self.spec.bn_group or 1
        dataset = self.experiment.dataset
        with closing(dataset.train(max(1, images // group) * group, self.config.seed)) as batches:
            batch = jax.device_put(next(batches))
        return training_views(batch, Normalization.of(dataset.preprocessing), dataset.pad)

    def facts(self) -> dict[str, Any]:
        """What every picture says about the training: `data`, `total_steps` and `batch_size`."""
        return {
            "data": self.config.data.name,
            "total_steps": self.experiment.durations.total,
            "batch_size": self.config.batch_size,
        }

    def _start(self) -> Variables:
        # By the program that training starts with: compiled another way, the same function rounds differently, and
        # a scanned network draws other weights than the same network unrolled.
        state = self.experiment.program.init(np.uint32(self.config.seed))
        if self.config.init_from:
            own = self.experiment.dataset.preprocessing
            state = initialize_from(self.config.init_from, state, self.experiment.spec, own)
        return scan.unroll({"params": state.params, "batch_stats": state.batch_stats})


def gather(workdirs: Iterable[Path], overrides: Sequence[str] = ()) -> dict[str, OpenedRun]:
    """Opens runs by label; a whole sweep gives one for every variant, with its seeds together.

    A label is the shortest end of the path that tells the runs apart.

    Args:
      overrides: as in `OpenedRun.open`.

    Raises:
      BadInput: for a folder without a run, or a run that is given twice.
    """
    folders: dict[Path, list[Path]] = {}
    for workdir in workdirs:
        for folder, seeds in _seeds(workdir).items():
            if folder in folders:
                raise BadInput(f"--workdir={workdir} is given twice")
            folders[folder] = seeds
    length = 1
    while len({folder.parts[-length:] for folder in folders}) < len(folders):
        length += 1
    return {
        "/".join(folder.parts[-length:]): OpenedRun.open(*seeds, overrides=overrides)
        for folder, seeds in folders.items()
    }


def _seeds(workdir: Path) -> dict[Path, list[Path]]:
    """Folder -> the runs in it: for a sweep, the seeds of a variant that have begun; otherwise, the run itself."""
    path, definition = workdir.absolute(), workdir / "sweep.json"
    if not definition.is_file():
        return {path: [workdir]}
    sweep = files.read_json(definition)
    try:
        seeds = {
            path / "runs" / variant: [workdir / "runs" / variant / f"seed{int(seed)}" for seed in sweep["seeds"]]
            for variant in dict(sweep["runs"])
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{definition} is damaged (it is no sweep's): restore it, or give single runs") from error
    begun = {folder: [run for run in runs if (run / "config.json").is_file()] for folder, runs in seeds.items()}
    if not any(begun.values()):
        raise BadInput(f"--workdir={workdir} holds a sweep in which no run has begun; run it first")
    return {folder: runs for folder, runs in begun.items() if runs}


def spaced(steps: Iterable[int], gap: float) -> list[int]:
    """Drops from ascending steps those less than `gap` before the next one that stays; the last one stays."""
    kept: list[int] = []
    for step in reversed(list(steps)):
        if not kept or kept[-1] - step >= gap:
            kept.append(step)
    return kept[::-1]
