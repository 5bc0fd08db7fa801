"""The processes of one job: they agree on small values, and notice at once if one of them is gone.

In JAX a collective waits for ever for a process that is dead. Here each has a connection to process 0, which
`meeting` made: the kernel closes those of a process that ends, however it ends, and the others leave with
`PEER_LOST` and one line. Messages are JSON, a line each.
"""

import json
import os
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from resjax.errors import PEER_LOST

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

    Made by `meeting.meet`. A thread reads the messages; methods may be called from any thread.

    Attributes:
      index, count: this process among all.
    """

    def __init__(self, index: int, count: int, lines: dict[int, "Line"]) -> None:
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
        for line in self._open():
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

    def _open(self) -> list["Line"]:
        """The connections at this moment: the reading thread takes out those that end."""
        with self._changed:
            return list(self._lines.values())

    def _ask(self, message: Message) -> None:
        """Hands a message to process 0, which may be this one."""
        if self.index == 0:
            self._heard(0, message)
        else:
            for line in self._open():  # to process 0, unless that is gone: then the reading thread ends this one
                line.send(message)

    def _give(self, tag: str, value: Any) -> None:
        self._ask({"tag": tag, "value": value, "of": self.index})

    def _tell(self, message: Message) -> None:
        """Process 0: a message to everybody, itself included."""
        for line in self._open():
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
                    for line in self._open():
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
            for line in self._open():
                line.send({"lost": index})
        why = f"process {index} of {self.count} is gone; start all again to go on from the latest checkpoint"
        self._end(PEER_LOST, why)

    def _end(self, code: int, why: str) -> NoReturn:
        """Ends this process from the reading thread: the main one may wait in a collective that would never end."""
        say(self.index, f"error: {why}")
        _exit(code)


def say(index: int, text: str) -> None:
    """One line on stderr; of all processes but 0 with its number. Written in one piece, from any thread."""
    os.write(2, f"{f'process {index}: ' if index else ''}{text}\n".encode())


class Line:
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
