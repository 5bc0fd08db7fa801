"""The five orders of convolution, BN and ReLU (v2 Fig. 4), on the digits.

    python -m resjax.sweep --sweep=configs/sweeps/orders.py --workdir=runs/orders --jobs=2

Three seeds each; tables and a plot in the workdir.
"""

from resjax.models.spec import ORDERS
from resjax.sweep import Sweep


def get_sweep() -> Sweep:
    return Sweep("configs/digits.py:v1-20", {order: {"model.order": order} for order in ORDERS}, seeds=(0, 1, 2))
