"""Exit codes, and the one exception for mistakes that a person can fix."""

import difflib
from collections.abc import Iterable, Mapping

# What every command exits with.
DONE = 0
FAILED = 1  # a sweep: one of its runs failed
BAD_INPUT = 2  # one line on stderr names the field, the value and the fix; nothing was written
NON_FINITE = 3  # the loss became infinite or NaN; the line names the step
PEER_LOST = 69  # EX_UNAVAILABLE of sysexits.h: another process of the job is gone; the same command resumes
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped by a signal with the state saved; the same command resumes
KILLED = 130  # Ctrl-C where there was nothing to save


class BadInput(ValueError):
    """Input that cannot work: one line that names the field, its value and the fix.

    Every command prints it on stderr without a traceback and exits with `BAD_INPUT`.
    """


class NotSaved(BadInput):
    """A checkpoint could not be written. Threads may wait for it in vain, so a command ends without them."""


def unknown(field: str, value: object, choices: Iterable[str]) -> str:
    """One line for a value that is none of `choices`, with the nearest one; a mapping gives their meanings."""
    meanings = choices if isinstance(choices, Mapping) else {}
    choices = list(choices)
    # Where the meanings are listed, a far-fetched guess would only mislead.
    near = difflib.get_close_matches(str(value), choices, 1, 0.6 if meanings else 0.3)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = "; ".join(f"{k} = {v}" for k, v in meanings.items()) or ", ".join(choices)
    return f"{field}={value!r} is unknown{hint} (known: {known})"
