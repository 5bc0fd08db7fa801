"""One run at a time in a workdir.

The lock is a POSIX record lock on `WORKDIR/lock`: the kernel releases it when the process ends, however it ends; it
holds across machines that share a network file system; forked workers do not inherit it. The file stays, because
one that is deleted and made again could be locked twice. It tells a second process who holds the lock.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from resjax.errors import BadInput

NAME = "lock"
TAKEN = (errno.EACCES, errno.EAGAIN)
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # a file system that has none


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Holds the lock of the existing folder `workdir`; stderr says so if its file system has no locks.

    Raises:
      BadInput: if another process holds it (the message names it), or the file cannot be written.
    """
    path = workdir / NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise BadInput(f"workdir={workdir} is not writable: {error}; choose another --workdir") from error
    try:
        _lock(file, workdir)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        _write(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}))
        yield
        _write(file, "")
    finally:
        os.close(file)  # releases the lock


def _lock(file: int, workdir: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            holder = _holder(os.pread(file, 4096, 0))
            raise BadInput(
                f"workdir={workdir} is in use by {holder}: wait for it, stop it, or choose another --workdir"
            ) from error
        if error.errno not in WITHOUT_LOCKS:
            raise BadInput(f"workdir={workdir} cannot be locked: {error}; choose another --workdir") from error
        print(f"{workdir}: no file locks here; make sure that only one run uses it at a time", file=sys.stderr)


def _write(file: int, text: str) -> None:
    """Replaces the file's content with `text`. It is for people, so a full disk stops nothing."""
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
