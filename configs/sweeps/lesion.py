"""A plain and a pre-activated residual network of 20 layers on the digits, five seeds each, to remove units from.

    python -m resjax.sweep --sweep=configs/sweeps/lesion.py --workdir=runs/lesion
    python -m resjax.analysis lesion --workdir=runs/lesion

Pre-activated, because x_L = x_l + sum F(x_i) (v2 eq. 4) does not hold where a ReLU follows the addition.
"""

from resjax.sweep import Sweep, Variant


def get_sweep() -> Sweep:
    networks = {"plain-20": "plain-20", "preact-resnet-20": "v2-20"}
    return Sweep(
        "configs/digits.py",
        {n: Variant(config=f"configs/digits.py:{spec}") for n, spec in networks.items()},
        seeds=(0, 1, 2, 3, 4),
    )
