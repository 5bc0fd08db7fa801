"""Sweeps: named variants of one recipe, each with several seeds, run side by side into one table.

    python -m resjax.sweep --sweep=configs/sweeps/shortcuts.py --workdir=runs/shortcuts --jobs=2

A sweep file defines `get_sweep()`, which returns a `Sweep`.
"""

from resjax.sweep.definition import Sweep, Variant

__all__ = ["Sweep", "Variant"]
