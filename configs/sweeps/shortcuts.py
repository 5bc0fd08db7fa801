"""Shortcut options A, B and C (v1 section 4.1) against no shortcut, on the digits.

    python -m resjax.sweep --sweep=configs/sweeps/shortcuts.py --workdir=runs/shortcuts --jobs=2

Three seeds each; tables and a plot in the workdir.
"""

from resjax.sweep import Sweep


def get_sweep() -> Sweep:
    options = ("A", "B", "C", "none")
    return Sweep("configs/digits.py:v1-20", {o: {"model.shortcut": o} for o in options}, seeds=(0, 1, 2))
