"""Files written whole or not at all, and read in whatever state a crash or a disk left them."""

import json
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from resjax.errors import BadInput

LEFT = re.compile(r".+\.[0-9a-f]{8}\.tmp|(config|summary)\.json\.tmp")  # half-written files of killed processes


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    replace(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote.

    Raises:
      BadInput: if the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is damaged ({error}): restore it, or choose another --workdir") from error


def new(field: str, text: str) -> Path:
    """The file that results will go to; raises BadInput, naming the field, if it is there already or cannot be."""
    path = Path(text)
    if path.exists():
        raise BadInput(f"{field}={text} is there already: remove it, or give another file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{field}={text}: there is no such folder; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"{field}={text}: no permission to write there; give another file")
    return path


def replace(path: Path, content: str | bytes) -> None:
    """Replaces a file's content, whole or not at all, even if the power fails.

    Raises:
      OSError: for example on a full disk; the file is then unchanged, and nothing is left beside it.
    """
    # A unique name, because two processes may write the same file.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where its file system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def is_temporary(path: Path) -> bool:
    """Whether a file was left by a killed `replace`, of this or an older version."""
    return LEFT.fullmatch(path.name) is not None


def remove_temporary(folder: Path) -> None:
    """Removes what killed processes left in a folder in which no other process is writing."""
    for path in filter(is_temporary, folder.iterdir()):
        path.unlink(missing_ok=True)


def lines(path: Path) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Every line of a JSON-lines file as it is, and the object in it; none if there is no file.

    None stands for a blank line, and for one that is damaged: it holds no object. What a kill left of a last line
    is left out.
    """
    found = [(line, _object(line)) for line in path.read_bytes().split(b"\n")] if path.exists() else []
    if found and found[-1][1] is None:  # what comes after the last line's end
        found.pop()
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, none if there is no file; stderr says how many lines are damaged."""
    found = lines(path)
    say_damaged(path, found)
    return [record for _, record in found if record is not None]


def say_damaged(path: Path, found: Iterable[tuple[bytes, dict[str, Any] | None]]) -> None:
    """Says on stderr how many lines of a file are damaged, if any are."""
    if bad := sum(record is None and bool(line.strip()) for line, record in found):
        print(f"{path}: {bad} damaged {'line is' if bad == 1 else 'lines are'} skipped", file=sys.stderr)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text.strip(b"\0"))  # with which some file systems fill what a crash left open
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an operating system's error in writing below `path`, such as a full disk, into one line."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{path} could not be written ({error.strerror or error}); the checkpoints are sound: mend that, then "
            "run the same command again"
        ) from error
