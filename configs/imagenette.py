"""Imagenette, ten classes of ImageNet, for the sizes and epochs of its leaderboard (github.com/fastai/imagenette).

    python -m resjax.main --config=configs/imagenette.py:128,20 --config.data.dir=imagenette2-160

A folder from one of its archives, with train and val; Imagewoof's, and any photos as in configs/photos.py, do too.
`:SIZE,EPOCHS` with 128, 192 or 256 pixels and 5, 20, 80 or 200 epochs, as the leaderboard has them, and another
network than v1.5-50-d behind them: `:128,5,v1.5-50`. imagenette2-160 is for 128 pixels, -320 for the others.

The recipe is our own, for 9,469 photos: 64 a step, Inception crops, mirrored, label smoothing, and mixup for 80
epochs and more, as the leaderboard's own runs have it. Not run here.

The leaderboard's top-1, by size and epochs, with xse_resnext50 and similar networks, Ranger and, for 5 and 20,
MaxBlurPool (the best of all entries; runs differ by 1 %; no plain ResNet-50 is among them):

          5      20     80     200
    128   87.43  91.57  93.55  94.24
    192   86.76  92.50  94.50  95.03
    256   86.85  93.53  94.90  95.11
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.errors import BadInput
from resjax.models.published import imagenet

SIZES, EPOCHS = ("128", "192", "256"), ("5", "20", "80", "200")


def get_config(spec: str = "128,20") -> ConfigDict:
    size, _, rest = spec.partition(",")
    epochs, _, network = rest.partition(",")
    if size not in SIZES or epochs not in EPOCHS:
        raise BadInput(
            f"configs/imagenette.py:{spec}: give SIZE,EPOCHS, such as 128,20: one of {', '.join(SIZES)}, and one "
            f"of {', '.join(EPOCHS)}; other ones by --config.data.image_size and --config.total_epochs"
        )
    c = default(imagenet(network or "v1.5-50-d"))
    c.name = f"imagenette-{spec.replace(',', '-')}"
    c.batch_size, c.total_epochs = 64, float(epochs)

    c.data.name, c.data.image_size = "folder", int(size)
    c.data.augment = "resized_crop_flip"

    c.model.zero_gamma, c.model.dtype = True, "bfloat16"

    c.optimizer.learning_rate, c.optimizer.nesterov = 0.1, True
    c.optimizer.weight_decay, c.optimizer.decay_mask = 5e-4, "kernels"
    c.optimizer.label_smoothing = 0.1
    c.mix.mixup = 0.2 if int(epochs) >= 80 else 0.0

    c.schedule.name, c.schedule.warmup = "cosine", "linear"
    c.schedule.warmup_epochs = float(epochs) / 20
    return c
