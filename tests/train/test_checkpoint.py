"""Checkpoints: which stay, what damage does, and restoring onto other devices, forms and networks."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from resjax.cli import load
from resjax.config import durations, network
from resjax.errors import BadInput
from resjax.train import digest
from resjax.train.checkpoint import Checkpoints
from resjax.train.program import build
from resjax.train.step import TrainState


def program(flags):
    config = load(list(flags))
    return build(config, network(config), durations(config, 1300))


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


def redigest(step):
    meta = json.loads((step / "meta" / "metadata").read_text())
    meta["weights_digest"] = meta["digest"]
    (step / "meta" / "metadata").write_text(json.dumps(meta))


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


def test_digest_sees_every_leaf(trained):
    expected = digest.of(trained)
    leaves, tree = jax.tree.flatten(trained)
    for i, leaf in enumerate(leaves):
        changed = np.array(leaf)
        changed.reshape(-1).view(np.uint8)[-1] ^= 1
        assert digest.of(jax.tree.unflatten(tree, [*leaves[:i], changed, *leaves[i + 1 :]])) != expected
    names = {**trained.params, "other": trained.params["head"]}
    del names["head"]
    assert digest.of(trained.replace(params=names)) != expected


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


def test_latest_and_best_stay(tmp_path):
    scores = {1: 0.3, 2: 0.9, 3: None, 4: 0.9, 5: 0.5, 6: None, 7: 0.1}
    with closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(scalar_state(step), {"config": {}}, score)
        assert checkpoints.best_step() == 4  # of equals the later one
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.steps() == [7, 6, 4]
        assert [checkpoints.find(which) for which in ("latest", "best", "6")] == [7, 4, 6]
        for which in ("5", "nonsense", "-1", ""):
            with pytest.raises(BadInput, match=r"no such checkpoint.*\[7, 6, 4\]"):
                checkpoints.find(which)


def test_without_validation_the_latest_stay(tmp_path):
    with closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(scalar_state(step), {"config": {}})
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.steps() == [5, 4]
        with pytest.raises(BadInput, match="--step=best"):
            checkpoints.find("best")


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
    from resjax.train.checkpoint import check_source, initialize_from

    config = load([*flags, *SOURCE, f"--config.init_from={source}"])
    check_source(source, network(config))
    one = build(config, network(config), durations(config, 1300))
    fresh = one.init()
    return initialize_from(source, fresh), one.init(), one


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


def test_init_from_another_number_of_classes_keeps_the_fresh_head(tiny, source, capfd):
    state, fresh, _ = started((*tiny, "--config.model.num_classes=7"), source)
    assert "the head starts fresh" in capfd.readouterr().err
    assert digest.of(state.params["head"]) == digest.of(fresh.params["head"])
    assert digest.of(state.params["stem"]) != digest.of(fresh.params["stem"])


def test_init_from_in_a_run(call, tiny, source, tmp_path):
    """Bad sources are found before anything is written; a good one is trained on from step 0."""
    flags = (*tiny, *SOURCE, f"--workdir={tmp_path}/run")
    for folder, message in {source: "holds another network: ", tmp_path: "holds no checkpoint"}.items():
        code, _, err = call(*flags, f"--config.init_from={folder}", "--config.model.widths=4,12")
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "run").exists()
    code, _, err = call(*flags, f"--config.init_from={source}")
    assert code == 0, err
    assert "resumed" not in err
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line)["loss"] for line in (source / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] != before[0]  # the first loss is not that of fresh weights


@pytest.mark.parametrize("damage", [redigest, DAMAGES["deleted meta"]], ids=["digest", "deleted"])
def test_init_from_a_damaged_checkpoint(tiny, source, tmp_path, damage):
    shutil.copytree(source, tmp_path / "source")
    damage(tmp_path / "source" / "checkpoints" / "2")
    before = snapshot(tmp_path / "source")
    with pytest.raises(BadInput, match=r"checkpoint 2 in .* is damaged"):
        started(tiny, tmp_path / "source")
    assert snapshot(tmp_path / "source") == before
