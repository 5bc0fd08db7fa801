"""Checkpoints with Orbax: the state, where the data stood, the config and the versions together.

A run's checkpoints lie in `WORKDIR/checkpoints/STEP`. Each stores the digest of its state, because a flipped
byte restores without an error; a run that resumes moves those that cannot be restored, or whose digest differs, to
`WORKDIR/damaged/STEP` and takes the one before them. Nothing is deleted but what the policy lets go: the latest
`keep` and the best by validation accuracy stay.
"""

import dataclasses
import hashlib
import importlib.metadata
import logging
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

import resjax
from resjax.errors import BadInput
from resjax.models import scan
from resjax.models.resnet import init_variables
from resjax.models.spec import Spec
from resjax.train.step import TrainState

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def digest(tree: Any) -> str:
    """SHA-256 of every name, shape, type and byte of a state; the same in scanned and unrolled form."""
    leaves = jax.tree_util.tree_leaves_with_path(scan.unroll(jax.device_get(tree)))
    sha = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
        sha.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).data)
    return sha.hexdigest()


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: the run's folder.
      keep: how many of the latest stay; None opens them for reading only.
    """

    def __init__(self, workdir: Path, keep: int | None = None) -> None:
        absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax tells at length what it does
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and of every array that it could not read
        self._workdir = workdir.absolute()
        self._directory = self._workdir / "checkpoints"
        self._keep = keep
        self._open()

    def _open(self) -> None:
        # Orbax stores and reads metrics only if it is given best_fn, too.
        if self._keep is None:
            options = ocp.CheckpointManagerOptions(best_fn=_score, read_only=True, create=False)
        else:
            best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
            keep = policies.AnyPreservationPolicy([policies.LatestN(self._keep), best])
            options = ocp.CheckpointManagerOptions(best_fn=_score, preservation_policy=keep)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def steps(self) -> list[int]:
        """Steps with a checkpoint, latest first."""
        return sorted(self._manager.all_steps(), reverse=True) if self._directory.is_dir() else []

    def best_step(self) -> int | None:
        """The step with the best validation accuracy, the later one of equals, if any was validated."""
        return self._manager.best_step() if self.steps() else None

    def save(self, state: TrainState, meta: dict[str, Any], validation_accuracy: float | None = None) -> str:
        """Starts an asynchronous save of `state` and returns its digest; does nothing where the step is saved."""
        step, fingerprint = int(state.step), digest(state)
        if step in self._manager.all_steps():
            return fingerprint
        versions = {name: importlib.metadata.version(name) for name in VERSIONS} | {"resjax": resjax.__version__}
        meta = {**meta, "digest": fingerprint, "weights_digest": digest(_weights(state)), "versions": versions}
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
            metrics=None if validation_accuracy is None else {"validation_accuracy": validation_accuracy},
            force=True,
        )
        return fingerprint

    def find(self, which: str) -> int:
        """The step that `latest`, `best` or a number names.

        Raises:
          BadInput: if there is no such checkpoint.
        """
        steps = self.steps()
        found = steps[0] if steps and which == "latest" else self.best_step() if which == "best" else None
        found = int(which) if which.isdigit() and int(which) in steps else found
        if found is None:
            raise BadInput(f"--step={which}: no such checkpoint in {self._workdir}; here are {steps or 'none'}")
        return found

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the state: config, data position, versions, digests.

        Raises:
          BadInput: if the checkpoint is damaged.
        """
        with self._damage_named(step):
            return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state of one step in the shapes and shardings of `abstract` (in either form), and its meta.

        Raises:
          BadInput: if the checkpoint is damaged.
        """
        meta = self.meta(step)
        with self._damage_named(step):
            return self._restore(abstract, step, meta), meta

    def _restore(self, abstract: TrainState, step: int, meta: dict[str, Any]) -> TrainState:
        scanned = bool(meta["config"]["model"]["scan"])
        here = _is_rolled(abstract.params)
        target = abstract
        if scanned != here:
            # Stored in the other form: restored as it is, then converted exactly and laid out as asked.
            one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            shapes = jax.eval_shape(scan.roll if scanned else scan.unroll, abstract)
            target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        state = restored["state"]
        if digest(state) != meta["digest"]:
            raise ValueError("its bytes do not match their digest")
        if scanned != here:
            state = scan.roll(state) if here else scan.unroll(state)
            state = jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, abstract)
        return state

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest sound checkpoint; None where there is none at all.

        Damaged ones are named on stderr and moved aside, once a sound one is found to go on from.

        Raises:
          BadInput: if every checkpoint is damaged.
        """
        damaged: dict[int, BadInput] = {}
        for step in self.steps():
            try:
                found = self.restore(abstract, step)
            except BadInput as error:
                damaged[step] = error
                continue
            for bad, why in damaged.items():
                print(f"{why}; moved to {self._set_aside(bad)}, step {step} is taken", file=sys.stderr)
            return found
        if damaged:
            raise BadInput(f"{damaged[max(damaged)]}; so is every one before it: start again in another --workdir")
        return None

    @contextmanager
    def _damage_named(self, step: int) -> Iterator[None]:
        """Turns any error into a BadInput, as Orbax raises anything from KeyError to bare Exception on damage."""
        try:
            yield
        except Exception as error:
            # What follows the first colon goes on for pages.
            reason = (str(error).splitlines() or [""])[0].partition(":")[0] or type(error).__name__
            raise BadInput(f"checkpoint {step} in {self._directory} is damaged ({reason})") from error

    def weights(self, step: int) -> dict[str, Any]:
        """The `params` and `batch_stats` of one step on the host, in the form in which they were saved.

        Raises:
          BadInput: if the checkpoint is damaged.
        """
        meta = self.meta(step)
        shapes = jax.eval_shape(lambda: init_variables(Spec(**meta["config"]["model"]), 0))
        restore = ocp.args.PyTreeRestore(
            shapes,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes),
            partial_restore=True,
        )
        with self._damage_named(step):
            found = self._manager.restore(step, args=ocp.args.Composite(state=restore))["state"]
            if digest(found) != meta["weights_digest"]:
                raise ValueError("its bytes do not match their digest")
        return found

    def _set_aside(self, step: int) -> Path:
        aside = self._workdir / "damaged" / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "x")
        aside.parent.mkdir(exist_ok=True)
        self._manager.close()
        (self._directory / str(step)).rename(aside)
        self._open()
        return aside

    def close(self) -> None:
        """Waits for saves and stops Orbax's threads."""
        self._manager.close()


def check_source(workdir: Path, spec: Spec) -> None:
    """Raises BadInput unless `initialize_from` can take the weights of `workdir` for `spec`."""
    with closing(Checkpoints(workdir)) as checkpoints:
        saved = checkpoints.meta(_latest(checkpoints, workdir))
    there, here = _unrolled_shapes(Spec(**saved["config"]["model"])), _unrolled_shapes(spec)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name) and not name.startswith("params/head/"):
            raise BadInput(
                f"init_from={workdir} holds another network: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here; use that run's model fields"
            )


def initialize_from(workdir: Path, state: TrainState) -> TrainState:
    """`state` with the parameters and batch statistics of another run's latest checkpoint, and nothing else of it.

    Where the other run had another number of classes, the head keeps its fresh start, and stderr says so.

    Raises:
      BadInput: if there is no checkpoint, or it is damaged.
    """
    with closing(Checkpoints(workdir)) as checkpoints:
        found = scan.unroll(checkpoints.weights(_latest(checkpoints, workdir)))
    own = _weights(state)
    head = own["params"]["head"]
    if found["params"]["head"]["kernel"].shape != head["kernel"].shape:
        print(f"init_from={workdir}: its head is for other classes; the head starts fresh", file=sys.stderr)
        found["params"]["head"] = jax.device_get(head)
    found = scan.roll(found) if _is_rolled(state.params) else found
    return state.replace(**jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), found, own))


def _score(metrics: Any) -> float:
    return metrics["validation_accuracy"]


def _latest(checkpoints: Checkpoints, workdir: Path) -> int:
    if steps := checkpoints.steps():
        return steps[0]
    raise BadInput(f"init_from={workdir}: holds no checkpoint; give the workdir of a run")


def _weights(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "batch_stats": state.batch_stats}


def _unrolled_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    shapes = jax.eval_shape(lambda: init_variables(dataclasses.replace(spec, scan=False), 0))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def _is_rolled(params: Any) -> bool:
    return any("units" in part for part in params.values())
