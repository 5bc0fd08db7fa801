"""Fully connected residual networks on the real 8x8 digits.

    python -m resjax.main --config=configs/dense.py:v1-21

Half a minute on two CPU cores. Networks: `v1-21`, `v2-21`, `plain-21` and every depth 4n+1, and `highway-N`; W_s
between the widths 64 and 128 is zero-padding, or learned with `--config.model.shortcut=B`.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.models import published


def get_config(network: str = "v1-21") -> ConfigDict:
    c = default(published.dense(network, features=8, width=128))
    c.name = f"dense-{network}"
    c.batch_size = 128
    c.total_epochs = 60.0
    c.eval_every_epochs = 6.0
    c.log_every_steps = 50

    c.data.name = "digits"

    c.schedule.name = "cosine"
    c.schedule.warmup = "linear"
    c.schedule.warmup_epochs = 2.0
    return c
