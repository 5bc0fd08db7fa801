"""Files that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from resjax.errors import BadInput


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    replace(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
      BadInput: if it holds something else by now.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}): restore it, or choose another --workdir") from error


def left_over(path: Path) -> bool:
    """True for what a killed process leaves in a run's folder and the next one may overwrite."""
    return path.name == "lock" or path.name.endswith(".tmp")


def replace(path: Path, text: str) -> None:
    """Puts `text` in the place of a file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a last line that a kill cut short is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
