"""A finished network from where it lies: the workdir of a run, or weights of any library."""

import dataclasses
import os
from contextlib import closing
from pathlib import Path

import jax

from resjax import files, paths
from resjax.config import network, restored
from resjax.data.loader import open_dataset
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput, unknown
from resjax.member import WEIGHTS, find
from resjax.models import scan
from resjax.models.published import imagenet
from resjax.predictor.predictor import Predictor
from resjax.train.checkpoint import Checkpoints
from resjax.weights import hub, preprocessing, source


def load(given: str | os.PathLike[str], *, arch: str | None = None, weights: str = "last") -> Predictor:
    """What `resjax.load` returns, and explains."""
    name = os.fspath(given)
    path = hub.fetched(name) if name.startswith(hub.SIGN) else Path(name)
    if weights not in WEIGHTS:
        raise BadInput(unknown("weights", weights, WEIGHTS))
    if source.is_weights(path) or not (path / "checkpoints").is_dir():
        if weights != "last":
            raise BadInput(f"weights={weights!r} is for runs, and {path} is none: leave it out")
        return of_file(path, arch)
    if arch:
        raise BadInput(f"arch={arch!r} is for files of weights, and {path} is a run: leave it out")
    return of_run(path, weights)


def of_run(workdir: Path, which: str) -> Predictor:
    """That of a run's workdir; reads no data, unless the run is of 0.1.0."""
    path = workdir / "config.json"
    config = restored(files.read_json(path), path)
    with closing(Checkpoints(workdir)) as checkpoints:
        step = find(checkpoints, workdir, which)
        meta = checkpoints.meta(step)
        variables = scan.unroll(checkpoints.weights(step, which == "ema"))
    saved = meta.get("preprocessing")
    own = Preprocessing.from_json(saved) if saved else open_dataset(**config.data).preprocessing
    spec = dataclasses.replace(network(config), scan=False)
    spec.check_complete()
    return Predictor(spec, jax.device_put(variables), own)


def of_file(path: Path, arch: str | None) -> Predictor:
    """That of a file or folder of weights."""
    found = source.open(path)
    notes, own = found.notes, found.preprocessing
    if own is None:
        own = preprocessing.torchvision()
        notes += ("the file does not say its preprocessing: torchvision's is taken",)
    spec = found.network(imagenet(arch) if arch else None)
    spec = dataclasses.replace(spec, scan=False, input_size=own.size or spec.input_size)
    if own.channels != spec.input_channels:
        raise BadInput(
            f"{path} takes images of {spec.input_channels} channels and does not say their preprocessing: make a "
            "run of it, by python -m resjax.weights import with --mean and --std"
        )
    return Predictor(spec, jax.device_put(found.variables(spec)), own, notes)


def named(workdir: str | None, weights: str | None, arch: str | None) -> Predictor:
    """That of a command's --workdir, --weights and --arch; raises BadInput as `load`, naming the flag."""
    if workdir:
        if not (Path(workdir) / "config.json").is_file():
            raise BadInput(f"--workdir={workdir} holds no run; train one there first")
        if arch:
            raise BadInput(f"--arch={arch} is for a file of weights: leave it out, the run knows its network")
        if weights and weights not in WEIGHTS:
            raise BadInput(f"--weights={weights} beside --workdir must be {', '.join(WEIGHTS)}: or leave one out")
        return of_run(Path(workdir), weights or "last")
    if not weights:
        raise BadInput("--workdir is missing: give the folder of a run, or weights by --weights=FILE")
    paths.check("--weights", weights)
    return load(weights, arch=arch)
