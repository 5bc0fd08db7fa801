"""Checkpoints with Orbax: the state, where the data stood, the config and the versions together.

A run's checkpoints lie in `WORKDIR/checkpoints/STEP`. Each stores the digest of its state, because a flipped byte
restores without an error, and a checksum of what lies beside the state. The latest `keep` and the best stay; the
rest are deleted.

A run that resumes moves damaged checkpoints to `WORKDIR/damaged/STEP` and takes the one before them. Only known
signs count as damage: a digest or checksum that differs, a file that is missing, cut or garbled. Anything else that
keeps a checkpoint from being read (the disk, permissions, memory, another structure) is said, and nothing is moved.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import resjax
from resjax.errors import BAD_INPUT, BadInput, NotSaved
from resjax.models import scan
from resjax.train import arrays, damage, digest, orbax, sharding
from resjax.train.peers import Alone, Peers
from resjax.train.step import TrainState

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
META = ("config", "digest", "weights_digest", "versions")  # what every version stores beside the state


class Damaged(BadInput):
    """A checkpoint does not hold what was saved; the message names it and says how that is known."""


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: the run's folder.
      keep: how many of the latest stay; None opens them for reading only.
      job: the processes that save and restore together; each writes and reads what its devices hold.
    """

    def __init__(self, workdir: Path, keep: int | None = None, job: Peers | Alone | None = None) -> None:
        orbax.quieten()
        self._workdir = workdir.absolute()
        self._directory = self._workdir / "checkpoints"
        self._manager: Any = None
        self._job = job or Alone()
        if keep is not None:
            for step in ocp.utils.checkpoint_steps(self._directory) if self._directory.is_dir() else []:
                if self._job.index == 0:
                    with suppress(OSError):
                        (self._directory / str(step)).rmdir()  # only of an empty one: a kill left it half deleted
            self._job.gather("checkpoints", None)
            self._scores = {step: self._score(step) for step in self.steps()}
            self._digests: dict[int, Future[str]] = {}
            self._background = ThreadPoolExecutor(1, "save", initializer=orbax.give_way)
            self._pace = orbax.Pace()  # of the latest save
            # Directories that are made in the background are waited for in seven threads more.
            alone = ocp.options.AsyncOptions(create_directories_asynchronously=False)
            together = ocp.options.AsyncOptions(barrier_sync_fn=self._barrier)
            options = ocp.CheckpointManagerOptions(
                preservation_policy=orbax.LatestAndBest(keep, self._scores),
                lightweight_initialize=True,
                async_options=together if self._job.count > 1 else alone,
            )
            with self._saving():
                self._manager = ocp.CheckpointManager(self._directory, options=options)

    def steps(self) -> list[int]:
        """Steps with a checkpoint, latest first."""
        if self._manager is not None:
            return sorted(self._manager.all_steps(), reverse=True)
        steps = ocp.utils.checkpoint_steps(self._directory) if self._directory.is_dir() else []
        return sorted((step for step in steps if self._folder_is_there(step)), reverse=True)

    def best_step(self) -> int | None:
        """The step with the highest score, of equal ones the latest; None if no step has a score."""
        known = self._scores if self._manager is not None else {}
        return orbax.best_of(
            {step: known.get(step) if step in known else self._score(step) for step in self.steps()}
        )

    def find(self, which: str) -> int:
        """The step that `latest`, `best` or a number names.

        Raises:
          BadInput: if there is no such checkpoint.
        """
        steps = self.steps()
        found = steps[0] if steps and which == "latest" else self.best_step() if which == "best" else None
        found = {str(step): step for step in steps}.get(which, found)
        if found is None:
            raise BadInput(f"--step={which}: no such checkpoint in {self._workdir}; here are {steps or 'none'}")
        return found

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None = None) -> Future[str]:
        """Starts to save `state`, which may be donated when this returns: it has been copied to the host.

        Args:
          state: the state.
          meta: JSON values to store beside it; at least the `config`.
          score: higher is better; the best checkpoint stays.

        Returns:
          The digest of the state, computed in the background. If the step is already saved, nothing is done, and
          this is the saved digest.

        Raises:
          NotSaved: if this or an earlier save failed, naming the folder.
        """
        step = int(state.step)
        self._pace.hurry()
        if step in self.steps():
            if step not in self._digests:
                self._digests[step] = Future()
                self._digests[step].set_result(self.meta(step)["digest"])
            return self._digests[step]
        structure = digest.of_structure(digest.structure(state))
        # A copy, because the caller may change its own.
        beside = json.loads(json.dumps({**meta, "versions": versions(), "structure": structure, "score": score}))
        with self._saving():
            self._manager.wait_until_finished()  # so that only one copy is held
            orbax.check_writable(self._directory)
            self._pace = orbax.Pace()
            copy, complete = digest.leaves(state), Future[dict[str, Any]]()
            self._scores[step] = score
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
            items = ocp.args.Composite(
                state=arrays.StateSave(shapes, self._pace.over(copy)), meta=orbax.MetaSave(complete)
            )
            try:
                self._background.submit(orbax.begin, self._manager, step, items).result()
            finally:
                # After what the caller waits for; and after an error, too, for Orbax may have begun to wait for it.
                hashing = partial(_with_digests, beside, self._pace.over(copy), self._together)
                self._digests[step] = self._background.submit(_complete, complete, hashing)
        return self._digests[step]

    @property
    def saving(self) -> bool:
        """Whether a save is still under way."""
        return self._manager.is_saving_in_progress()

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the state: config, data position, versions, digests.

        Raises:
          BadInput: if it cannot be read; `Damaged` if it is damaged.
        """
        with self._reading(step):
            meta = damage.read_json(self._directory / str(step) / "meta" / "metadata")
            lacking = [key for key in META if not isinstance(meta, dict) or key not in meta]
            if not lacking and meta["digest"].startswith(digest.FORM) and "checksum" not in meta:
                lacking = ["checksum"]
            if lacking:
                raise damage.Damage(f"meta/metadata lacks {', '.join(lacking)}")
            if "checksum" in meta and meta["checksum"] != _checksum(meta):
                raise damage.Damage("meta/metadata does not match its checksum")
        return meta

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state of one step in the shapes and shardings of `abstract`, unrolled or scanned, and its meta.

        A field that the saved state lacks starts as its metadata says, and stderr names it:
        `flax.struct.field(metadata={"starts": function of the restored state})`.

        Raises:
          BadInput: if it cannot be read or has another structure; `Damaged` if it is damaged.
        """
        try:
            own: _Read | BadInput = self._read(abstract, step)
        except BadInput as error:
            own = error
        if isinstance(own, BadInput):
            part = {"error": str(own), "damaged": isinstance(own, Damaged)}
        else:
            part = {"sums": [own.sums[leaf] for leaf in sorted(own.sums)]}
        # A disk, or damage, may be of one process alone: if one cannot read the checkpoint, none takes it.
        parts = self._job.gather("restored", part)
        if failed := sorted((part["damaged"], part["error"]) for part in parts if "error" in part):
            raise (Damaged if failed[0][0] else BadInput)(failed[0][1]) from (
                own if isinstance(own, BadInput) else None
            )
        assert isinstance(own, _Read)
        meta, state = own.meta, own.state
        with self._reading(step):
            if not own.is_sound([part["sums"] for part in parts]):
                raise damage.Damage("its bytes do not match their digest")
            if own.converted:
                state = scan.roll(state) if digest.is_rolled(digest.structure(own.asked)) else scan.unroll(state)
                state = jax.tree.map(lambda x, a: sharding.put(x, a.sharding), state, own.asked)
        for name, starts in own.new.items():
            if self._job.index == 0:
                print(f"checkpoint {step} in {self._directory} has no {name}: it starts now", file=sys.stderr)
            # Copies: a field that starts as another must not share its buffers, which are donated once.
            value = jax.tree.map(
                lambda x, a: jax.device_put(jnp.copy(x), a.sharding), starts(state), getattr(abstract, name)
            )
            state = state.replace(**{name: value})
        return state, meta

    def _read(self, abstract: TrainState, step: int) -> "_Read":
        """What this process holds of a saved state, not yet compared with its digest."""
        meta = self.meta(step)
        with self._reading(step):
            saved = digest.structure(self._tree(step, meta))
            there = {leaf.partition("/")[0] for leaf in saved}
            new = {
                field.name: field.metadata["starts"]
                for field in dataclasses.fields(abstract)
                if "starts" in field.metadata
                and field.name not in there
                and getattr(abstract, field.name) is not None
            }
            asked = abstract.replace(**dict.fromkeys(new))  # None has no leaves
            state = self._restore(asked, step, saved)
            sums = digest.sums(digest.leaves(state)) if meta["digest"].startswith(digest.FORM) else {}
            converted = digest.is_rolled(saved) != digest.is_rolled(digest.structure(asked))
        return _Read(meta, state, sums, asked, new, converted)

    def _restore(self, asked: TrainState, step: int, saved: digest.Structure) -> TrainState:
        """The state in its saved form: in the shardings asked for if these are of that form, else on one device."""
        if digest.is_rolled(saved) != digest.is_rolled(digest.structure(asked)):
            one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            shapes = jax.eval_shape(scan.roll if digest.is_rolled(saved) else scan.unroll, asked)
            asked = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
        if difference := digest.difference(saved, digest.structure(asked)):
            raise _AnotherStructure(difference)
        return self._arrays(step, asked, ocp.checkpoint_utils.construct_restore_args(asked))

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest sound checkpoint; None if there are no checkpoints.

        Once a sound one is found, the damaged ones after it are named on stderr and moved aside.

        Raises:
          BadInput: if one cannot be read or has another structure, or all are damaged; then nothing is moved.
        """
        damaged: dict[int, Damaged] = {}
        for step in self._job.gather("steps", self.steps())[0]:
            try:
                found = self.restore(abstract, step)
            except Damaged as error:
                damaged[step] = error
                continue
            for bad, why in damaged.items():
                self._set_aside(bad, f"{why}; moved to {{}}, step {step} is taken")
            return found
        if damaged:
            raise BadInput(f"{damaged[max(damaged)]}; so is every one before it: start again in another --workdir")
        return None

    def weights(self, step: int, averaged: bool = False) -> dict[str, Any]:
        """The `params` and `batch_stats` of one step on the host, unrolled or scanned as they were saved.

        Args:
          averaged: of their moving average.

        Raises:
          BadInput: if they were not saved or cannot be read; `Damaged` if they are damaged.
        """
        meta = self.meta(step)
        if averaged and "ema_digest" not in meta:
            raise BadInput(f"checkpoint {step} in {self._directory} holds no moving average: ema.decay is 0 there")
        with self._reading(step):
            tree = self._tree(step, meta)
            of = tree["ema"] if averaged else tree
            asked = {part: of.get(part, {}) for part in digest.WEIGHTS}
            asked = {"ema": asked} if averaged else asked
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), asked)
            found = self._arrays(step, asked, on_host)
            found = found["ema"] if averaged else found
            if not digest.matches(found, meta["ema_digest" if averaged else "weights_digest"]):
                raise damage.Damage("its bytes do not match their digest")
        return found

    def weights_structure(self, step: int) -> digest.Structure:
        """Name -> shape and type of the leaves of `weights`, unrolled, without reading them.

        Raises:
          BadInput: if it cannot be read; `Damaged` if it is damaged.
        """
        meta = self.meta(step)
        with self._reading(step):
            tree = self._tree(step, meta)
            return digest.structure(
                jax.eval_shape(scan.unroll, {part: tree.get(part, {}) for part in digest.WEIGHTS})
            )

    def _tree(self, step: int, meta: dict[str, Any]) -> dict[str, Any]:
        """The shape and type of every saved leaf, as Orbax names them."""
        folder = self._directory / str(step) / "state"
        # Without these two Orbax guesses.
        damage.read_json(folder / "_METADATA")
        (folder / "manifest.ocdbt").read_bytes()
        tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
        tree = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        if "structure" in meta and meta["structure"] != digest.of_structure(digest.structure(tree)):
            raise damage.Damage("state/_METADATA is not that of what was saved")
        return tree

    def _arrays(self, step: int, asked: Any, restore_args: Any) -> Any:
        args = ocp.args.PyTreeRestore(asked, restore_args=restore_args, partial_restore=True)
        own = jax.process_index()  # each process reads for itself: if one fails, no other waits for it
        alone = ocp.options.MultiprocessingOptions(own, {own}, f"read{own}")
        reader = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
        with closing(ocp.Checkpointer(reader, multiprocessing_options=alone)) as checkpointer:
            return checkpointer.restore(self._directory / str(step) / "state", args=args)

    def _score(self, step: int) -> float | None:
        """The score that a step was saved with; None if it has none or damage keeps it from being read."""
        try:
            meta = self.meta(step)
            if "score" in meta:
                return meta["score"]
            with self._reading(step):  # 0.1.0 had it in a file of its own, or none
                return damage.read_json(self._directory / str(step) / "metrics" / "metrics")["validation_accuracy"]
        except Damaged:
            return None

    def _set_aside(self, step: int, message: str) -> None:
        """Moves a checkpoint to `damaged/`, and says `message` with the place."""
        if self._job.index == 0:
            aside = self._workdir / "damaged" / str(step)
            while aside.exists():
                aside = aside.with_name(aside.name + "x")
            aside.parent.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(aside)
            print(message.format(aside), file=sys.stderr)
        self._job.gather("aside", None)
        if self._manager is not None:
            self._manager.reload()

    def _together(self, sums: digest.Sums) -> digest.Sums:
        """The sums of what all processes hold."""
        leaves = sorted(sums)
        parts = self._job.gather("digest", [sums[leaf] for leaf in leaves])
        return digest.add(dict(zip(leaves, part, strict=True)) for part in parts)

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns what keeps a checkpoint from being read into one line; Orbax raises any exception."""
        which = f"checkpoint {step} in {self._directory}"
        try:
            yield
        except BadInput:
            raise
        except _AnotherStructure as error:
            raise BadInput(f"{which} holds {error}; nothing was moved") from error
        except Exception as error:
            if reason := self._folder_is_there(step) and damage.of(error):
                raise Damaged(f"{which} is damaged ({reason})") from error
            raise BadInput(f"{which} cannot be read ({damage.reason(error)}); nothing was moved") from error

    def _folder_is_there(self, step: int) -> bool:
        """Whether the checkpoint's folder holds anything; if not, a whole disk may be missing."""
        try:
            return any((self._directory / str(step)).iterdir())
        except OSError:
            return False

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns an operating system's error in a save into one line."""
        try:
            yield
        except Exception as error:
            if not damage.is_of_the_system(error):
                raise
            raise NotSaved(self._why_not_saved(error)) from error

    def _why_not_saved(self, error: BaseException) -> str:
        return (
            f"{self._directory}: a checkpoint could not be saved ({damage.reason(error)}); those before it are "
            "sound: mend that, then run the same command again"
        )

    def _barrier(self, key: str, timeout_ms: int) -> None:
        """Where a save waits in the background for the other processes.

        Orbax comes here after an error, too, and the others would wait for minutes elsewhere: so it ends the job.
        """
        if error := sys.exc_info()[1]:
            self._job.leave(BAD_INPUT, f"error: {self._why_not_saved(error)}")
        self._job.gather(key, None)

    def close(self) -> None:
        """Waits for saves and stops the threads.

        Raises:
          NotSaved: if a save failed, naming the folder.
        """
        if self._manager is None:
            return
        self._pace.hurry()
        manager, self._manager = self._manager, None
        with self._saving():
            try:
                manager.wait_until_finished()
            finally:
                self._background.shutdown()
                manager.close()


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what the bits of a run depend on."""
    return {name: importlib.metadata.version(name) for name in VERSIONS} | {"resjax": resjax.__version__}


@dataclasses.dataclass(frozen=True)
class _Read:
    """What a process has read of a checkpoint.

    Attributes:
      sums: of the shards that it counts; none for a digest of 0.1.0.
      asked: shapes and shardings of the state, without the fields that it lacks.
      new: how these fields start.
      converted: whether the state was saved in the other form, and lies whole on one device of every process.
    """

    meta: dict[str, Any]
    state: TrainState
    sums: digest.Sums
    asked: TrainState
    new: dict[str, Callable[[TrainState], Any]]
    converted: bool

    def is_sound(self, parts: list[list[int]]) -> bool:
        """Whether the state is the saved one, by the sums of all processes."""
        if not self.sums:
            return digest.matches(self.state, self.meta["digest"])
        whole = parts[:1] if self.converted else parts
        sums = digest.add(dict(zip(sorted(self.sums), part, strict=True)) for part in whole)
        return digest.text(sums) == self.meta["digest"]


class _AnotherStructure(Exception):
    """How a checkpoint differs from what is asked for."""


def _with_digests(
    meta: dict[str, Any], leaves: Iterable[digest.Leaf], together: Callable[[digest.Sums], digest.Sums]
) -> dict[str, Any]:
    """`meta` with the digests of the whole state and of its weights, from one pass over it, and its checksum.

    Where the state has a moving average, its digest is that of weights with these values.
    """
    sums = together(digest.sums(leaves))
    weights = {leaf: value for leaf, value in sums.items() if leaf[0].partition("/")[0] in digest.WEIGHTS}
    meta = {**meta, "digest": digest.text(sums), "weights_digest": digest.text(weights)}
    average = {
        (name.removeprefix("ema/"), dtype, shape): value
        for (name, dtype, shape), value in sums.items()
        if name.startswith("ema/")
    }
    meta |= {"ema_digest": digest.text(average)} if average else {}
    return {**meta, "checksum": _checksum(meta)}


def _complete(meta: Future[dict[str, Any]], find: Callable[[], dict[str, Any]]) -> str:
    """Gives `meta` what `find` returns or raises, and returns the digest in it."""
    try:
        meta.set_result(find())
    except BaseException as error:
        meta.set_exception(error)
    return meta.result()["digest"]


def _checksum(meta: dict[str, Any]) -> str:
    rest = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
