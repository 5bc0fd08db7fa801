"""Photos of your own, from weights that saw more of them:

    python -m resjax.main --config=configs/finetune.py --config.init_from=WEIGHTS --config.data.dir=PHOTOS

PHOTOS as in configs/photos.py. WEIGHTS: another run's workdir, a file of torchvision's or timm's, a folder of
Hugging Face's (`python -m resjax.weights show WEIGHTS`). The network must be theirs: `configs/finetune.py:v1.5-50`
is torchvision's ResNet-50; any name of configs/imagenet.py will do. The head starts fresh where theirs is for other
classes: another number, or other names as far as the weights have them.

    --config=configs/finetune.py:v1.5-50,probe            a linear probe: only the head is trained
    --config.optimizer.freeze=stem,stage1                 these stay as they are, and cost no backward pass
    --config.optimizer.layer_decay=0.9                    the rate shrinks by a tenth for each unit below the head
    --config.ema.decay=0.999                              also evaluate a moving average of the weights

A recipe of our own, not tuned: configs/photos.py for a third of its epochs, at a tenth of its rate but in the head.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.errors import BadInput
from resjax.models.published import imagenet


def get_config(spec: str = "v1-18") -> ConfigDict:
    network, comma, kind = spec.partition(",")
    if comma and kind != "probe":
        raise BadInput(f"configs/finetune.py:{spec}: give NETWORK or NETWORK,probe, such as v1.5-50,probe")
    model = imagenet(network)
    c = default(model)
    c.name = f"finetune-{spec.replace(',', '-')}"
    c.batch_size = 32
    c.total_epochs = 20.0
    c.log_every_steps = 20

    c.data.name = "folder"

    c.optimizer.nesterov = True
    c.optimizer.decay_mask = "kernels"
    c.optimizer.label_smoothing = 0.1
    if kind == "probe":
        c.optimizer.freeze = model.parts
        c.optimizer.learning_rate = 0.05
    else:
        c.optimizer.learning_rate, c.optimizer.head_multiplier = 0.005, 10.0

    c.schedule.name = "cosine"
    c.schedule.warmup, c.schedule.warmup_rate = "linear", 0.0001
    c.schedule.warmup_epochs = 1.0
    return c
