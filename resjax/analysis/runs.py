"""A run's folder opened to be looked into: its network, its weights after any saved step, its data."""

import dataclasses
import functools
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from resjax.data.loader import Dataset, open_dataset
from resjax.errors import BadInput
from resjax.evaluation.evaluate import Batch
from resjax.files import read_json
from resjax.models import scan
from resjax.models.resnet import init_variables
from resjax.models.spec import Spec
from resjax.train.checkpoint import Checkpoints, initialize_from
from resjax.train.step import TrainState

Variables = dict[str, Any]
ModulePath = tuple[str, ...]  # of a module in the network: ("stage1", "unit0", "conv1")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a person may choose.

    Attributes:
      step: `latest`, `best`, a saved step, or 0 for the weights that training started from.
      images: how many to look at; None = the analysis's own choice.
      draws: random sets of units for each number of removed units (lesion).
    """

    step: str = "latest"
    images: int | None = None
    draws: int = 5

    def __post_init__(self) -> None:
        for name in ("images", "draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"--{name}={value}: must be at least 1")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run; `Run.open` makes it."""

    workdir: Path
    config: ConfigDict

    @classmethod
    def open(cls, workdir: Path) -> "Run":
        """The run in `workdir`, on one device whatever it was trained on.

        Raises:
          BadInput: if there is none.
        """
        saved = workdir / "config.json"
        if not saved.is_file():
            raise BadInput(f"--workdir={workdir} holds no run (no config.json); give the workdir of a training run")
        return cls(workdir, ConfigDict(read_json(saved) | {"mesh": {"data": 1, "fsdp": 1}}))

    @functools.cached_property
    def spec(self) -> Spec:
        """The network unit by unit and without what is random in training, so that `train` means batch statistics.

        Stochastic depth leaves a branch as it is in expectation; dropout on the shortcut scales it.
        """
        trained = Spec(**self.config.model)
        return dataclasses.replace(
            trained,
            scan=False,
            remat=False,
            stochastic_depth=0.0,
            shortcut_dropout=0.0,
            shortcut_scale=trained.shortcut_scale * (1 - trained.shortcut_dropout),
        )

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data that the run was trained on."""
        return open_dataset(**self.config.data)

    @functools.cached_property
    def steps(self) -> tuple[int, ...]:
        """The steps with a checkpoint, in ascending order."""
        with closing(Checkpoints(self.workdir)) as checkpoints:
            return tuple(reversed(checkpoints.steps()))

    def find(self, which: str) -> int:
        """The step that `latest`, `best`, a number or 0 names.

        Raises:
          BadInput: if there is no such checkpoint.
        """
        if which == "0":
            return 0
        if not self.steps:
            raise BadInput(f"--workdir={self.workdir} holds no checkpoint yet; train on, or look at --step=0")
        with closing(Checkpoints(self.workdir)) as checkpoints:
            return checkpoints.find(which)

    def variables(self, step: int) -> Variables:
        """`params` and `batch_stats` after `step` steps, 0 being the start; unit by unit, also of a scanned run.

        Raises:
          BadInput: if the checkpoint is damaged.
        """
        if step == 0:
            return self._start()
        with closing(Checkpoints(self.workdir)) as checkpoints:
            return scan.unroll(jax.device_put(checkpoints.weights(step)))

    def batch(self, images: int) -> Batch:
        """The run's first training images, augmented: as many whole BN groups as `images` holds, or one."""
        group = self.spec.bn_group or 1
        with closing(self.dataset.train(max(1, images // group) * group, self.config.seed)) as batches:
            return jax.device_put(next(batches))

    def _start(self) -> Variables:
        # A scanned network draws other weights than the same network unrolled: initialise as trained, then convert.
        trained = Spec(**self.config.model)
        fresh = jax.jit(init_variables, static_argnums=0)(trained, self.config.seed)
        if self.config.init_from:
            state = TrainState(step=jnp.int32(0), opt_state=(), **fresh)
            state = initialize_from(Path(self.config.init_from), state)
            fresh = {"params": state.params, "batch_stats": state.batch_stats}
        return scan.unroll(fresh)


def labels(workdirs: Iterable[Path]) -> dict[str, Path]:
    """Runs by label: the shortest ends of their paths that tell them apart.

    Raises:
      BadInput: for a run that is given twice.
    """
    paths = [path.absolute() for path in workdirs]
    for path in paths:
        if paths.count(path) > 1:
            raise BadInput(f"--workdir={path} is given twice")
    length = 1
    while len(named := {"/".join(path.parts[-length:]): path for path in paths}) < len(paths):
        length += 1
    return named


def name(path: ModulePath) -> str:
    """The name of a module in tables and pictures."""
    return "/".join(path)
