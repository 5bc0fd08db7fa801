"""The degradation problem in minutes, on real digits: deeper plain networks train worse, residual ones do not.

    python -m resjax.papers degradation

v1 Fig. 1 and Fig. 6 show it on CIFAR-10. Expected, of the training error late in training: plain-56 far above
plain-20, and ResNet-56 far below plain-56.
"""

from typing import Any

from resjax.papers import pictures
from resjax.papers.table import Picture, Row, Table

# What differs from configs/digits.py, for all four networks.
RECIPE: dict[str, Any] = {"total_epochs": 30.0}

NETWORKS = {"plain-20": "plain-20", "plain-56": "plain-56", "ResNet-20": "v1-20", "ResNet-56": "v1-56"}

TABLE = Table(
    "degradation",
    "plain and residual networks of 20 and 56 layers on the embedded digits, in minutes",
    "v1 Fig. 1 and 6 show this on CIFAR-10; here there is no number to compare",
    tuple(Row(label.lower(), label, network, fields=RECIPE) for label, network in NETWORKS.items()),
    data=("digits",),
    training=True,
    pictures=(Picture("degradation.png", pictures.training_errors), Picture("curves.png", pictures.curves)),
    jobs=2,
)
