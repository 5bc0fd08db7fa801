"""The processes of one job: they meet, agree on small values, and notice at once if one of them is gone.

By itself JAX aborts with a stack trace where a process is missing, comes twice or dies, and a collective waits for
ever for one that is dead. So process 0 first listens on the coordinator's port until all have come and say the same
of themselves; then it leaves the port to JAX. The connections stay: the kernel closes those of a process that ends,
however it ends, and the others leave with `PEER_LOST` and one line. Messages are JSON, a line each. Like JAX's own
service it trusts whoever reaches the port.
"""

import dataclasses
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from resjax.errors import PEER_LOST, BadInput

PATIENCE = 10.0  # seconds before a process says whom it waits for
RETRY = 0.2  # seconds between two tries to reach process 0
GREETING = 10.0  # seconds that a new connection has to say who it is
FAREWELL = 5.0  # seconds that a process which leaves early waits for the others to do the same
REACHED = "reached"  # the tag under which all tell the last step at which they asked whether to stop
LONGEST = 2**26  # bytes of one message; longer ones are not from here
# A machine that is switched off sends nothing: the kernel asks after 10 s of silence, and gives up 20 s later.
ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

Message = dict[str, Any]


class Alone:
    """What `Peers` is to a process that is the only one of its job."""

    index, count = 0, 1

    def __init__(self) -> None:
        self._stop = False

    def gather(self, tag: str, value: Any) -> list[Any]:
        """Everybody's value."""
        return [value]

    def leave(self, code: int, why: str) -> NoReturn:
        """Says why, and ends the process with this exit code."""
        say(self.index, why)
        _exit(code)

    def request_stop(self) -> None:
        """Stops at the next step."""
        self._stop = True

    def stops(self, step: int) -> bool:
        """Whether to stop here."""
        return self._stop


class Peers:
    """The connections of one process: those of process 0 lead to all others, theirs to process 0 alone.

    Made by `meet`. A thread reads the messages; methods may be called from any thread.

    Attributes:
      index, count: this process among all.
    """

    def __init__(self, index: int, count: int, lines: dict[int, "_Line"]) -> None:
        self.index, self.count = index, count
        self._lines = lines
        self._changed = threading.Condition()
        self._parts: dict[str, dict[int, Any]] = {}  # process 0: what has come for a tag
        self._whole: dict[str, list[Any]] = {}
        self._step = -1  # the last step at which `stops` was asked
        self._frozen = False  # while all tell the step that they have reached
        self._until: int | None = None  # the run stops at the first step after this one
        self._gone: set[int] = set()  # processes that said goodbye
        self._leaving = False
        threading.Thread(target=self._read, name="peers", daemon=True).start()

    def gather(self, tag: str, value: Any) -> list[Any]:
        """Everybody's JSON value, by process; waits for the slowest. One thread at a time uses a tag."""
        self._give(tag, value)
        with self._changed:
            self._changed.wait_for(lambda: tag in self._whole)
            return self._whole.pop(tag)

    def request_stop(self) -> None:
        """Asks all processes to stop at one step: the first for which `stops` can still be asked everywhere."""
        self._ask({"stop": True})

    def stops(self, step: int) -> bool:
        """Whether all stop here. Everybody asks at the same steps, in ascending order."""
        with self._changed:
            # For a moment only: the answers come from the reading threads, whatever the others are doing.
            self._changed.wait_for(lambda: not self._frozen)
            self._step = step
            return self._until is not None and step > self._until

    def goodbye(self) -> None:
        """This process is done; the others go on without it."""
        with self._changed:
            self._leaving = True
        for line in self._lines.values():
            line.send({"bye": True})

    def leave(self, code: int, why: str) -> NoReturn:
        """Says why, and ends all processes with this exit code."""
        say(self.index, why)
        with self._changed:
            self._leaving = True
        self._ask({"leave": code, "why": why.removeprefix("error: "), "of": self.index})
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, FAREWELL)
        _exit(code)

    def wait_for_loss(self) -> None:
        """After an error that a lost process may have caused: if so, the reading thread ends this one meanwhile."""
        time.sleep(FAREWELL)

    def _ask(self, message: Message) -> None:
        """Hands a message to process 0, which may be this one."""
        if self.index == 0:
            self._heard(0, message)
        else:
            self._lines[0].send(message)

    def _give(self, tag: str, value: Any) -> None:
        self._ask({"tag": tag, "value": value, "of": self.index})

    def _tell(self, message: Message) -> None:
        """Process 0: a message to everybody, itself included."""
        for line in list(self._lines.values()):
            line.send(message)
        self._heard(0, message)

    def _read(self) -> None:
        """The thread: one message after the other, until this process leaves or another is lost."""
        while lines := list(self._lines.items()):
            ready = _ready([line.socket for _, line in lines])
            for other, line in lines:
                if line.socket in ready:
                    messages, ended = line.receive()
                    for message in messages:
                        self._heard(other, message)
                    if ended:
                        self._ended(other)

    def _heard(self, other: int, message: Message) -> None:
        match message:
            case {"tag": tag, "value": value, "of": int(index)}:  # to process 0
                with self._changed:
                    parts = self._parts.setdefault(tag, {})
                    parts[index] = value
                    complete = len(parts) == self.count
                    if complete:
                        del self._parts[tag]
                if complete:
                    self._tell({"tag": tag, "values": [parts[i] for i in range(self.count)]})
            case {"tag": tag, "values": values}:
                with self._changed:
                    if tag == REACHED:
                        self._until, self._frozen = max(values), False
                    else:
                        self._whole[tag] = values
                    self._changed.notify_all()
            case {"stop": _}:  # to process 0; of several requests the first counts
                with self._changed:
                    first = self._until is None and not self._frozen
                if first:
                    self._tell({"freeze": True})
            case {"freeze": _}:
                with self._changed:
                    self._frozen = True
                    step = self._step
                self._give(REACHED, step)
            case {"bye": _}:
                self._gone.add(other)
            case {"leave": int(code), "why": why, "of": int(index)}:
                if self.index == 0:
                    for line in self._lines.values():
                        line.send(message)
                if index != self.index:
                    self._end(code, f"process {index} has ended: {why}")
            case {"lost": int(index)}:
                self._lost(index)

    def _ended(self, other: int) -> None:
        """A connection has ended."""
        with self._changed:
            self._lines.pop(other).socket.close()
            self._changed.notify_all()
        # Without process 0 nobody is reached any more, so its goodbye is the end of the job.
        if other not in self._gone and not self._leaving:
            self._lost(other)

    def _lost(self, index: int) -> NoReturn:
        if self.index == 0:
            for line in self._lines.values():
                line.send({"lost": index})
        why = f"process {index} of {self.count} is gone; start all again to go on from the latest checkpoint"
        self._end(PEER_LOST, why)

    def _end(self, code: int, why: str) -> NoReturn:
        """Ends this process from the reading thread: the main one may wait in a collective that would never end."""
        say(self.index, f"error: {why}")
        _exit(code)


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


def say(index: int, text: str) -> None:
    """One line on stderr; of all processes but 0 with its number. Written in one piece, from any thread."""
    os.write(2, f"{f'process {index}: ' if index else ''}{text}\n".encode())


def _listen(meeting: Meeting) -> dict[int, "_Line"]:
    """Process 0: a line to every other process."""
    address, count, timeout = meeting.address, meeting.count, meeting.timeout
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", meeting.port), family=family, dualstack_ipv6=dual, backlog=count)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise BadInput(f"{address}: the port cannot be used ({why}): give all processes another one") from error
    lines: dict[int, _Line] = {}

    def missing() -> str:
        return _names(set(range(1, count)) - lines.keys(), count)

    def refuse(why: str, *others: _Line) -> NoReturn:
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
                line = _Line(server.accept()[0])
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


def _call(meeting: Meeting) -> "_Line":
    """Any other process: the line to process 0."""
    address, index, count, timeout = meeting.address, meeting.index, meeting.count, meeting.timeout
    reached = False

    def text() -> str:
        return f"process 0 at {address} waits for others" if reached else f"waiting for process 0 at {address}"

    deadline = time.monotonic() + timeout
    reminder = _Reminder(text, timeout, index)
    while time.monotonic() < deadline:
        try:
            line = _Line(socket.create_connection((meeting.host, meeting.port), reminder.pause(deadline)))
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


class _Line:
    """A connection that carries messages."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._sending, self._rest = threading.Lock(), b""
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, message: Message) -> None:
        """Sends a message; to a process that is gone, nothing: reading tells."""
        with self._sending, suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> tuple[list[Message], bool]:
        """The messages that have come, at least a part of one, and whether the connection has ended."""
        try:
            data = self.socket.recv(2**16)
        except OSError:
            data = b""
        *whole, self._rest = (self._rest + data).split(b"\n")
        try:
            return [json.loads(line) for line in whole], not data or len(self._rest) > LONGEST
        except ValueError:  # also what is not UTF-8
            return [], True

    def wait(self, seconds: float) -> Message | None:
        """The next message, if it comes within some seconds; for before the reading thread starts."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and _ready([self.socket], left):
            messages, ended = self.receive()
            if messages:
                return messages[0]
            if ended:
                break
        return None

    def ended(self) -> bool:
        """Whether the other side has closed the connection."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def _exit(code: int) -> NoReturn:
    """Ends the process here and now: at an orderly exit JAX would wait minutes for processes that are gone."""
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(code)


def _ready(connections: list[socket.socket], seconds: float | None = None) -> list[socket.socket]:
    """Those that have something to read, once there are any; `select.select` takes no file above 1023."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    found = {file for file, _ in poll.poll(None if seconds is None else 1000 * seconds)}
    return [connection for connection in connections if connection.fileno() in found]


def _names(missing: set[int], count: int) -> str:
    """`process 1 of 4`, `processes 1, 3 of 4`; of many the first few."""
    some = sorted(missing)
    listed = ", ".join(map(str, some[:8])) + (", ..." if len(some) > 8 else "")
    return f"process{'es' if len(some) > 1 else ''} {listed} of {count}"
