"""Rates and beginnings for every network of the degradation table, judged on the last fifth of the training split.

    python -m resjax.sweep --sweep=configs/sweeps/degradation.py --workdir=runs/degradation-search --jobs=2

A candidate a row, at half the table's length: about a quarter of an hour on two cores.
`resjax.papers.degradation.best` chooses from the summaries.
"""

from resjax.papers import degradation as d
from resjax.sweep import Sweep, Variant


def get_sweep() -> Sweep:
    return Sweep(
        "configs/digits.py",
        {
            d.candidate(network, *choice): Variant(d.searched(*choice), f"configs/digits.py:{network}")
            for network in d.NETWORKS
            for choice in d.CHOICES
        },
    )
