"""Where the data lie and how many steps a call takes: chosen, refused, said; neither changes the results."""

from contextlib import closing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import checks, config, experiment, main
from resjax.cli import load
from resjax.errors import BadInput
from resjax.evaluation.evaluate import evaluate
from resjax.train import placement
from resjax.train.step import TrainState, make_train_step, several

ONE, FSDP = ("mesh.data=1",), ("mesh.data=2", "mesh.fsdp=4")
SEED = np.uint32(0)


@pytest.fixture(scope="module")
def opened(tiny):
    def with_changes(*changes):
        return experiment.open(load([*tiny, "--config.total_steps=20", *(f"--config.{c}" for c in changes)]))

    return with_changes


def trained(run, steps=5):
    """State, losses, and the means of every evaluation after some steps."""
    state, losses, step, stride = run.program.init(SEED), [], 0, run.program.stride
    with closing(run.batches()) as batches:
        while step < steps:
            count = min(stride, steps - step)
            state, metrics = run.program.train_step(state, run.program.take(batches, count), SEED)
            assert metrics["loss"].shape == (stride,)
            losses += metrics["loss"][:count].tolist()
            step += count
    assert int(state.step) == steps
    means = [evaluate(run.program.eval_step, state.params, state.batch_stats, e.batches()) for e in run.evaluations]
    return state, losses, means


@pytest.mark.parametrize("mesh", [pytest.param(ONE, marks=pytest.mark.long), FSDP], ids=" ".join)
@pytest.mark.usefixtures("quick_compilation")
def test_every_placement_gives_the_same_bits(opened, monkeypatch, mesh):
    """On the host, whole on each device, split over the devices by images, which 8 does not divide."""
    augment = ("data.augment=crop_flip", "data.normalize=pixel_mean", "data.erase=0.5", "eval_train=true")
    host = opened(*mesh, *augment, "data.placement=host")
    expected = trained(host)
    assert host.program.data is None
    places = [("whole", 10**9)] + ([("split", 20_000)] if mesh == FSDP else [])
    for name, room in places:
        monkeypatch.setattr(placement, "device_room", lambda mesh, room=room: room)
        run = opened(*mesh, *augment, "data.placement=device")
        assert placement.name(run.program.data) == name
        found = trained(run)
        assert found[1:] == expected[1:]
        jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])
    # In calls of 3 and 2 steps, wherever the last one lay: the same but for the roundings of a loop.
    state, losses, _ = trained(opened(*mesh, *augment, "data.placement=device", "steps_per_call=3"))
    np.testing.assert_allclose(losses, expected[1], rtol=1e-5)
    shardings = jax.tree.map(lambda x: x.sharding, run.program.abstract)
    assert jax.tree.map(lambda x: x.sharding, state) == shardings


@pytest.mark.usefixtures("quick_compilation")
def test_overflow_within_a_call_names_its_step(call, tiny, tmp_path):
    """The rate becomes 1e37 after five steps, so the weights overflow at the sixth, the second of a call of 4."""
    blowing = ("name=piecewise", "warmup=none", "warmup_steps=None", "drop_steps=(5,)", "drop_factor=1e38")
    flags = (*tiny, "--config.mesh.data=1", "--config.total_steps=12", *(f"--config.schedule.{f}" for f in blowing))
    lines = []
    for k in (1, 4):
        code, _, err = call(*flags, f"--config.steps_per_call={k}", f"--workdir={tmp_path}/{k}")
        assert code == 3, err
        lines.append(next(line for line in err.splitlines() if line.startswith("error: ")))
    assert lines[0] == lines[1]
    assert " at step 6: " in lines[0]


@pytest.mark.parametrize("mesh", [ONE, FSDP], ids=" ".join)
@pytest.mark.usefixtures("quick_compilation")
def test_evaluation_in_one_call_counts_every_image_once(opened, monkeypatch, mesh):
    """All batches of a split by their numbers, the last one masked, as an accelerator takes them."""
    run = opened(*mesh, "batch_size=64", "eval_train=true")
    state = run.program.init(SEED)
    single = [list(e.batches()) for e in run.evaluations]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for evaluation, calls, size in zip(run.evaluations, single, (1300, 137, 360), strict=True):
        [part] = evaluation.batches()
        assert (len(calls), part.batch.tolist()) == (-(-size // 64), list(range(-(-size // 64))))
        found = run.program.eval_step(state.params, state.batch_stats, part)
        assert float(found["count"].sum()) == size
        for i, call in enumerate(calls):
            one = run.program.eval_step(state.params, state.batch_stats, call)
            for key, value in one.items():
                np.testing.assert_allclose(found[key][i], value, rtol=1e-6)


def test_the_set_is_an_argument_of_the_step(opened):
    """And no constant in it: 1,300 images of 64 bytes and their labels."""
    run = opened(*ONE)
    with closing(run.batches()) as batches:
        lowered = run.program.train_step.lower(run.program.abstract, run.program.take(batches), SEED)
    assert len(lowered.as_text()) < 400_000  # a constant of that size is written with twice as many digits
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.program.abstract))
    assert lowered.compile().memory_analysis().argument_size_in_bytes > state + 1300 * (64 + 4)


def test_a_set_that_does_not_fit(opened, monkeypatch, capfd):
    monkeypatch.setattr(placement, "device_room", lambda mesh: 1000)
    assert opened(*FSDP).program.data is None
    line = (
        "data.placement=auto: images and labels take 0.12 MB, and of the memory of 8 devices 0.01 MB are for data"
    )
    assert capfd.readouterr().err == f"{line}: they stay on the host\n"
    with pytest.raises(BadInput, match=r"0\.01 MB are for data: use data\.placement=host"):
        opened(*FSDP, "data.placement=device")
    assert opened(*FSDP, "data.placement=host").program.data is None
    assert capfd.readouterr().err == ""


def test_processes_whose_devices_differ(opened):
    """They would run different programs, and wait for each other for ever."""

    class Job:
        def gather(self, tag, value):
            return [value, other]

    run, other = opened(*ONE), "whole"
    main.check_placement(run, Job())
    other = "host"
    with pytest.raises(BadInput, match="fits on the devices of some processes alone: use host"):
        main.check_placement(run, Job())


def test_room_on_a_device(monkeypatch):
    """A share of what a device says, of the smallest; of a CPU's memory each device has its part."""

    class Device:
        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return self.limit and {"bytes_limit": self.limit}

    def room(*limits):
        return placement.device_room(type("Mesh", (), {"local_devices": [Device(limit) for limit in limits]}))

    monkeypatch.setattr(placement.machine, "memory", lambda: 1600)
    assert room(800, 400) == 100
    assert room(None) == 400
    assert room(*[None] * 8) == 50


def test_policies_keep_a_set_on_the_host_and_what_is_on_is_said(opened, tmp_path, capfd):
    synthetic = (
        "data.name=synthetic",
        "data.image_size=8",
        "data.train_split=train[:64]",
        "data.validation_split=",
    )
    run = opened(*ONE, *synthetic, "data.policy=trivial-wide", "data.jitter=0.4")
    assert run.program.data is None
    line = "data.policy=trivial-wide is applied by the host: images stay there\n"
    assert capfd.readouterr().err == line
    main.announce(run, tmp_path)
    assert " normalize=pixel_mean jitter=0.4 policy=trivial-wide\n" in capfd.readouterr().err


def test_what_stays_on_the_host_without_a_word(opened, capfd):
    for change in (("data.workers=1",), ("data.image_size=12",), ("data.augment=resized_crop_flip",)):
        run = opened(*ONE, *change)
        assert run.program.data is None
        assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("total", "evaluating", "saving", "expected"),
    [
        (64_000, 391, 391, 98),  # four calls of 98 for 391 steps
        (64_000, 1000, 1000, 100),
        (64_000, 1000, 391, 45),
        (60, 1000, 1000, 60),
        (7, 3, 7, 3),
        (64_000, 1, 64_000, 1),
        (2**31 - 1, 2**31 - 1, 2**31 - 1, 100),
    ],
)
def test_steps_of_a_call_are_chosen(opened, monkeypatch, total, evaluating, saving, expected):
    durations = config.Durations(total, (), 0, evaluating, saving, 50, 391.0)
    open_ = load(["--config=configs/digits.py"])
    assert placement.stride(open_, durations, True) == 1  # here: convolutions in a loop are slow on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert placement.stride(open_, durations, False) == 1
    assert placement.stride(open_, durations, True) == expected
    open_.steps_per_call = 7
    assert placement.stride(open_, durations, False) == 7


@pytest.mark.parametrize("value", [-1, 1001])
def test_steps_of_a_call_that_cannot_be(value):
    bad = load(["--config=configs/digits.py"])
    bad.steps_per_call = value
    with pytest.raises(BadInput, match=f"steps_per_call={value}: must lie in 1 to 1000"):
        checks.validate(bad, 1)


class Net(nn.Module):
    """A small network in float64, with its statistics, which those of `resjax.models` are not."""

    frozen: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), param_dtype=jnp.float64)(x.astype(jnp.float64))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, dtype=jnp.float64, param_dtype=jnp.float64)(x))
        x = nn.Conv(8, (3, 3), 2, param_dtype=jnp.float64)(x)
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x)).mean((1, 2))
        return nn.Dense(10, param_dtype=jnp.float64)(x)


def test_steps_of_a_call_are_single_steps_in_float64():
    """60 steps by ones, and by calls of 7 and 50, of which the last is not filled.

    Convolutions in a loop are computed by another routine, which adds in another order: 60 steps of 2**-53 each,
    which training may amplify some thousand times, stay below 1e-10. A step too many or a stale batch is 1e-3.
    """
    with jax.enable_x64(True):
        model, tx, rng = Net(), optax.sgd(0.1, momentum=0.9), np.random.default_rng(0)
        variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
        stats = jax.tree.map(lambda x: x.astype(jnp.float64), variables["batch_stats"])
        start = TrainState(jnp.int32(0), variables["params"], stats, tx.init(variables["params"]))
        batches = {"image": rng.normal(size=(60, 16, 8, 8, 1)), "label": rng.integers(0, 10, (60, 16), np.int32)}
        one = make_train_step(model, tx, optax.constant_schedule(0.1))
        step = jax.jit(lambda state, batches, count: several(lambda s, b: one(s, b, SEED), state, batches, count))

        def by(k):
            state, losses = start, []
            for at in range(0, 60, k):
                part, count = jax.tree.map(lambda x: x[np.arange(at, at + k) % 60], batches), min(k, 60 - at)  # noqa: B023
                state, metrics = step(state, part, np.int32(count))
                losses += metrics["loss"][:count].tolist()
            return state, np.array(losses)

        expected = by(1)
        assert expected[1].dtype == expected[0].params["Dense_0"]["kernel"].dtype == np.float64
        assert abs(expected[1] - expected[1][0]).max() > 0.1  # it has trained
        for k in (7, 50):
            found = by(k)
            assert int(found[0].step) == 60
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), found, expected)
