"""Files written whole or not at all, and read in whatever state a crash or a disk left them."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

from resjax.errors import BadInput

TEMPORARY = ".tmp"  # ending of half-written files, which a killed process can leave


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
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}): restore it, or choose another --workdir") from error


def replace(path: Path, text: str) -> None:
    """Replaces a file's content with `text`, whole or not at all, even if the power fails.

    Raises:
      OSError: for example on a full disk; the file is then unchanged, and nothing is left beside it.
    """
    # A unique name, because two processes may write the same file.
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
    """Whether a file was left by a killed `replace`."""
    return path.name.endswith(TEMPORARY)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, none if there is no file; skips lines that a kill or a disk has damaged."""
    records = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, or not UTF-8
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
