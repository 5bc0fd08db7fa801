"""Checkpoints with Orbax: the state, where the data stood, the config and the versions together.

A run's checkpoints lie in `WORKDIR/checkpoints/STEP`. Each stores the digest of its state, because a flipped
byte restores without an error; one that cannot be restored, or whose digest differs, is moved to
`WORKDIR/damaged/STEP` and the one before it is taken. Nothing is deleted but what the policy lets go: the
latest `keep` and the best by validation accuracy stay.
"""

import dataclasses
import hashlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

import resjax
from resjax.errors import BadInput
from resjax.models import scan
from resjax.models.spec import Spec
from resjax.step import TrainState, init_variables

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def digest(state: TrainState) -> str:
    """SHA-256 of every name, shape, type and byte of a state; the same in scanned and unrolled form."""
    leaves = jax.tree_util.tree_leaves_with_path(scan.unroll(jax.device_get(state)))
    sha = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
        sha.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).data)
    return sha.hexdigest()


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: the run's folder.
      keep: how many of the latest stay.
    """

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        logging.set_verbosity(logging.ERROR)  # Orbax tells at length what it does
        self._workdir = workdir.absolute()
        self._directory = self._workdir / "checkpoints"
        self._keep = keep
        self._open()

    def _open(self) -> None:
        best = policies.BestN(get_metric_fn=lambda metrics: metrics["validation_accuracy"], n=1)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best])
            ),
        )

    def steps(self) -> list[int]:
        """Steps with a checkpoint, latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def best_step(self) -> int | None:
        """The step with the best validation accuracy, if any was validated."""
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        known = {step: m["validation_accuracy"] for step, m in scores.items() if m}
        return max(known, key=lambda step: known[step]) if known else None

    def save(self, state: TrainState, meta: dict[str, Any], validation_accuracy: float | None = None) -> str:
        """Starts an asynchronous save of `state` and returns its digest; does nothing where the step is saved."""
        step, fingerprint = int(state.step), digest(state)
        if step in self._manager.all_steps():
            return fingerprint
        versions = {name: importlib.metadata.version(name) for name in VERSIONS} | {"resjax": resjax.__version__}
        meta = {**meta, "digest": fingerprint, "versions": versions}
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
        """What was saved beside the state: config, data position, versions, digest."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state of one step in the shapes and shardings of `abstract` (in either form), and its meta.

        Raises:
          Exception: of any type, where the checkpoint is damaged or belongs to another network.
        """
        meta = self.meta(step)
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
        return state, meta

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest sound checkpoint; damaged ones are named on stderr and moved aside. None where there is none.

        Raises:
          BadInput: if every checkpoint is damaged.
        """
        steps = self.steps()
        for step in steps:
            try:
                return self.restore(abstract, step)
            except Exception as error:  # Orbax raises anything from KeyError to bare Exception on damage
                aside = self._set_aside(step)
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                print(f"checkpoint {step} is damaged ({reason}); moved to {aside}", file=sys.stderr)
        if steps:
            raise BadInput(
                f"workdir={self._workdir}: every checkpoint is damaged; they are in {self._workdir / 'damaged'}. "
                "Start again in another workdir"
            )
        return None

    def _set_aside(self, step: int) -> Path:
        aside = self._workdir / "damaged" / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "x")
        aside.parent.mkdir(exist_ok=True)
        self._manager.close()
        (self._directory / str(step)).rename(aside)
        self._open()
        return aside

    def wait(self) -> None:
        """Returns when every save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and stops Orbax's threads."""
        self._manager.close()


def check_source(workdir: Path, spec: Spec) -> None:
    """Raises BadInput unless `initialize_from` can take the weights of `workdir` for `spec`."""
    _, saved = _latest_meta(workdir)
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
      BadInput: if there is no checkpoint.
    """
    step, saved = _latest_meta(workdir)
    shapes = jax.eval_shape(lambda: init_variables(Spec(**saved["config"]["model"]), 0))
    restore = ocp.args.PyTreeRestore(
        shapes,
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes),
        partial_restore=True,
    )
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        found = scan.unroll(manager.restore(step, args=ocp.args.Composite(state=restore))["state"])
    own = {"params": state.params, "batch_stats": state.batch_stats}
    head = own["params"]["head"]
    if found["params"]["head"]["kernel"].shape != head["kernel"].shape:
        print(f"init_from={workdir}: its head is for other classes; the head starts fresh", file=sys.stderr)
        found["params"]["head"] = jax.device_get(head)
    found = scan.roll(found) if _is_rolled(state.params) else found
    return state.replace(**jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), found, own))


def _latest_meta(workdir: Path) -> tuple[int, dict[str, Any]]:
    """The latest step of a run's checkpoints and what was saved beside its state."""
    if (workdir / "checkpoints").is_dir():
        checkpoints = Checkpoints(workdir)
        try:
            if steps := checkpoints.steps():
                return steps[0], checkpoints.meta(steps[0])
        finally:
            checkpoints.close()
    raise BadInput(f"init_from={workdir}: holds no checkpoint; give the workdir of a run")


def _unrolled_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    shapes = jax.eval_shape(lambda: init_variables(dataclasses.replace(spec, scan=False), 0))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def _is_rolled(params: Any) -> bool:
    return any("units" in part for part in params.values())
