"""The one exception for mistakes that a person can fix."""


class BadInput(ValueError):
    """What the user gave cannot work: one line that names the field, its value and the fix.

    Every command prints it on stderr without a traceback and exits with code 2.
    """
