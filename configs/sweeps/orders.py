"""The five orders of convolution, BN and ReLU (v2 Fig. 4) in 56 layers, on the digits, early in training.

    python -m resjax.sweep --sweep=configs/sweeps/orders.py --workdir=runs/orders --together=3
    python -m resjax.analysis curves --workdir=runs/orders

Three seeds each; tables and a plot in the workdir. Ten epochs, not fifty: how does each begin?
"""

from resjax.models.spec import ORDERS
from resjax.sweep import Sweep


def get_sweep() -> Sweep:
    length = {"total_epochs": 10.0, "eval_every_epochs": 1.0}
    orders = {order: {**length, "model.order": order} for order in ORDERS}
    return Sweep("configs/digits.py:v1-56", orders, seeds=(0, 1, 2))
