"""ImageNet in one hour: batches of 8192 images, and a rate that grows with them (Goyal et al., arXiv 1706.02677).

    python -m resjax.main --config=configs/imagenet_goyal.py --config.data.dir=D

D as in configs/imagenet.py; your own photos: --config.data.name=folder --config.data.dir=PHOTOS. Networks: those of
configs/imagenet.py, such as `:v1.5-101`. Another batch takes its rate with it: --config.batch_size=256 is the
paper's baseline. Where 8192 images do not fit: --config.optimizer.accumulate=8.

Rate 0.1 for 256 images, so 3.2, after 5 epochs of linear warm-up from 0.1; a tenth at epochs 30, 60 and 80 of 90;
Nesterov's momentum; decay 1e-4, not of BN (nor of the last bias, here). Every unit starts as its shortcut, and BN
normalises the 32 images of a GPU. Images as in fb.resnet.torch: crops of random area and shape, mirrored, each
channel normalised, no colour. Ours: bfloat16 convolutions; weights of the last layer start from N(0, 1/2048), and
N(0, 0.01^2) in the paper.

Published top-1 error of R50, single crop, median of the last 5 epochs, mean of 5 runs: 23.74 ± 0.09 % with 8192,
23.60 ± 0.12 % with 256. Not run here.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.models.published import imagenet


def get_config(network: str = "v1.5-50") -> ConfigDict:
    c = default(imagenet(network))
    c.name = f"imagenet-goyal-{network}"
    c.batch_size = 8192
    c.total_epochs = 90.0

    c.data.name = "imagenet2012"
    c.data.augment = "fb_crop_flip"
    c.data.interpolation = "bicubic"
    c.data.workers = 8

    c.model.bn_group = 32
    c.model.zero_gamma = True
    c.model.dtype = "bfloat16"

    c.optimizer.learning_rate = 0.1
    c.optimizer.reference_batch = 256
    c.optimizer.nesterov = True
    c.optimizer.decay_mask = "kernels"

    c.schedule.drop_epochs = (30.0, 60.0, 80.0)
    c.schedule.warmup = "linear"
    c.schedule.warmup_rate = 0.1
    c.schedule.warmup_epochs = 5.0
    return c
