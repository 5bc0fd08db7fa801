"""A finished network from where it lies: the workdir of a run, or weights of any library."""

import os
from pathlib import Path

import jax

from resjax import member, paths
from resjax.errors import BadInput, unknown
from resjax.member import WEIGHTS, Opened
from resjax.predictor.predictor import Predictor
from resjax.weights import hub, source


def load(given: str | os.PathLike[str], *, arch: str | None = None, weights: str = "last") -> Predictor:
    """What `resjax.load` returns, and explains."""
    name = os.fspath(given)
    path = hub.local(name)
    if weights not in WEIGHTS:
        raise BadInput(unknown("weights", weights, WEIGHTS))
    if source.is_weights(path) or not (path / "checkpoints").is_dir():
        if weights != "last":
            raise BadInput(f"weights={weights!r} is for runs, and {path} is none: leave it out")
        return of(member.of_file(name, path, arch))
    if arch:
        raise BadInput(f"arch={arch!r} is for files of weights, and {path} is a run: leave it out")
    return of(member.of_run(path, weights))


def of(opened: Opened) -> Predictor:
    """That of a run or a file."""
    opened.spec.check_complete()
    own = opened.trained_with(opened.config.data)
    return Predictor(opened.spec, jax.device_put(opened.read()), own, opened.notes)


def named(workdir: str | None, weights: str | None, arch: str | None) -> Predictor:
    """That of a command's --workdir, --weights and --arch; raises BadInput as `load`, naming the flag."""
    if workdir:
        if not (Path(workdir) / "config.json").is_file():
            raise BadInput(f"--workdir={workdir} holds no run; train one there first")
        if arch:
            raise BadInput(f"--arch={arch} is for a file of weights: leave it out, the run knows its network")
        if weights and weights not in WEIGHTS:
            raise BadInput(f"--weights={weights} beside --workdir must be {', '.join(WEIGHTS)}: or leave one out")
        return of(member.of_run(Path(workdir), weights or "last"))
    if not weights:
        raise BadInput("--workdir is missing: give the folder of a run, or weights by --weights=FILE")
    paths.check("--weights", weights)
    return load(weights, arch=arch)
