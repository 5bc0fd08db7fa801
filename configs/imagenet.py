"""ImageNet 2012: the papers' networks and later ones, for the 90 epochs of FAIR's Torch code (fb.resnet.torch).

    python -m resjax.main --config=configs/imagenet.py:v1-50 --config.data.dir=D

where D holds `imagenet2012` prepared by TFDS with file_format=array_record. Networks: `v1-18` to `v1-200`,
`v1.5-50`, `v1.5-50-d`, `v2-200`, `v2-50-raw`, `plain-34`, `se-50`, `resnext-50-32x4d`, `resnext-101-32x8d`,
`wide-50-2`. Batch 256, rate 0.1, a tenth at epochs 30 and 60 (v2 appendix; v1 lowers it when the error stops to
fall, up to 600k iterations, about 120 epochs), decay 1e-4: of weights, not of BN and biases, in the papers'
networks, of every parameter in the others. BN over groups of 32 images as on the papers' eight GPUs.

The papers' networks are trained on the papers' views (v1 section 3.4): crops of 224 pixels, mirrored or not, of
photos whose short side is resized to 256-480, and AlexNet's colour noise; the others on Inception's crops. FAIR's:
mean and deviation of each channel, where v1 subtracts the mean of each pixel. Ours: bfloat16 convolutions.

Expected top-1 error, single centre crop, the authors' for their v1 weights: v1-50 24.7 %, v1-101 23.6 %,
v1-152 23.0 %. Not run here.
"""

from ml_collections import ConfigDict

from resjax.config import default
from resjax.models.published import imagenet


def get_config(network: str = "v1-50") -> ConfigDict:
    c = default(imagenet(network))
    c.name = f"imagenet-{network}"
    c.batch_size = 256
    c.total_epochs = 90.0
    c.eval_every_epochs = 1.0

    c.data.name = "imagenet2012"
    c.data.workers = 8

    c.model.bn_group = 32
    c.model.dtype = "bfloat16"

    papers = network.partition("-")[0] in ("v1", "v2", "plain")
    if papers:
        c.data.augment = "scale_crop_flip"
        c.data.lighting = 0.1
    c.data.normalize = "channel"

    c.optimizer.decay_mask = "kernels" if papers else "all"

    c.schedule.drop_epochs = (30.0, 60.0)
    return c
