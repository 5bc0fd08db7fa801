"""Checkpoints: which stay, what damage does, and restoring onto other devices, forms and networks."""

import asyncio
import dataclasses
import errno
import json
import os
import random
import resource
import shutil
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import flax.struct
import jax
import numpy as np
import pytest

from resjax import experiment
from resjax.cli import load
from resjax.errors import BadInput
from resjax.train import digest, orbax
from resjax.train.checkpoint import Checkpoints, Damaged
from resjax.train.program import build
from resjax.train.step import TrainState


def program(flags):
    return experiment.open(load(list(flags))).program


def flip(step):
    """Flips one bit on disk, one that matters: not every byte of these files is used."""
    files = [path for path in (step / "state").rglob("d/*") if path.is_file()]
    for path in sorted(files, key=lambda path: -path.stat().st_size):
        sound = path.read_bytes()
        for at in (len(sound) // 4, len(sound) // 2, 3 * len(sound) // 4):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            # Opened anew each time: what was read before is cached.
            with closing(Checkpoints(step.parents[1])) as checkpoints:
                try:
                    checkpoints.weights(int(step.name))
                except BadInput:
                    return
        path.write_bytes(sound)
    pytest.fail("no bit matters")


def largest(step):
    """The largest file of arrays in a checkpoint."""
    return max((path for path in (step / "state").rglob("d/*") if path.is_file()), key=lambda p: p.stat().st_size)


def exchange(step):
    """Puts another step's state in its place, which is sound in itself."""
    shutil.rmtree(step / "state")
    shutil.copytree(step.with_name("75") / "state", step / "state")


def edit(**changes):
    """Changes values of a checkpoint's meta; None deletes one."""

    def change(step):
        path = step / "meta" / "metadata"
        meta = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))

    return change


def cut(name):
    def change(step):
        path = step / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def garble(name, old, new):
    """Replaces the first `old` by `new`, as one flipped bit would."""

    def change(step):
        content = (step / name).read_bytes()
        assert old in content
        (step / name).write_bytes(content.replace(old, new, 1))

    return change


DAMAGES = {
    "a flipped bit": flip,
    "another state": exchange,
    "truncated data": lambda step: largest(step).write_bytes(largest(step).read_bytes()[:2000]),
    "emptied data": lambda step: largest(step).write_bytes(b""),
    "deleted data": lambda step: largest(step).unlink(),
    "deleted state": lambda step: shutil.rmtree(step / "state"),
    "garbled tree": lambda step: (step / "state" / "_METADATA").write_bytes(b"\xff\x00{"),
    "garbled meta": lambda step: (step / "meta" / "metadata").write_bytes(b"\xff\x00{"),
    "emptied meta": lambda step: (step / "meta" / "metadata").write_bytes(b""),
    "deleted meta": lambda step: shutil.rmtree(step / "meta"),
    "meta of another kind": lambda step: (step / "meta" / "metadata").write_text("[1]"),
    "cut meta": cut("meta/metadata"),
    "meta without a config": edit(config=None),
    "meta without digests": edit(weights_digest=None),
    "meta without its checksum": edit(checksum=None),
    "another value in meta": edit(train_steps=1),
    "another digest in meta": edit(digest="v2:0"),
    "cut tree": cut("state/_METADATA"),
    "deleted tree": lambda step: (step / "state" / "_METADATA").unlink(),
    "another name in the tree": garble("state/_METADATA", b'"kernel"', b'"kermel"'),
    "cut array metadata": cut("state/array_metadatas/process_0"),
    "cut manifest": cut("state/manifest.ocdbt"),
    "deleted manifest": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_one_before_is_taken(copy, rich, damage, capfd):
    bad, aside = copy / "checkpoints" / "90", copy / "damaged" / "90"
    DAMAGES[damage](bad)
    there = sorted(path.relative_to(bad) for path in bad.rglob("*"))
    abstract = program((*rich, "--config.mesh.data=1")).abstract
    with closing(Checkpoints(copy, keep=2)) as checkpoints:
        state, meta = checkpoints.restore_latest(abstract)
        assert checkpoints.steps() == [75]
    assert int(state.step) == 75
    assert digest.of(state) == meta["digest"]
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"checkpoint 90 in {copy}/checkpoints is damaged (")
    assert line.endswith(f"); moved to {copy}/damaged/90, step 75 is taken")
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == there


def test_every_flipped_bit_of_the_meta_is_found_or_harmless(copy):
    """A seeded sample of 600; what is not found reads as it was saved."""
    path = copy / "checkpoints" / "90" / "meta" / "metadata"
    sound, found = path.read_bytes(), 0
    with closing(Checkpoints(copy)) as checkpoints:
        meta = checkpoints.meta(90)
        for bit in random.Random(0).sample(range(8 * len(sound)), 600):
            flipped = bytearray(sound)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                assert checkpoints.meta(90) == meta, f"bit {bit}"
            except Damaged:
                found += 1
    assert found > 500  # the others are of spaces, or of capitals in escapes and exponents


def test_a_damaged_checkpoint_says_nothing_but_its_line(run, rich, copy):
    """In a process of its own: the reads that were still at work when one failed say nothing."""
    largest(copy / "checkpoints" / "90").write_bytes(b"")
    done = run(*rich, f"--workdir={copy}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Event loop" not in done.stderr
    assert f"); moved to {copy}/damaged/90, step 75 is taken\n" in done.stderr


def test_a_damaged_run_ends_as_if_it_had_not_been(run, rich, copy, whole, read_records):
    flip(copy / "checkpoints" / "90")
    done = run(*rich, f"--workdir={copy}")
    assert done.returncode == 0, done.stderr
    assert "checkpoint 90 in" in done.stderr
    assert "resumed  from step 75\n" in done.stderr
    assert (copy / "damaged" / "90").is_dir()
    one, other = (json.loads((w / "summary.json").read_text()) for w in (copy, whole))
    # Step 75 is amid the interval that the training loss of the summary is of.
    assert all(one[key] == other[key] for key in ("state_digest", "train_loss", "train_accuracy", "test_loss"))
    assert read_records(copy) == read_records(whole)


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def chained(error, cause):
    error.__cause__ = cause
    return error


NOT_DAMAGE = {
    "I/O error": OSError(errno.EIO, "Input/output error"),
    "no permission": PermissionError(errno.EACCES, "Permission denied"),
    "a full disk": OSError(errno.ENOSPC, "No space left on device"),
    "a stale handle": OSError(errno.ESTALE, "Stale file handle"),
    "within others": chained(Exception("while reading"), chained(ValueError("x"), OSError(errno.EIO, "I/O"))),
    "on the way to damage": chained(ValueError("DATA_LOSS: cut"), OSError(errno.EIO, "Input/output error")),
    "no memory": MemoryError(),
    "TensorStore: permission": ValueError("PERMISSION_DENIED: Error opening: closed"),
    "TensorStore: unavailable": ValueError("UNAVAILABLE: Error reading"),
    "TensorStore: resources": ValueError("RESOURCE_EXHAUSTED: Error opening: Too many open files"),
    "TensorStore: I/O": ValueError("DATA_LOSS: Error reading: Input/output error [os_error_code='5']"),
    "a mistake of ours": TypeError("unexpected keyword"),
    "an error of another kind": RuntimeError("can't start new thread"),
    "of no known kind": ValueError("what is this"),
    "a missing key": KeyError("params"),
}


@pytest.mark.parametrize("error", NOT_DAMAGE)
@pytest.mark.parametrize("where", ["_arrays", "_tree"])
def test_what_is_not_known_as_damage_moves_nothing(copy, rich, monkeypatch, where, error):
    def fail(*_):
        raise NOT_DAMAGE[error]

    abstract = program((*rich, "--config.mesh.data=1")).abstract
    monkeypatch.setattr(Checkpoints, where, fail)
    before = snapshot(copy)
    with closing(Checkpoints(copy, keep=2)) as checkpoints:
        with pytest.raises(
            BadInput, match=rf"^checkpoint 90 in {copy}/checkpoints cannot be read \(.*nothing was moved$"
        ):
            checkpoints.restore_latest(abstract)
        assert checkpoints.steps() == [90, 75]
    assert snapshot(copy) == before


def loop_of_links(path):
    """Opening this is an error of the operating system, for root too."""
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", ["meta/metadata", "state/_METADATA", "state/manifest.ocdbt", "data"])
def test_an_error_of_the_system_moves_nothing(call, rich, copy, name):
    step = copy / "checkpoints" / "90"
    loop_of_links(largest(step) if name == "data" else step / name)
    code, _, err = call(*rich, f"--workdir={copy}", "--config.mesh.data=1")
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        f"error: checkpoint 90 in {copy}/checkpoints cannot be read (Too many levels of symbolic "
    )
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["75", "90"]
    assert not (copy / "damaged").exists()


ANOTHER = {
    "--config.model.widths=4,12": (
        "another network: batch_stats/stage2/unit0/norm1/mean is (8,) float32 there and (12,) float32 here"
    ),
    "--config.model.units=1,3": (
        "another network: batch_stats/stage2/unit2/norm1/mean is missing there and (8,) float32 here"
    ),
    "--config.model.units=1,1": (
        "another network: batch_stats/stage2/unit1/norm1/mean is (8,) float32 there and missing here"
    ),
    "--config.optimizer.name=adamw": "another state: opt_state/",
}


@pytest.mark.parametrize("change", ANOTHER)
def test_another_structure_is_said_as_that(copy, rich, change):
    abstract = program((*rich, "--config.mesh.data=1", change)).abstract
    before = snapshot(copy)
    with closing(Checkpoints(copy, keep=2)) as checkpoints, pytest.raises(BadInput) as error:
        checkpoints.restore_latest(abstract)
    assert str(error.value).startswith(f"checkpoint 90 in {copy}/checkpoints holds {ANOTHER[change]}")
    assert len(str(error.value).splitlines()) == 1
    assert snapshot(copy) == before


class Averaged(TrainState):
    """A state with a field that older ones do not have."""

    average: Any = flax.struct.field(default=None, metadata={"starts": lambda state: state.params})


class Counted(TrainState):
    """Here it is not documented how the field starts."""

    count: Any = None


def extended(kind, abstract, **fields):
    return kind(abstract.step, abstract.params, abstract.batch_stats, abstract.opt_state, **fields)


@pytest.mark.parametrize("scanned", ["false", "true"])
def test_a_field_that_the_saved_state_lacks_starts_as_documented(copy, rich, capfd, tmp_path, scanned):
    flags = (*rich, f"--config.model.scan={scanned}")
    abstract = program(flags).abstract
    with closing(Checkpoints(copy)) as checkpoints:
        plain, _ = checkpoints.restore(abstract, 90)
        state, _ = checkpoints.restore(extended(Averaged, abstract, average=abstract.params), 90)
        assert capfd.readouterr().err == f"checkpoint 90 in {copy}/checkpoints has no average: it starts now\n"
        off, _ = checkpoints.restore(extended(Averaged, abstract), 90)
    assert off.average is None
    assert digest.of(state.average) == digest.of(plain.params)
    assert digest.of(state.params) == digest.of(plain.params)
    assert jax.tree.map(lambda x: x.sharding, state.average) == jax.tree.map(lambda x: x.sharding, abstract.params)
    for mine, other in zip(jax.tree.leaves(state.average), jax.tree.leaves(state.params), strict=True):
        pointers = [x.addressable_shards[0].data.unsafe_buffer_pointer() for x in (mine, other)]
        assert pointers[0] != pointers[1]  # a buffer is donated once
    # Saved once, it is restored.
    state = extended(Averaged, plain, average=jax.tree.map(lambda x: 2 * x, plain.params))
    with closing(Checkpoints(tmp_path / "new", keep=1)) as checkpoints:
        checkpoints.save(state, {"config": {}})
    with closing(Checkpoints(tmp_path / "new")) as checkpoints:
        again, _ = checkpoints.restore(extended(Averaged, abstract, average=abstract.params), 90)
        with pytest.raises(BadInput, match=r"holds another state: average/head/bias is .* there and missing here"):
            checkpoints.restore(abstract, 90)
    assert capfd.readouterr().err == ""
    assert digest.of(again) == digest.of(state)


def test_a_field_without_a_documented_start_is_another_structure(copy, rich):
    abstract = program((*rich, "--config.mesh.data=1")).abstract
    message = r"holds another state: count is missing there and \(\) int32 here"
    with closing(Checkpoints(copy)) as checkpoints, pytest.raises(BadInput, match=message):
        checkpoints.restore(extended(Counted, abstract, count=abstract.step), 90)


def test_all_damaged_is_an_error_that_moves_nothing(call, rich, copy):
    for step in ("75", "90"):
        DAMAGES["emptied data"](copy / "checkpoints" / step)
    before = snapshot(copy / "checkpoints")
    for _ in range(2):  # the second time, too
        code, _, err = call(*rich, f"--workdir={copy}", "--config.mesh.data=1")
        assert code == 2
        assert err.splitlines()[-1].startswith(f"error: checkpoint 90 in {copy}/checkpoints is damaged (")
        assert "so is every one before it" in err
        assert snapshot(copy / "checkpoints") == before
    assert not (copy / "damaged").exists()


@pytest.mark.parametrize("damage", ["another state", "deleted meta"])
def test_evaluating_a_damaged_checkpoint_moves_nothing(call, rich, copy, damage):
    DAMAGES[damage](copy / "checkpoints" / "90")
    before = snapshot(copy)
    code, out, err = call(*rich, f"--workdir={copy}", "--mode=eval")
    assert (code, out) == (2, "")
    assert err.startswith("error: checkpoint 90 in ")
    assert len(err.splitlines()) == 1
    assert snapshot(copy) == before
    code, out, err = call(*rich, f"--workdir={copy}", "--mode=eval", "--step=75", "--config.mesh.data=1")
    assert code == 0, err
    assert json.loads(out)["step"] == 75


LAYOUTS = {
    "1 device": ("--config.mesh.data=1",),
    "8 devices": ("--config.mesh.data=8", "--config.optimizer.accumulate=1"),
    "2 x 4": ("--config.mesh.data=2", "--config.mesh.fsdp=4"),
    "1 x 8": ("--config.mesh.data=1", "--config.mesh.fsdp=8"),
    "scanned": ("--config.mesh.data=1", "--config.model.scan=true"),
    "scanned, 2 x 4": ("--config.mesh.fsdp=4", "--config.model.scan=true"),
}


@pytest.fixture(scope="module")
def wide():
    """A network whose larger leaves are worth sharding, with stages to scan."""
    return (
        "--config=configs/digits.py",
        "--config.model.units=1,3",
        "--config.model.widths=16,32",
        "--config.batch_size=32",
    )


@pytest.fixture(scope="module")
def trained(wide):
    """A state in which no two leaves are alike and none is at its start, on the host, unrolled."""
    shapes = program(wide).abstract
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(shapes)
    state = jax.tree.unflatten(tree, [rng.normal(size=x.shape).astype(x.dtype) for x in leaves])
    return state.replace(step=np.int32(7))


def lay(state, abstract):
    """A state on the host in the form and layout of `abstract`."""
    from resjax.models import scan

    rolled = jax.tree.structure(abstract) != jax.tree.structure(state)
    state = scan.roll(state) if rolled else state
    return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, abstract)


@pytest.mark.parametrize("here", LAYOUTS)
@pytest.mark.parametrize("there", ["1 device", "2 x 4", "scanned"])
def test_restored_anywhere_with_the_same_bytes(wide, trained, tmp_path, there, here):
    config = load([*wide, *LAYOUTS[there]])
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(lay(trained, program((*wide, *LAYOUTS[there])).abstract), {"config": config.to_dict()})
    abstract = program((*wide, *LAYOUTS[here])).abstract
    with closing(Checkpoints(tmp_path)) as checkpoints:
        state, _ = checkpoints.restore(abstract, 7)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype, a.sharding), abstract
    )
    assert digest.of(state) == digest.of(trained)
    expected = lay(trained, abstract)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))


def test_goes_on_on_other_devices(run, rich, copy, whole, read_records):
    """One device up to step 75, 2 x 4 from there: equal at the restore, and then up to rounding."""
    shutil.rmtree(copy / "checkpoints" / "90")
    done = run(*rich, f"--workdir={copy}", "--devices=8", "--config.mesh.fsdp=4", "--config.optimizer.accumulate=2")
    assert done.returncode == 0, done.stderr
    assert "mesh data=2 fsdp=4" in done.stderr
    assert "resumed  from step 75\n" in done.stderr
    losses, expected = ([r["loss"] for r in read_records(w, "train")] for w in (copy, whole))
    assert losses[:75] == expected[:75]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def scalar_state(step):
    return TrainState(jax.numpy.int32(step), {"w": jax.numpy.full(3, step, "float32")}, {}, ())


STAY = {
    (1, (None,) * 7): [7],
    (3, (None,) * 7): [7, 6, 5],
    (9, (None,) * 7): [7, 6, 5, 4, 3, 2, 1],
    (2, (0.3, 0.9, None, 0.9, 0.5, None, 0.1)): [7, 6, 4],  # of equals the later one
    (2, (0.9, 0.3, None, 0.1, 0.5, None, 0.1)): [7, 6, 1],
    (2, (0.1, 0.3, None, 0.1, 0.5, None, 0.6)): [7, 6],
    (1, (0.0, None, None, None, None, None, None)): [7, 1],
    (1, (-2.0, -1.0, -3.0, -3.0, -3.0, -3.0, -3.0)): [7, 2],
}


@pytest.mark.parametrize(("keep", "scores"), STAY)
@pytest.mark.parametrize("resumed", [False, True], ids=["in one go", "opened anew each time"])
def test_latest_and_best_stay(tmp_path, keep, scores, resumed):
    checkpoints = Checkpoints(tmp_path, keep)
    for step, score in enumerate(scores, 1):
        checkpoints.save(scalar_state(step), {"config": {}}, score)
        if resumed:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path, keep)
    expected = STAY[keep, scores]
    scored = [step for step in expected if scores[step - 1] is not None]
    best = max(scored, key=lambda step: (scores[step - 1], step), default=None)
    assert checkpoints.best_step() == best
    checkpoints.close()
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.steps() == expected
        assert checkpoints.best_step() == best
        assert checkpoints.find("latest") == 7
        for which in ("8", "nonsense", "-1", "", *([] if scored else ["best"])):
            with pytest.raises(BadInput, match=rf"--step={which}: no such checkpoint.*\[7"):
                checkpoints.find(which)


def test_best_is_by_validation_accuracy_and_only_where_it_was_validated(call, tiny, tmp_path, monkeypatch):
    """Each wrong rule would find another step: by loss 8, by top-5 10, by test accuracy 2, of equals the first 4,
    by what an earlier step scored 7."""
    validation = {
        2: (0.3, 1.0, 0.5),
        4: (0.5, 2.0, 0.6),
        6: (0.5, 2.0, 0.6),
        8: (0.2, 0.5, 0.6),
        10: (0.1, 3.0, 0.9),
    }
    test = {2: 0.9, 4: 0.1, 6: 0.1, 8: 0.1, 10: 0.1}
    results = []
    for step, (accuracy, loss, top5) in validation.items():
        results.append({"loss": loss, "accuracy": accuracy, "accuracy_top5": top5})
        results.append({"loss": 1.0, "accuracy": test[step], "accuracy_top5": 1.0})
    results = iter(results)
    monkeypatch.setattr("resjax.train.loop.evaluate", lambda *_: next(results))
    durations = ("--config.total_steps=10", "--config.eval_every_steps=2", "--config.checkpoint_every_steps=1")
    flags = (*tiny, *durations, "--config.checkpoint_keep=1", "--config.mesh.data=1")
    code, _, err = call(*flags, f"--workdir={tmp_path}/run")
    assert code == 0, err
    with closing(Checkpoints(tmp_path / "run")) as checkpoints:
        assert checkpoints.steps() == [10, 6]
        assert checkpoints.best_step() == 6


def test_a_step_that_is_saved_stays_as_it_is(tmp_path):
    with closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        first = checkpoints.save(scalar_state(1), {"config": {"a": 1}})
        other = scalar_state(1).replace(params={"w": jax.numpy.zeros(3)})
        assert checkpoints.save(other, {"config": {"a": 2}}).result() == first.result()
    before = snapshot(tmp_path / "checkpoints")
    with closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        assert checkpoints.save(other, {"config": {"a": 2}}).result() == first.result()
        state, meta = checkpoints.restore(jax.eval_shape(lambda: scalar_state(1)), 1)
    assert snapshot(tmp_path / "checkpoints") == before
    assert meta["config"] == {"a": 1}
    assert digest.of(state) == meta["digest"] == first.result() == digest.of(scalar_state(1))


def test_the_state_is_hashed_once_while_training_goes_on(tmp_path, monkeypatch):
    """`save` returns before the digest is there, and what becomes of the buffers and the meta no longer matters."""
    go_on, hashed, real = threading.Event(), [], digest.sums

    def slow(leaves):
        leaves = list(leaves)
        hashed.append(len(leaves))
        assert go_on.wait(60)
        return real(leaves)

    monkeypatch.setattr(digest, "sums", slow)
    state, meta = scalar_state(1), {"config": {}, "interval": {"loss": 1.0}}
    abstract = jax.eval_shape(lambda: state)
    with closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        future = checkpoints.save(state, meta)
        early, under_way = future.done(), checkpoints.saving
        meta["interval"]["loss"] = 2.0
        jax.block_until_ready(jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)(state))
        go_on.set()
        assert future.result() == checkpoints.save(scalar_state(1), meta).result()
        checkpoints._manager.wait_until_finished()
        assert not checkpoints.saving
    assert not early
    assert under_way
    assert hashed == [2]
    with closing(Checkpoints(tmp_path)) as checkpoints:
        restored, meta = checkpoints.restore(abstract, 1)
        assert digest.of(checkpoints.weights(1)) == meta["weights_digest"]
    assert meta["interval"] == {"loss": 1.0}
    assert digest.of(restored) == meta["digest"] == future.result() == digest.of(scalar_state(1))


@pytest.mark.parametrize("failing", ["file size", "folder"])
def test_a_save_that_fails_is_said_at_the_next(tmp_path, failing):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(scalar_state(1), {"config": {}}).result()
    checkpoints._manager.wait_until_finished()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if failing == "file size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    else:
        (tmp_path / "checkpoints").rename(tmp_path / "moved")
        (tmp_path / "checkpoints").write_text("")
    message = rf"^{tmp_path}/checkpoints: a checkpoint could not be saved \(.*\); .*again$"
    try:
        if failing != "folder":  # which is found at once
            checkpoints.save(scalar_state(2), {"config": {}})
        with pytest.raises(BadInput, match=message):
            checkpoints.save(scalar_state(3), {"config": {}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.close()
    if failing == "folder":
        (tmp_path / "checkpoints").unlink()
        (tmp_path / "moved").rename(tmp_path / "checkpoints")
    with closing(Checkpoints(tmp_path)) as checkpoints:
        state, _ = checkpoints.restore_latest(jax.eval_shape(lambda: scalar_state(1)))
        assert int(state.step) == 1
        assert checkpoints.steps() == [1]


def raise_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_last_save_that_fails_is_said_at_the_end(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    monkeypatch.setattr(digest, "text", raise_full)
    checkpoints.save(scalar_state(1), {"config": {}})
    with pytest.raises(BadInput, match="could not be saved \\(No space left on device\\)"):
        checkpoints.close()


def test_what_is_saved_beside_the_state(whole):
    with closing(Checkpoints(whole)) as checkpoints:
        meta = checkpoints.meta(90)
    assert meta["config"] == json.loads((whole / "config.json").read_text())
    assert meta["data"] == {"next_step": 90, "seed": 0}
    assert meta["digest"] == json.loads((whole / "summary.json").read_text())["state_digest"]
    assert meta["versions"]["jax"] == jax.__version__


def test_best_of_a_run_is_kept_and_evaluated(call, rich, whole, read_records):
    """Of the steps that were both validated and saved."""
    validated = {record["step"]: record["accuracy"] for record in read_records(whole, "validation")}
    best = max(validated, key=lambda step: (validated[step], step))
    code, out, err = call(*rich, f"--workdir={whole}", "--mode=eval", "--step=best", "--config.mesh.data=1")
    assert code == 0, err
    result = json.loads(out)
    assert result["step"] == best
    assert result["validation_accuracy"] == validated[best]


SOURCE = (
    "--config.total_steps=2",
    "--config.schedule.warmup=none",
    "--config.mesh.data=1",
    "--config.model.units=1,2",
)


@pytest.fixture(scope="module")
def source(run, tiny, tmp_path_factory):
    """A short run to start others from."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    done = run(*tiny, *SOURCE, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def started(flags, source):
    from resjax.train.initialize import check_source, initialize_from

    one = experiment.open(load([*flags, *SOURCE, f"--config.init_from={source}"]))
    check_source(str(source), one.spec)
    fresh = one.program.init(np.uint32(0))
    return initialize_from(str(source), fresh, one.spec), one.program.init(np.uint32(0)), one.program


@pytest.mark.parametrize("scanned", ["false", "true"])
def test_init_from_takes_the_weights_and_nothing_else(tiny, source, scanned):
    from resjax.models import scan

    state, fresh, one = started((*tiny, f"--config.model.scan={scanned}"), source)
    with closing(Checkpoints(source)) as checkpoints:
        there, _ = checkpoints.restore(program((*tiny, *SOURCE)).abstract, 2)
    for part in ("params", "batch_stats"):
        assert digest.of(getattr(state, part)) == digest.of(getattr(there, part))
        assert digest.of(getattr(state, part)) != digest.of(getattr(fresh, part))
    assert digest.of(state.opt_state) == digest.of(fresh.opt_state)
    assert int(state.step) == 0
    assert ("units" in state.params["stage2"]) == (scanned == "true")
    assert jax.tree.structure(state) == jax.tree.structure(one.abstract)
    assert scan.unroll(state.params).keys() == there.params.keys()


def test_init_from_another_number_of_classes_keeps_the_fresh_head(tiny, tmp_path, capfd):
    one = experiment.open(load([*tiny, *SOURCE]))
    wider = dataclasses.replace(one.spec, num_classes=7)
    seven = build(one.config, wider, one.durations, one.program.normalization).init(np.uint32(1))
    with closing(Checkpoints(tmp_path, 1)) as checkpoints:
        checkpoints.save(seven, {"config": {}})
    state, fresh, _ = started(tiny, tmp_path)
    assert "the head starts fresh" in capfd.readouterr().err
    assert digest.of(state.params["head"]) == digest.of(fresh.params["head"])
    assert digest.of(state.params["stem"]) == digest.of(seven.params["stem"]) != digest.of(fresh.params["stem"])


@pytest.mark.parametrize(
    ("names", "fresh_head"), {(): False, ("cat", "dog"): False, ("cat", "cow"): True, ("dog", "cat"): True}.items()
)
def test_init_from_weights_of_other_classes(tiny, tmp_path, capfd, names, fresh_head):
    from resjax.train.initialize import initialize_from

    one = experiment.open(load([*tiny, *SOURCE]))
    own = dataclasses.replace(one.dataset.preprocessing, class_names=names)
    with closing(Checkpoints(tmp_path, 1)) as checkpoints:
        checkpoints.save(one.program.init(np.uint32(1)), {"config": {}, "preprocessing": own.json()})
    fresh = one.program.init(np.uint32(0))
    mine = dataclasses.replace(own, class_names=("cat", "dog"))
    state = initialize_from(str(tmp_path), fresh, one.spec, mine)
    same = digest.of(state.params["head"]) == digest.of(one.program.init(np.uint32(0)).params["head"])
    assert same == fresh_head
    err = capfd.readouterr().err
    assert ("the head starts fresh" in err) == fresh_head
    assert ("such as cow, not dog" in err) == ("cow" in names)


def test_init_from_in_a_run(call, tiny, source, tmp_path):
    """Bad sources are found before anything is written; a good one is needed at step 0 alone."""
    flags = (*tiny, *SOURCE, f"--workdir={tmp_path}/run")
    for folder, message in {source: "holds another network: ", tmp_path: "holds no checkpoint"}.items():
        code, _, err = call(*flags, f"--config.init_from={folder}", "--config.model.widths=4,12")
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "run").exists()
    shutil.copytree(source, tmp_path / "start")
    flags += (f"--config.init_from={tmp_path}/start",)
    code, _, err = call(*flags)
    assert code == 0, err
    assert "resumed" not in err
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line)["loss"] for line in (source / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] != before[0]  # the first loss is not that of fresh weights
    shutil.rmtree(tmp_path / "start")
    code, _, err = call(*flags)
    assert (code, "is finished" in err) == (0, True), err


@pytest.mark.parametrize("damage", [flip, DAMAGES["deleted meta"]], ids=["digest", "deleted"])
def test_init_from_a_damaged_checkpoint(tiny, source, tmp_path, damage):
    shutil.copytree(source, tmp_path / "source")
    damage(tmp_path / "source" / "checkpoints" / "2")
    before = snapshot(tmp_path / "source")
    with pytest.raises(BadInput, match=r"checkpoint 2 in .* is damaged"):
        started(tiny, tmp_path / "source")
    assert snapshot(tmp_path / "source") == before


def test_a_folder_that_a_kill_left_half_deleted_is_no_obstacle(copy, rich):
    """Old checkpoints are deleted file by file."""
    abstract = program((*rich, "--config.mesh.data=1")).abstract
    (copy / "checkpoints" / "15").mkdir()
    (copy / "checkpoints" / "30" / "state").mkdir(parents=True)
    with closing(Checkpoints(copy)) as reading:
        assert 15 not in reading.steps()
    with closing(Checkpoints(copy, keep=2)) as checkpoints:
        state, _ = checkpoints.restore_latest(abstract)
    assert int(state.step) == 90
    assert not (copy / "checkpoints" / "15").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_a_save_gives_way_to_the_step(tmp_path, monkeypatch):
    """All that goes on while the loop does not wait: the digest, and Orbax's own threads, which inherit it."""
    usual, found = os.getpriority(os.PRIO_PROCESS, 0), {}
    sums, wrap = digest.sums, asyncio.wrap_future

    def spy(name, call):
        def noted(*args, **kwargs):
            found[name] = os.getpriority(os.PRIO_PROCESS, 0)
            return call(*args, **kwargs)

        return noted

    monkeypatch.setattr(digest, "sums", spy("digest", sums))
    monkeypatch.setattr(asyncio, "wrap_future", spy("orbax", wrap))  # where Orbax waits for the digest
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(scalar_state(1), {"config": {}})
        assert os.getpriority(os.PRIO_PROCESS, 0) == usual
    assert found == dict.fromkeys(("digest", "orbax"), min(19, usual + 10))


def test_an_error_of_the_digest_ends_the_save(tmp_path, monkeypatch):
    """And does not leave Orbax waiting for it."""

    def fail(leaves):
        raise OSError(errno.EIO, "a broken disk")

    monkeypatch.setattr(digest, "sums", fail)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(scalar_state(1), {"config": {}})
    with pytest.raises(BadInput, match="could not be saved"):
        checkpoints.close()


def test_only_the_late_ends_of_an_event_loop_are_kept_from_the_terminal(capfd):
    """What TensorStore reports after Orbax has closed its loop; any other such report is printed as before."""

    class Ends:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    before = sys.unraisablehook
    sys.unraisablehook = sys.__unraisablehook__  # pytest has its own
    try:
        orbax.quieten()
        orbax.quieten()  # every workdir that is opened does so
        del_late, del_other = Ends(RuntimeError("Event loop is closed")), Ends(RuntimeError("another"))
        del del_late
        assert capfd.readouterr().err == ""
        del del_other
        assert "RuntimeError: another" in capfd.readouterr().err
    finally:
        sys.unraisablehook = before
