"""Real handwritten digits, 8x8, embedded: nothing to download.

    python -m resjax.main --config=configs/digits.py

Expected: 98.9 % test accuracy (mean of ten seeds, 97.8 to 99.4), 10 to 20 s on two CPU cores.
Any CIFAR network of `resjax.models.published` runs on them: `configs/digits.py:plain-56`, `:v2-20`.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.models.published import cifar


def get_config(network: str = "v1-20") -> ConfigDict:
    c = default(cifar(network))
    c.name = f"digits-{network}"
    c.batch_size = 128
    c.total_epochs = 50.0
    c.eval_every_epochs = 5.0
    c.log_every_steps = 20

    c.data.name = "digits"

    # Decay of every parameter. Chosen on the last fifth of the training split, three seeds each; never on the test
    # split.
    c.optimizer.weight_decay = 2e-3
    c.optimizer.label_smoothing = 0.1

    c.schedule.name = "cosine"
    c.schedule.warmup = "linear"
    c.schedule.warmup_epochs = 2.0
    # Depths beyond a few hundred compile in a minute as one body per stage.
    c.model.scan = sum(c.model.units) > 60
    return c
