"""From a config to everything that a run needs: the network, the data, the durations, the compiled functions."""

import dataclasses
import json
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resjax import files
from resjax.checks import check_memory, resolved, validate
from resjax.config import Durations, durations, network, plain, restored
from resjax.data import folders
from resjax.data.listing import Listing
from resjax.data.loader import Dataset, open_dataset
from resjax.data.preprocess import Preprocessing
from resjax.data.resident import Resident
from resjax.errors import BadInput
from resjax.evaluation.evaluate import Evaluation
from resjax.models.spec import Spec
from resjax.train import placement
from resjax.train.checkpoint import Checkpoints
from resjax.train.loop import Experiment
from resjax.train.peers import Alone, Peers
from resjax.train.program import Part, Program, build, make_mesh
from resjax.train.step import TrainState


@dataclasses.dataclass(frozen=True)
class Shared:
    """The data sets and programs of the runs in one process: of equal ones there is one.

    A thread at a time opens a run with it.
    """

    MAY_DIFFER = ("seed",)  # between runs of one program; a value of any other field may be compiled into it

    datasets: dict[str, Dataset] = dataclasses.field(default_factory=dict)
    residents: dict[tuple[Dataset, Mesh], dict[str, Resident] | None] = dataclasses.field(default_factory=dict)
    programs: dict[tuple[str, Dataset, tuple[jax.Device, ...]], Program] = dataclasses.field(default_factory=dict)
    opening: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def dataset(self, config: ConfigDict, found: Preprocessing | None, listed: Listing | None) -> Dataset:
        """The data set of `config`, opened once for every preprocessing and list of photos."""
        key = json.dumps([config.data.to_dict(), found and found.json(), listed and listed.digest])
        if key not in self.datasets:
            self.datasets[key] = open_dataset(**config.data, preprocessing=found, listing=listed)
        return self.datasets[key]

    def resident(self, config: ConfigDict, dataset: Dataset, mesh: Mesh) -> dict[str, Resident] | None:
        """The splits on the devices of a mesh, laid there once; None if they stay on the host."""
        key = (dataset, mesh)
        if key not in self.residents:
            self.residents[key] = placement.lay(config, dataset, mesh)
        return self.residents[key]

    def program(
        self, config: ConfigDict, spec: Spec, length: Durations, dataset: Dataset, devices: Sequence[jax.Device]
    ) -> Program:
        """The program of `config` on `devices`, built once; JAX compiles it once, for whatever thread is first."""
        fields = {name: value for name, value in plain(config).items() if name not in self.MAY_DIFFER}
        key = (json.dumps(fields), dataset, tuple(devices))
        if key not in self.programs:
            mesh = make_mesh(config, devices)
            normalization, data = placement.normalization(dataset, mesh), self.resident(config, dataset, mesh)
            stride = placement.stride(config, length, data is not None)
            self.programs[key] = build(config, spec, length, normalization, data, stride, devices)
        return self.programs[key]


def open(
    config: ConfigDict,
    workdir: Path | None = None,
    devices: Sequence[jax.Device] | None = None,
    shared: Shared | None = None,
    own: ConfigDict | None = None,
) -> Experiment:
    """Assembles a run; compiles nothing yet. Fields that `config` leaves to the data set are filled in.

    Args:
      workdir: an existing run's folder; its preprocessing and its list of photos are used, not made again.
      devices: those that the run may use; all by default.
      shared: what other runs of this process have opened, and what is added to it.
      own: the run's config, where `config` is to evaluate it and may name another data set.

    Raises:
      BadInput: naming the first field that cannot work.
    """
    devices, shared = devices or jax.devices(), shared or Shared()
    validate(config, len(devices))
    with shared.opening:
        found = preprocessing(workdir) if workdir else None
        listed = listing(workdir, config, own) if workdir else None
        dataset = shared.dataset(config, found, listed)
        config = resolved(config, dataset)
        check_memory(config, dataset.image_shape, jax.process_count())
        spec, length = network(config), durations(config, dataset.train_size)
        program = shared.program(config, spec, length, dataset, devices)
    splits = {"train_clean": "train"} if config.eval_train else {}  # `train` is the error of the steps themselves
    splits |= {"validation": "validation"} if dataset.validation_size else {}
    splits |= {"test": "test"}
    evaluations = tuple(
        Evaluation(name, partial(evaluated, split, dataset, config.batch_size, program), length.eval_every)
        for name, split in splits.items()
    )
    if config.ema.decay:
        evaluations += tuple(
            dataclasses.replace(each, name=f"{each.name}_ema", averaged=True)
            for each in evaluations
            if each.name in ("validation", "test")
        )
    return Experiment(config, spec, dataset, length, evaluations, program)


def evaluated(split: str, dataset: Dataset, batch_size: int, program: Program) -> Iterable[Part]:
    """What `program.eval_step` takes, so that every image of a split is counted once.

    Batches of the host; of a set on the devices their numbers, all in one call. On a CPU one call a batch: XLA's
    convolutions are slow there inside a loop.
    """
    if program.data is None:
        batches = dataset.evaluate(split, batch_size, program.rows)
        return (Part(program.place(batch), program.normalization) for batch in batches)
    own = program.data[split]
    numbers = np.arange(-(-len(dataset.parts[split]) // batch_size), dtype=np.int32)
    each_or_all = numbers if jax.default_backend() == "cpu" else [numbers]
    return [Part(chosen, program.normalization, own) for chosen in each_or_all]


def load(
    workdir: Path | str,
    step: str = "latest",
    config: ConfigDict | None = None,
    job: Peers | Alone | None = None,
) -> tuple[Experiment, TrainState]:
    """A run from its folder, and its state after a saved step.

    Args:
      step: `latest`, `best` or a number.
      config: taken instead of the run's own, for another data set or mesh.
      job: the processes that the state is laid over; all call this.

    Raises:
      BadInput: if there is no run or no such step, or the checkpoint is damaged.
    """
    workdir = Path(workdir)
    path = workdir / "config.json"
    if not path.is_file():
        raise BadInput(f"workdir={workdir} holds no run; train one there first")
    own = restored(files.read_json(path), path)
    run = open(config or own, workdir, own=own)
    with closing(Checkpoints(workdir, job=job)) as checkpoints:
        state, _ = checkpoints.restore(run.program.abstract, checkpoints.find(step))
    return run, state


def preprocessing(workdir: Path) -> Preprocessing | None:
    """What the weights in `workdir` were trained with; None if there are no weights, or 0.1.0 saved them."""
    with closing(Checkpoints(workdir)) as checkpoints:
        for step in checkpoints.steps():
            try:
                meta = checkpoints.meta(step)
            except BadInput:
                continue  # restoring it will say what is wrong
            return Preprocessing.from_json(meta["preprocessing"]) if "preprocessing" in meta else None
    return None


def listing(workdir: Path, config: ConfigDict, own: ConfigDict | None = None) -> Listing | None:
    """The list of photos of the run in `workdir`; None if they are to be listed anew.

    Args:
      own: the run's config, where `config` is to evaluate it: its folder may be another then. If that holds what is
        listed, it is the run's own, moved.

    Raises:
      BadInput: if the list is damaged, or lost although the run has begun.
    """
    if config.data.name != folders.NAME:
        return None
    path = workdir / folders.LIST
    other = own is not None and (config.data.name, config.data.dir) != (own.data.name, own.data.dir)
    if path.is_file():
        listed = Listing.from_json(files.read_json(path), path)
        return None if other and folders.changes(config.data.dir, listed) else listed
    if not other and preprocessing(workdir):
        raise BadInput(f"{path} is gone, the list of the photos that this run trains on: restore it from a copy")
    return None
