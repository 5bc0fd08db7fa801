"""CIFAR-10 with the recipe of both ResNet papers (v1 section 4.2, v2 appendix).

    python -m resjax.data.prepare cifar10 --source DIR_OR_TAR --data_dir D
    python -m resjax.main --config=configs/cifar10.py:v1-20 --config.data.dir=D

64k iterations of 128 images; the rate starts at 0.1 and falls to a tenth at 32k and again at 48k; momentum 0.9;
decay 1e-4 of weights, not of BN and biases (README, "Departures from the papers"); pad 4, crop, mirror; per-pixel
mean. BN over groups of 64 images, as on the papers' two GPUs.
Networks: `v1-20` to `v1-1202`, `plain-56`, `v2-110`, `v2-164`, `v2-1001`, `highway-110`. v1's of 110 layers and
more, and v2's, warm up at 0.01 for 400 iterations. v2 does so in all of its CIFAR experiments; v1 in ResNet-110,
until the training error is below 80 %, which took it about 400 iterations. Plain networks do not warm up, plain-110
neither. `highway-110` decays every parameter, as the code that it comes from.

Expected test error, the papers': v1-20 8.75 %, v1-56 6.97 %, v1-110 6.61 %, v2-164 5.46 %, v2-1001 4.92 %.
Ours, at full length: v1-20 8.49 ± 0.08 % (n=3; results/v1-table6.json). A step of v1-20 takes 2.7 ms on an H100 and
a fifth of a second on two CPU cores.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.models.published import cifar


def get_config(network: str = "v1-20") -> ConfigDict:
    c = default(cifar(network))
    c.name = f"cifar10-{network}"
    c.total_steps = 64_000
    c.eval_every_steps = 2_000

    c.data.name = "cifar10"
    c.model.bn_group = 64

    c.optimizer.decay_mask = "all" if network.startswith("highway") else "kernels"

    c.schedule.drop_steps = (32_000, 48_000)
    if network.startswith("v2") or network in ("v1-110", "v1-164", "v1-1001", "v1-1202"):
        c.schedule.warmup = "constant"
        c.schedule.warmup_steps = 400
    # Depths beyond a few hundred compile in a minute as one body per stage.
    c.model.scan = sum(c.model.units) > 60
    return c
