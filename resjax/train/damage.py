"""What an error says about a checkpoint: that it is damaged, or only that it cannot be read.

Only known signs count as damage. Any other error says nothing about the files.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# TensorStore raises a ValueError whose text begins with a status; it leaves out INVALID_ARGUMENT.
DAMAGE = re.compile("(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|FAILED_PRECONDITION): ")
OTHER = re.compile(
    "(PERMISSION_DENIED|UNAVAILABLE|RESOURCE_EXHAUSTED|UNKNOWN|ABORTED|DEADLINE_EXCEEDED|INTERNAL): "
)
NO_SUCH_FILE = "2"  # ENOENT; such a text ends with the operating system's error code, if there was one


class Damage(Exception):
    """What is damaged in a checkpoint."""


def read_json(path: Path) -> Any:
    """A JSON file of a checkpoint; raises Damage if it holds something else."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise Damage(f"{path.parent.name}/{path.name} is garbled") from error


def of(error: Exception) -> str | None:
    """What is damaged, if `error` or what led to it is a known sign of damage; None if not."""
    found = None
    for link in _chain(error):
        text = str(link)
        if isinstance(link, MemoryError) or _is_of_the_system(link) or OTHER.match(text):
            return None
        if isinstance(link, Damage):
            found = text
        elif isinstance(link, FileNotFoundError):
            found = found or f"{Path(link.filename).name if link.filename else 'a file'} is missing"
        elif isinstance(link, UnicodeDecodeError | json.JSONDecodeError):
            found = found or "the state is garbled"
        elif isinstance(link, ValueError) and (DAMAGE.match(text) or "Error decoding" in text):
            found = found or f"the state is garbled or cut: {_words(text)}"
    return found


def is_of_the_system(error: Exception) -> bool:
    """Whether `error` or what led to it came from the operating system, such as a full disk."""
    return any(isinstance(link, OSError) or _is_of_the_system(link) for link in _chain(error))


def reason(error: BaseException) -> str:
    """An error in a few words, the operating system's own if it came from there."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.strerror:
            return f"{link.strerror}: {link.filename}" if link.filename else link.strerror
        if _is_of_the_system(link):
            return _words(str(link))
    return f"{type(error).__name__}: {_words(str(error))}"


def _is_of_the_system(error: BaseException) -> bool:
    """Whether an error is the operating system's, other than a missing file."""
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    return any(code != NO_SUCH_FILE for code in re.findall(r"os_error_code='(\d+)'", str(error)))


def _words(text: str) -> str:
    """The last, most specific part of TensorStore's first sentence; pages follow it."""
    sentence = re.split(r" \[\w+=", (text.splitlines() or [""])[0])[0]  # what follows are details, [name='value']
    return sentence.rpartition(": ")[2][:160]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
