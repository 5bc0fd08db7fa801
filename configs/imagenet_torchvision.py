"""torchvision's recipes of its weights IMAGENET1K_V1 and V2 (references/classification; V2: pytorch/vision#3995).

    python -m resjax.main --config=configs/imagenet_torchvision.py:v2 --config.data.dir=D

D as in configs/imagenet.py; your own photos: --config.data.name=folder --config.data.dir=PHOTOS. `:v1`, `:v2`, or
with another network than v1.5-50 (torchvision's ResNets stride on the 3x3): `:v2,v1.5-101`.

v1: 8 x 32 images, rate 0.1, a tenth every 30 of 90 epochs, decay 1e-4 of all. v2: 8 x 128 images, 600 epochs, rate
0.5 by a cosine to 0 after 5 epochs from 0.005, decay 2e-5 but of BN, label smoothing, TrivialAugment, erasing,
mixup or CutMix, four views of each image in succession, a moving average of the weights (`test_ema`), trained at
176 and tested at 224 of 232 pixels. Not as there: the rate moves each step, not each epoch; the last bias does not
decay in v2; the last layer starts from N(0, 1/2048). Ours: bfloat16 convolutions.

Published top-1, single crop: v1 R18 69.76, R50 76.13, R101 77.37, R152 78.31 %; v2 R50 80.86 %. Not run here.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.errors import BadInput, unknown
from resjax.models.published import imagenet


def get_config(spec: str = "v2") -> ConfigDict:
    recipe, _, network = spec.partition(",")
    if recipe not in ("v1", "v2"):
        raise BadInput(unknown("recipe", recipe, ("v1", "v2")))
    c = default(imagenet(network or "v1.5-50"))
    c.name = f"imagenet-torchvision-{spec.replace(',', '-')}"
    c.data.name, c.data.augment, c.data.workers = "imagenet2012", "resized_crop_flip", 8
    c.model.dtype = "bfloat16"
    if recipe == "v1":
        c.batch_size, c.total_epochs, c.model.bn_group = 256, 90.0, 32
        c.schedule.drop_epochs = (30.0, 60.0)
        return c

    c.batch_size, c.total_epochs, c.model.bn_group = 1024, 600.0, 128
    c.data.train_image_size, c.data.image_size, c.data.crop_share = 176, 224, 224 / 232
    c.data.policy, c.data.erase, c.data.repeats = "trivial-wide", 0.1, 4
    c.optimizer.learning_rate = 0.5
    c.optimizer.weight_decay, c.optimizer.decay_mask = 2e-5, "kernels"
    c.optimizer.label_smoothing = 0.1
    c.mix.mixup, c.mix.cutmix, c.mix.definition, c.mix.group = 0.2, 1.0, "torchvision", 128
    # --model-ema-decay=0.99998, which the script makes independent of batch, steps and epochs.
    c.ema.every_steps = 32
    c.ema.decay = 1 - (1 - 0.99998) * c.batch_size * c.ema.every_steps / c.total_epochs
    c.schedule.name, c.schedule.warmup = "cosine", "linear"
    c.schedule.warmup_rate, c.schedule.warmup_epochs = 0.005, 5.0
    return c
