"""How the processes of a job find each other, before JAX joins them.

By itself JAX aborts with a stack trace where a process is missing, comes twice or dies. So process 0 first listens
on the coordinator's port until all have come and say the same of themselves; then it leaves the port to JAX. The
connections stay, as `peers`. Like JAX's own service it trusts whoever reaches the port.
"""

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from resjax.errors import BadInput
from resjax.train.peers import FAREWELL, Line, Peers, say

PATIENCE = 10.0  # seconds before a process says whom it waits for
RETRY = 0.2  # seconds between two tries to reach process 0
GREETING = 10.0  # seconds that a new connection has to say who it is


@dataclasses.dataclass(frozen=True)
class Meeting:
    """What a process knows of its job before it meets the others.

    Attributes:
      address: HOST:PORT of process 0.
      index, count: this process among all.
      about: what has to be equal in all processes, as JSON values by name.
      timeout: seconds to wait for the others.
      hint: what to do about processes that do not come.
    """

    address: str
    index: int
    count: int
    about: Mapping[str, Any]
    timeout: float
    hint: str = ""

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def meet(meeting: Meeting) -> Peers:
    """Waits until all processes of a job have come and found that they are alike.

    Raises:
      BadInput: for processes that do not come, come twice or differ, and a port that cannot be used.
    """
    lines = {0: _call(meeting)} if meeting.index else _listen(meeting)
    return Peers(meeting.index, meeting.count, lines)


def _listen(meeting: Meeting) -> dict[int, Line]:
    """Process 0: a line to every other process."""
    address, count, timeout = meeting.address, meeting.count, meeting.timeout
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", meeting.port), family=family, dualstack_ipv6=dual, backlog=count)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise BadInput(f"{address}: the port cannot be used ({why}): give all processes another one") from error
    lines: dict[int, Line] = {}

    def missing() -> str:
        return _names(set(range(1, count)) - lines.keys(), count)

    def refuse(why: str, *others: Line) -> NoReturn:
        for line in (*lines.values(), *others):
            line.send({"refused": why})
            line.socket.close()
        raise BadInput(why)

    deadline = time.monotonic() + timeout
    reminder = _Reminder(lambda: f"waiting for {missing()} at {address}", timeout)
    with server:
        while len(lines) < count - 1:
            server.settimeout(reminder.pause(deadline))
            try:
                line = Line(server.accept()[0])
            except TimeoutError:
                if time.monotonic() > deadline:
                    do = meeting.hint or "start all of them"
                    refuse(f"{missing()} did not come to {address} within {timeout:g} s: {do}")
                continue
            match line.wait(GREETING):
                case {"process": int(index), "count": int(theirs), "about": dict(other)}:
                    pass
                case _:
                    line.socket.close()  # not one of ours, such as a port scanner
                    continue
            if theirs != count or not 0 < index < count:
                refuse(
                    f"a process came as {index} of {theirs} to a job of {count}: give each the same "
                    "--num_processes and its own --process_id",
                    line,
                )
            if differing := _differences(meeting.about, other):
                refuse(f"process {index} and process 0 differ: {differing}. Start all with the same command", line)
            if index in lines and not lines[index].ended():
                refuse(f"two processes came as {index} of {count}: give each its own --process_id", line)
            if index in lines:  # it was started again in the meantime
                lines[index].socket.close()
            lines[index] = line
    for line in lines.values():
        line.send({"go": True})
    return lines


def _call(meeting: Meeting) -> Line:
    """Any other process: the line to process 0."""
    address, index, count, timeout = meeting.address, meeting.index, meeting.count, meeting.timeout
    reached = False

    def text() -> str:
        return f"process 0 at {address} waits for others" if reached else f"waiting for process 0 at {address}"

    deadline = time.monotonic() + timeout
    reminder = _Reminder(text, timeout, index)
    while time.monotonic() < deadline:
        try:
            line = Line(socket.create_connection((meeting.host, meeting.port), reminder.pause(deadline)))
        except OSError:  # not there yet: not even its name may be known
            time.sleep(RETRY)
            continue
        line.send({"process": index, "count": count, "about": dict(meeting.about)})
        while True:
            # Process 0 says who did not come, so it may speak first.
            match line.wait(reminder.pause(deadline + FAREWELL)):
                case {"go": _}:
                    return line
                case {"refused": str(why)}:
                    line.socket.close()
                    raise BadInput(why)
                case None if not line.ended() and time.monotonic() < deadline + FAREWELL:
                    reached = True
                case _:
                    break
        line.socket.close()
        time.sleep(RETRY)
    raise BadInput(
        f"process 0 of {count} does not answer at {address} within {timeout:g} s: "
        f"{meeting.hint or 'start it there, or let its port through'}"
    )


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """What two processes say differently of themselves, the first few; empty if nothing."""
    names = [name for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)]
    return "; ".join(f"{name} is {there.get(name)!r} there, {here.get(name)!r} here" for name in names[:3])


def relay(address: str) -> str:
    """An address on this machine whose connections lead to `address`, and do not end when process 0 does.

    JAX's client aborts at once, with a stack trace, when its connection to process 0 ends; behind the relay it only
    waits, and `Peers` has the time to end this process in its own way.
    """
    host, _, port = address.rpartition(":")
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)

    def serve() -> None:
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection((host.strip("[]"), int(port)), PATIENCE)
                far.settimeout(None)
            except OSError:
                near.close()  # JAX tries again
                continue
            for ends in ((near, far), (far, near)):
                threading.Thread(target=pump, args=ends, name="relay", daemon=True).start()

    threading.Thread(target=serve, name="relay", daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


class _Reminder:
    """Says once in a while whom a process waits for."""

    def __init__(self, text: Callable[[], str], timeout: float, index: int = 0) -> None:
        self._text, self._timeout, self._index = text, timeout, index
        self._next = time.monotonic() + PATIENCE

    def pause(self, deadline: float) -> float:
        """How long to wait until there may be something to say, in seconds; says it if it is time."""
        now = time.monotonic()
        if now >= self._next:
            say(self._index, f"{self._text()} ({self._timeout:g} s at most)")
            self._next = now + 3 * PATIENCE
        return max(0.01, min(self._next, deadline) - now)


def _names(missing: set[int], count: int) -> str:
    """`process 1 of 4`, `processes 1, 3 of 4`; of many the first few."""
    some = sorted(missing)
    listed = ", ".join(map(str, some[:8])) + (", ..." if len(some) > 8 else "")
    return f"process{'es' if len(some) > 1 else ''} {listed} of {count}"
