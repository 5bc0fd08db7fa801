"""Files that are written whole or not at all, and read whatever a crash or a disk has left of them."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

from resjax.errors import BadInput

TEMPORARY = ".tmp"  # what the names of half-written files end with; a kill can leave one


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    replace(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
      BadInput: if it holds something else by now.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}): restore it, or choose another --workdir") from error


def replace(path: Path, text: str) -> None:
    """Puts `text` in the place of a file, whole or not at all, also if the power fails.

    Raises:
      OSError: for example on a full disk; the file is then what it was, and nothing is left beside it.
    """
    # A name of its own: two processes may write the same file.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_temporary(path: Path) -> bool:
    """Whether a file is what a killed `replace` left."""
    return path.name.endswith(TEMPORARY)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a line that is none, as a kill or a disk may leave it, is left out."""
    records = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or no UTF-8
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
