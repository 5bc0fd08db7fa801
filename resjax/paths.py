"""Text that becomes the name of a file or folder, checked before anything is looked up or written."""

import re
import unicodedata
from pathlib import Path

from resjax.errors import BadInput

LONGEST_NAME = 200  # bytes; file systems take 255, and some files are named after others
LONGEST_PATH = 3000  # bytes; Linux takes 4,095, with all that lies below a workdir
# They end a line or command a terminal; a surrogate is what Python makes of bytes that are not UTF-8.
CONTROL = {"Cc": "the control character", "Cs": "the byte", "Zl": "the line end", "Zp": "the line end"}


def check_text(field: str, text: str) -> None:
    """Raises BadInput for a control character, a line end or a byte that is not UTF-8."""
    for character in text:
        if what := CONTROL.get(unicodedata.category(character)):
            raise BadInput(f"{field}={short(text)} holds {what} {character!r}: leave it out")


def check(field: str, text: str) -> None:
    """Raises BadInput for a path that no file system takes, or that would break the lines that name it."""
    check_text(field, text)
    longest = max(len(name.encode()) for name in text.split("/"))
    if longest > LONGEST_NAME or len(text.encode()) > LONGEST_PATH:
        raise BadInput(
            f"{field}={short(text)} is too long: use at most {LONGEST_PATH} bytes, {LONGEST_NAME} between slashes"
        )


def home(field: str, text: str) -> Path:
    """The path with `~` filled in; raises BadInput for a user that is not here."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{field}={short(text)}: there is no such user; write the whole path") from error


def check_name(field: str, text: str) -> None:
    """Raises BadInput unless `text` can be the name of one folder."""
    check(field, text)
    if "/" in text or text.strip(".") == "":
        raise BadInput(f"{field}={text!r} cannot be a folder's name: use letters, digits and ._+=-")


def short(text: str) -> str:
    """The text as Python writes it, its middle left out if it is long."""
    return repr(text) if len(text) <= 80 else f"{text[:50]!r}...{text[-20:]!r}"


def one_line(text: object) -> str:
    """A message as one line of bounded length."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f]+", " ", str(text)).split())
    return line if len(line) <= 2000 else f"{line[:1500]} ... {line[-300:]}"
