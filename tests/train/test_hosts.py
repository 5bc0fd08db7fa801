"""Two processes of four devices each train as one of eight: the same numbers, steps, checkpoints and ends."""

import contextlib
import json
import random
import re
import resource
import signal
import socket

import jax
import numpy as np
import pytest

from resjax import experiment
from resjax.cli import load
from resjax.data.loader import open_dataset
from resjax.errors import BadInput
from resjax.train import hosts, sharding

# BN groups, weights that lie over both processes, and a rate at which rounding flips no ReLU within ten steps.
FLAGS = (
    "--config=configs/digits.py",
    "--config.model.units=1,1",
    "--config.model.widths=16,32",
    "--config.model.bn_group=16",
    "--config.batch_size=64",
    "--config.optimizer.learning_rate=0.01",
    "--config.schedule.name=constant",
    "--config.schedule.warmup=none",
    "--config.log_every_steps=1",
    "--config.checkpoint_every_steps=5",
    "--config.eval_every_steps=1000",
    "--config.total_steps=60",
)
FSDP = "--config.mesh.fsdp=8"


def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def pair(start):
    return lambda *flags, **options: two(start, *flags, **options)


@contextlib.contextmanager
def two(start, *flags, own=((), ())):
    """Starts both processes of a job; `own` flags are of one of them."""
    join = (f"--coordinator=127.0.0.1:{port()}", "--num_processes=2", "--initialization_timeout=60")
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(start(*flags, "--devices=4", *join, f"--process_id={i}", *own[i])) for i in (0, 1)
        ]


@pytest.fixture(scope="module")
def together(start, tmp_path_factory):
    """The workdir of a whole run of two processes; to be read only."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    with two(start, *FLAGS, FSDP, f"--workdir={workdir}") as processes:
        for i, done in enumerate([process.end() for process in processes]):
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            assert "Traceback" not in done.stderr
            if i == 0:
                assert "8 x cpu (cpu) in 2 processes; mesh data=1 fsdp=8" in done.stderr
            else:
                assert done.stderr == ""
    return workdir


def losses(steps, *changes):
    """The losses of the first steps in this process."""
    run = experiment.open(load([*FLAGS, *changes]))
    state, found, seed = run.program.init(np.uint32(0)), [], np.uint32(0)
    with contextlib.closing(run.batches()) as batches:
        for _ in range(steps):
            state, metrics = run.program.train_step(state, run.program.take(batches), seed)
            found.append(float(metrics["loss"][0]))
    return found


def test_ten_losses_are_those_of_one_process(together, read_records):
    found = [record["loss"] for record in read_records(together, "train")][:10]
    np.testing.assert_allclose(found, losses(10, FSDP), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, losses(10, "--config.mesh.data=1"), rtol=0, atol=1e-5)


def test_logs_are_written_once(together, read_records):
    assert [record["step"] for record in read_records(together, "train")] == list(range(1, 61))
    assert len(list((together / "tensorboard").iterdir())) == 1
    assert (together / "curves.png").is_file()


def test_both_write_the_checkpoint(together):
    """Each process writes what its devices hold."""
    written = {path.name for path in (together / "checkpoints" / "60" / "state").glob("ocdbt.process_*")}
    assert written == {"ocdbt.process_0", "ocdbt.process_1"}


def test_a_checkpoint_of_two_is_restored_by_one(together, call, tmp_path):
    """On one device; the digest says that every bit is there. And an evaluation counts each image once."""
    _, state = experiment.load(together, config=load([*FLAGS, "--config.mesh.data=1"]))
    assert int(state.step) == 60
    code, out, err = call("--mode=eval", f"--workdir={together}")
    assert code == 0, err
    summary = json.loads((together / "summary.json").read_text())
    for key, value in json.loads(out).items():
        if key != "step":
            assert value == pytest.approx(summary[key], abs=1e-6)


def test_a_checkpoint_of_one_is_restored_by_two(pair, call, tmp_path, read_records, together):
    """Also one of a scanned network, which each process converts."""
    flags = (*FLAGS, f"--workdir={tmp_path}/run")
    code, _, err = call(*flags, FSDP, "--config.total_steps=5")
    assert code == 0, err
    with pair(*flags, FSDP, "--config.total_steps=8", "--config.model.scan=true") as processes:
        first, second = (process.end() for process in processes)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "resumed  from step 5\n" in first.stderr
    found, whole = ([r["loss"] for r in read_records(w, "train")][:8] for w in (tmp_path / "run", together))
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)


def test_two_evaluate_what_one_does(pair, together):
    """stdout is the result of process 0 and nothing else."""
    with pair("--mode=eval", f"--workdir={together}") as processes:
        first, second = (process.end() for process in processes)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    found, summary = json.loads(first.stdout), json.loads((together / "summary.json").read_text())
    assert found.pop("step") == 60
    assert found == {key: pytest.approx(summary[key], abs=1e-6) for key in found}


@pytest.mark.long
def test_killed_stopped_and_killed_again(pair, together, tmp_path, read_records):
    """A job that loses a process, is stopped by a signal to one, and loses the other ends as an undisturbed one."""
    flags = (*FLAGS, FSDP, f"--workdir={tmp_path}/run")

    def disturb(index, number, step):
        with pair(*flags) as processes:
            processes[0].wait_for(step)
            processes[index].send(number)
            found = [process.end() for process in processes]
        assert not any("Traceback" in done.stderr or "*** Check failure" in done.stderr for done in found)
        return found

    def others_line(done, lost):
        rank = "process 1: " if lost == 0 else ""
        assert done.returncode == 69
        line = f"{rank}error: process {lost} of 2 is gone; start all again to go on from the latest checkpoint"
        assert [found for found in done.stderr.splitlines() if "error" in found] == [line]

    first, second = disturb(1, signal.SIGKILL, random.randint(7, 12))
    assert second.returncode == -signal.SIGKILL
    others_line(first, 1)

    first, second = disturb(1, signal.SIGTERM, random.randint(20, 30))
    assert (first.returncode, second.returncode) == (75, 75)
    at = max(record["step"] for record in read_records(tmp_path / "run"))
    assert f"stopped at step {at} of 60; saved in {tmp_path}/run\n" in first.stderr
    assert (tmp_path / "run" / "checkpoints" / str(at)).is_dir()
    assert [line for line in second.stderr.splitlines() if line] == [
        "process 1: SIGTERM: saving and stopping after this step (again: leave at once)"
    ]

    first, second = disturb(0, signal.SIGKILL, at + random.randint(3, 9))
    assert first.returncode == -signal.SIGKILL
    assert f"resumed  from step {at}\n" in first.stderr
    others_line(second, 0)

    with pair(*flags) as processes:
        first, second = (process.end() for process in processes)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    found, whole = (json.loads((w / "summary.json").read_text()) for w in (tmp_path / "run", together))
    same = ("state_digest", "train_loss", "test_loss", "test_accuracy", "steps")
    assert {key: found[key] for key in same} == {key: whole[key] for key in same}
    assert read_records(tmp_path / "run") == read_records(together)


@pytest.mark.long
def test_stopped_in_calls_of_several_steps(pair, together, tmp_path, read_records):
    """A signal to one stops both after the same call; then the job goes on, and has the losses of single steps."""
    flags = (
        *FLAGS,
        FSDP,
        f"--workdir={tmp_path}/run",
        "--config.steps_per_call=4",
        "--config.data.placement=device",
    )
    with pair(*flags) as processes:
        processes[0].wait_for(8)
        processes[1].send(signal.SIGTERM)
        first, second = (process.end() for process in processes)
    assert (first.returncode, second.returncode) == (75, 75), first.stderr + second.stderr
    assert "in 10 classes, whole on every device\n" in first.stderr
    at = max(record["step"] for record in read_records(tmp_path / "run"))
    assert f"stopped at step {at} of 60" in first.stderr
    assert at % 5 in (0, 4)  # checkpoints are due every 5 steps
    with pair(*flags) as processes:
        first, second = (process.end() for process in processes)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert f"resumed  from step {at}\n" in first.stderr
    found, whole = (read_records(workdir, "train") for workdir in (tmp_path / "run", together))
    assert [record["step"] for record in found] == list(range(1, 61))
    # Two programs round differently, and a ReLU that rounding flips sets them apart.
    for steps, bound in ((10, 2e-5), (60, 1e-2)):
        losses = [[record["loss"] for record in records[:steps]] for records in (found, whole)]
        np.testing.assert_allclose(*losses, rtol=0, atol=bound)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="sets a limit on another process, as Linux can")
@pytest.mark.parametrize("index", [0, 1])
def test_a_save_that_fails_in_one_ends_both(pair, tmp_path, index):
    """At once, with exit code 2 and the reason; Orbax by itself would let the others wait for ten minutes."""
    with pair(*FLAGS, FSDP, f"--workdir={tmp_path}/run") as processes:
        processes[0].wait_for(6)
        resource.prlimit(processes[index].process.pid, resource.RLIMIT_FSIZE, (8000, 8000))
        found = [process.end() for process in processes]
    assert [done.returncode for done in found] == [2, 2]
    for i, done in enumerate(found):
        [line] = [line for line in done.stderr.splitlines() if "error" in line]
        assert f"error: {'' if i == index else f'process {index} has ended: '}{tmp_path}/run" in line
        assert "File too large" in line
        assert "Traceback" not in done.stderr


def test_processes_that_differ_and_an_error_of_one(pair, tmp_path):
    """Exit code 2, one line each, and nothing is written."""
    flags = (*FLAGS, f"--workdir={tmp_path}/run")
    with pair(*flags, own=((), ("--config.seed=1",))) as processes:
        first, second = (process.end() for process in processes)
    line = (
        "error: process 1 and process 0 differ: config.seed is 1 there, 0 here. Start all with the same command\n"
    )
    assert (first.returncode, first.stderr) == (2, line)
    assert (second.returncode, second.stderr) == (2, line.replace("error: ", "error: process 1: "))

    with pair(*flags, own=((), ("--devices=2",))) as processes:  # of a flag given twice the last one counts
        first, second = (process.end() for process in processes)
    assert (first.returncode, second.returncode) == (2, 2)
    # Both find it; process 0 may first hear it from the other, which then "has ended".
    assert re.search(
        r"error: (process 1 has ended: )?the processes have 4, 2 devices: give each as many\n", first.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip", "resized_crop_flip"])
def test_rows_together_are_the_batch(augment):
    """Disjoint, with the draws of the whole batch, and padding where an evaluation ends."""
    settings = load([*FLAGS, f"--config.data.augment={augment}", "--config.data.normalize=channel"]).data
    data = open_dataset(**settings)
    parts = [np.arange(0, 12), np.arange(12, 24)], [np.array([0, 1, 6, 7]), np.array([2, 3, 4, 5])]
    for rows, size in zip(parts, (24, 8), strict=True):
        readers = [(part, data.train(size, 3, rows=part)) for part in rows] + [(None, data.train(size, 3))]
        for _ in range(3):
            compare([(part, next(reader)) for part, reader in readers], size)
        for _, reader in readers:
            reader.close()
        evaluations = [(part, list(data.evaluate("test", size, part))) for part in (*rows, None)]
        assert len({len(batches) for _, batches in evaluations}) == 1
        for i in range(len(evaluations[0][1])):
            compare([(part, batches[i]) for part, batches in evaluations], size)


def compare(parts, size):
    *pieces, (_, whole) = parts
    for key, expected in whole.items():
        found, filled = np.zeros_like(expected), np.zeros(size, np.int32)
        for rows, batch in pieces:
            found[rows], filled[rows] = batch[key], filled[rows] + 1
        assert (filled == 1).all()
        assert len(expected) == size
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4), (1, 8)])
def test_rows_of_a_process_are_those_of_its_devices(data, fsdp):
    """Here all devices are of one process, so it reads all rows, and in order."""
    mesh = sharding.make_mesh(data, fsdp)
    assert dict(mesh.shape) == {"data": data, "fsdp": fsdp}
    batch = sharding.batch_sharding(mesh)
    np.testing.assert_array_equal(sharding.local_rows(batch, 32), np.arange(32))
    [spec] = {len(shard.data) for shard in jax.device_put(np.arange(32), batch).addressable_shards}
    assert spec == 4


SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def place(environment, monkeypatch, flags=(None, None, None)):
    for name in {*SLURM, *OPEN_MPI, "JAX_LOCAL_DEVICE_IDS", "CUDA_VISIBLE_DEVICES"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return hosts.place(*flags, 1)


def test_a_scheduler_says_where_this_process_is(monkeypatch):
    own = place(SLURM, monkeypatch)
    assert (own.coordinator, own.count, own.index, own.gpus) == ("node3:61444", 4, 3, [1])
    own = place(OPEN_MPI, monkeypatch)
    assert (own.coordinator.partition(":")[0], own.count, own.index, own.gpus) == ("10.96.0.1", 4, 2, [0])
    assert place({}, monkeypatch) is None
    # A job of one task, and what runs in an allocation without srun, is alone.
    assert place(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, monkeypatch) is None
    assert place({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, monkeypatch) is None
    # Flags come first.
    assert place(SLURM, monkeypatch, ("a:1", 2, 1)) == hosts.Place("a:1", 2, 1)
    assert place(SLURM, monkeypatch, (None, 1, None)) is None


@pytest.mark.parametrize(
    ("environment", "option"),
    [
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, "--ntasks-per-node=8"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "-npernode=8"),
    ],
    ids=["SLURM", "Open MPI"],
)
def test_one_task_with_several_gpus(monkeypatch, environment, option):
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    with pytest.raises(BadInput, match=f"one of its 8 GPUs: start one for each, {option}, .*=0,1,2,3,4,5,6,7"):
        place(environment | gpus, monkeypatch)
    everything = gpus | {"JAX_LOCAL_DEVICE_IDS": "0,1,2,3,4,5,6,7"}
    assert place(environment | everything, monkeypatch).gpus is None  # for JAX to read


def test_a_scheduler_that_cannot_be_understood(monkeypatch):
    with pytest.raises(
        BadInput, match=r"one of a job of SLURM, but its place cannot be found .*--num_processes=1 to"
    ):
        place(SLURM | {"SLURM_JOB_ID": "x"}, monkeypatch)


def test_one_worker_of_a_slice(monkeypatch, capfd):
    """JAX waits for the name of process 0 without a word; so we say it, and in the end what is to be done."""
    from jax._src import cloud_tpu_init, clusters

    def detect(*_):
        while "waiting" not in (said := capfd.readouterr().err):
            pass
        assert said == f"waiting for process 0 (1 s at most): {hosts.TPU_HINT}\n"
        raise RuntimeError("10.0.0.2:8482 is not there")

    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(clusters.ClusterEnv, "auto_detect_unset_distributed_params", detect)
    monkeypatch.setattr(hosts, "PATIENCE", 0.1)
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(BadInput, match=r"a TPU slice, but .* \(10\.0\.0\.2:8482 is not there\): .* --worker=all"):
        place({}, monkeypatch)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a:1", None, None), "--coordinator, --num_processes and --process_id go together"),
        ((None, 2, 0), "go together"),
        ((None, None, 0), "go together"),
        (("a", 2, 0), "--coordinator=a: must be HOST:PORT"),
        (("a:70000", 2, 0), "must be HOST:PORT"),
        ((":80", 2, 0), "must be HOST:PORT"),
        (("a:1", 2, 2), "--process_id=2 of --num_processes=2"),
        (("a:1", 2, -1), "--process_id=-1"),
        (("a:1", 0, 0), "--num_processes=0"),
    ],
    ids=str,
)
def test_flags_that_do_not_fit(monkeypatch, flags, message):
    with pytest.raises(BadInput, match=message):
        place({}, monkeypatch, flags)
