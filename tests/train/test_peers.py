"""The processes of a job, real ones without JAX: they meet, agree, stop at one step, and wait for no dead one."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resjax.errors import BAD_INPUT, PEER_LOST, BadInput
from resjax.train import meeting

ROOT = Path(__file__).resolve().parents[2]
# Every process runs this: it meets the others, says so, and obeys the lines that the test writes to it.
PROGRAM = """
import json, random, sys, time
from resjax.train import meeting

address, index, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
job = meeting.meet(meeting.Meeting(address, index, count, {"seed": 0}, 30.0))
print("met", flush=True)
for line in sys.stdin:
    match json.loads(line):
        case ["gather", tag, value]:
            answer = job.gather(tag, value)
        case ["train", steps, asks]:  # steps of different lengths; asks for the stop before one of them
            step, answer = 0, None
            while answer is None and step < steps:
                step += 1
                time.sleep(random.random() / 200)
                if step == asks:
                    job.request_stop()
                answer = step if job.stops(step) else None
        case ["leave", code, why]:
            job.leave(code, why)
        case ["bye"]:
            job.goodbye()
            break
    print(json.dumps(answer), flush=True)
"""


def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def job():
    """Starts a job of so many processes, and returns them once they have met."""
    started = []

    def start(count):
        address = f"127.0.0.1:{port()}"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, address, str(i), str(count)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in reversed(range(count))  # process 0 comes last
        ][::-1]
        started.extend(processes)
        assert [process.stdout.readline() for process in processes] == ["met\n"] * count
        return processes

    yield start
    for process in started:
        process.kill()
        process.communicate()


def tell(process, *order):
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()


def answers(processes):
    return [json.loads(process.stdout.readline()) for process in processes]


def ends(process):
    """Exit code and stderr."""
    return process.wait(30), process.stderr.read()


def test_values_are_gathered_in_order(job):
    processes = job(3)
    long = "x" * 300_000  # more than one packet
    for tag, values in (("a", [1, [2], {"3": None}]), ("b", [long, "", long]), ("a", [0, 0, 0])):
        for process, value in zip(processes[::-1], values[::-1], strict=True):
            tell(process, "gather", tag, value)
        assert answers(processes) == [values] * 3
    for process in processes:
        tell(process, "bye")
    assert [ends(process) for process in processes] == [(0, "")] * 3


@pytest.mark.parametrize("asking", [[0], [2], [1, 2], [0, 1, 2]], ids=str)
def test_all_stop_at_one_step(job, asking):
    processes = job(3)
    for i, process in enumerate(processes):
        tell(process, "train", 400, 50 + 3 * i if i in asking else 0)
    steps = answers(processes)
    assert len(set(steps)) == 1
    assert 50 <= steps[0] < 400


def test_a_stop_before_the_others_have_begun_counts_at_their_first_steps(job):
    """As one that compiles for minutes: nobody waits for it, and it stops where the others did."""
    processes = job(2)
    tell(processes[1], "train", 400, 1)
    [step] = answers(processes[1:])
    tell(processes[0], "train", 400, 0)
    assert answers(processes[:1]) == [step]


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_the_others_end_when_one_is_killed(job, killed):
    processes = job(3)
    for process in processes:  # all but the killed one wait, as in a collective
        if process is not processes[killed]:
            tell(process, "gather", "never", None)
    processes[killed].send_signal(signal.SIGKILL)
    for i, process in enumerate(processes):
        code, err = ends(process)
        if i != killed:
            rank = f"process {i}: " if i else ""
            line = (
                f"{rank}error: process {killed} of 3 is gone; start all again to go on from the latest checkpoint\n"
            )
            assert (code, err) == (PEER_LOST, line)


@pytest.mark.parametrize("leaving", [0, 1])
def test_who_leaves_takes_the_others_along(job, leaving):
    processes = job(3)
    tell(processes[leaving], "leave", BAD_INPUT, "error: data.dir is empty")
    for i, process in enumerate(processes):
        why = "data.dir is empty" if i == leaving else f"process {leaving} has ended: data.dir is empty"
        assert ends(process) == (BAD_INPUT, f"{f'process {i}: ' if i else ''}error: {why}\n")


def meet(address, index, count=2, about=None, timeout=20.0, hint=""):
    return meeting.meet(meeting.Meeting(address, index, count, about or {}, timeout, hint))


def refusals(*calls):
    """What each of these processes, which run side by side, is refused with."""
    with ThreadPoolExecutor(len(calls)) as pool:
        found = [pool.submit(meet, *arguments) for arguments in calls]
        errors = [future.exception(30) for future in found]
    assert all(isinstance(error, BadInput) for error in errors), errors
    return [str(error) for error in errors]


def test_two_with_one_number():
    address = f"127.0.0.1:{port()}"
    found = refusals((address, 0, 3), (address, 1, 3), (address, 1, 3))
    assert found == ["two processes came as 1 of 3: give each its own --process_id"] * 3


def test_processes_that_differ():
    """The difference is named, on both sides alike."""
    address = f"127.0.0.1:{port()}"
    mine, other = {"jax": "0.10.2", "config.seed": 0, "workdir": "a"}, {"jax": "0.11.0", "config.seed": 0, "x": 1}
    found = refusals((address, 0, 2, mine), (address, 1, 2, other))
    told = "jax is '0.11.0' there, '0.10.2' here; workdir is None there, 'a' here; x is 1 there, None here"
    assert found == [f"process 1 and process 0 differ: {told}. Start all with the same command"] * 2


@pytest.mark.parametrize(("index", "count"), [(1, 3), (5, 6)])
def test_a_process_of_another_job(index, count):
    address = f"127.0.0.1:{port()}"
    [one, other] = refusals((address, 0, 2), (address, index, count))
    assert one == other
    assert f"a process came as {index} of {count} to a job of 2" in one


def test_who_is_missing_is_said_at_once_and_at_the_end(monkeypatch, capfd):
    monkeypatch.setattr(meeting, "PATIENCE", 0.2)
    address = f"127.0.0.1:{port()}"
    found = refusals((address, 0, 4, {}, 1.5, "start every worker"), (address, 2, 4, {}, 1.5))
    assert found == [f"processes 1, 3 of 4 did not come to {address} within 1.5 s: start every worker"] * 2
    lines = capfd.readouterr().err.splitlines()
    assert f"waiting for processes 1, 3 of 4 at {address} (1.5 s at most)" in lines
    assert f"process 2: process 0 at {address} waits for others (1.5 s at most)" in lines


def test_a_coordinator_that_does_not_answer(monkeypatch, capfd):
    monkeypatch.setattr(meeting, "PATIENCE", 0.2)
    address = f"127.0.0.1:{port()}"
    [found] = refusals((address, 1, 2, {}, 1.0))
    assert found == (
        f"process 0 of 2 does not answer at {address} within 1 s: start it there, or let its port through"
    )
    assert f"process 1: waiting for process 0 at {address} (1 s at most)" in capfd.readouterr().err
    [found] = refusals(("no-such-host.invalid:1234", 1, 2, {}, 1.0))
    assert "does not answer at no-such-host.invalid:1234" in found


def test_a_port_in_use():
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        [found] = refusals((f"127.0.0.1:{server.getsockname()[1]}", 0))
    assert "cannot be used (Address already in use): give all processes another one" in found


def test_what_is_not_a_process_of_ours_is_let_go():
    """A port scanner, or a browser, comes to the port while the job gathers."""
    address = f"127.0.0.1:{port()}"
    command = [sys.executable, "-c", PROGRAM, address]
    options = {"cwd": ROOT, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "0", "2"], **options) as first:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"process": "x"}\n', b"\xff\n", b""):
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as stranger:
                        stranger.sendall(data)
                        stranger.shutdown(socket.SHUT_WR)
                        stranger.recv(1)
                    break
                except ConnectionError:
                    assert first.poll() is None
        with subprocess.Popen([*command, "1", "2"], **options) as second:
            assert [first.stdout.readline(), second.stdout.readline()] == ["met\n"] * 2
            for process in (first, second):
                tell(process, "bye")
                process.stdin.close()
                assert process.wait(30) == 0


def test_the_relay_keeps_a_connection_when_the_other_end_dies():
    """JAX's client must not notice before `Peers` has ended the process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = meeting.relay(f"127.0.0.1:{server.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", int(near.rpartition(":")[2]))) as client:
            far, _ = server.accept()
            client.sendall(b"ping")
            assert far.recv(4) == b"ping"
            far.sendall(b"pong")
            assert client.recv(4) == b"pong"
            far.close()
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)


def test_a_signal_is_passed_on_once(monkeypatch):
    from resjax.train.preemption import StopRequest

    class Job:
        asked, index = 0, 0

        def request_stop(self):
            self.asked += 1

        def stops(self, step):
            return self.asked and step >= 5

    job = Job()
    with StopRequest("", job) as stop:
        assert not stop.at(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.at(2)
        assert not stop.at(3)
        assert stop.at(5)
    assert job.asked == 1
