"""The one exception for mistakes that a person can fix."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """What the user gave cannot work: one line that names the field, its value and the fix.

    Every command prints it on stderr without a traceback and exits with code 2.
    """


def unknown(field: str, value: object, choices: Iterable[str]) -> str:
    """One line for a value outside its choices, with the nearest one."""
    choices = list(choices)
    near = difflib.get_close_matches(str(value), choices, 1, 0.3)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{field}={value!r} is unknown{hint} (known: {', '.join(choices)})"
