"""Photos of your own, in a folder for each class:

    PHOTOS/train/cat/*.jpg      PHOTOS/val/cat/*.jpg
    PHOTOS/train/dog/*.jpg      PHOTOS/val/dog/*.jpg

    python -m resjax.main --config=configs/photos.py --config.data.dir=PHOTOS --workdir=runs/mine

Without train and val, PHOTOS/cat/*.jpg and so on, a fifth of each class is held out to test on. JPEG, PNG, WebP,
BMP, TIFF, PPM and PGM, at any depth below a class. Networks: those of configs/imagenet.py, such as
`configs/photos.py:v1-50`.

A recipe of our own, for some hundred to ten thousand photos: ResNet-18 at 224 pixels, Inception crops, mirrored,
label smoothing, and decay five times that of ImageNet, where there is more to learn from. On a CPU take
`--config.data.image_size=64`: a twelfth of the work. From weights that saw more photos it learns more:
`--config.init_from=RUN`.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.models.published import imagenet


def get_config(network: str = "v1-18") -> ConfigDict:
    c = default(imagenet(network))
    c.name = f"photos-{network}"
    c.batch_size = 32
    c.total_epochs = 60.0
    c.eval_every_epochs = 5.0
    c.log_every_steps = 20

    c.data.name = "folder"

    c.optimizer.learning_rate = 0.05
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.optimizer.decay_mask = "kernels"
    c.optimizer.label_smoothing = 0.1

    c.schedule.name = "cosine"
    c.schedule.warmup = "linear"
    c.schedule.warmup_epochs = 3.0
    return c
