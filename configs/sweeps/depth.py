"""Plain against residual networks as they get deeper (v1 Fig. 6), on the digits: a network a row.

    python -m resjax.sweep --sweep=configs/sweeps/depth.py --workdir=runs/depth --jobs=2

Three seeds each; tables and a plot in the workdir.
"""

from resjax.sweep import Sweep, Variant


def get_sweep() -> Sweep:
    networks = [f"{family}-{depth}" for depth in (8, 20, 32) for family in ("plain", "v1")]
    return Sweep(
        "configs/digits.py", {n: Variant(config=f"configs/digits.py:{n}") for n in networks}, seeds=(0, 1, 2)
    )
