"""Crop and flip against a recipe of 2021 on a folder of photos, at 64 pixels and for twenty epochs, from scratch.

    ln -s PHOTOS photos
    python -m resjax.sweep --sweep=configs/sweeps/photos.py --workdir=runs/photos --jobs=1

`plain` pads, crops and mirrors. `modern` has what torchvision's second recipe (configs/imagenet_torchvision.py:v2)
adds: Inception crops, TrivialAugment, random erasing, mixup or CutMix, label smoothing, and an average of the
weights. Network, optimizer, schedule and length are the same, and nothing was chosen by the results.
"""

from resjax.sweep import Sweep

SHARED = {
    "data.dir": "photos",
    "data.image_size": 64,
    "total_epochs": 20.0,
    "eval_every_epochs": 2.0,
    "eval_train": True,
}
PLAIN = {"data.augment": "crop_flip", "data.pad": 8, "optimizer.label_smoothing": 0.0}
MODERN = {
    "data.augment": "resized_crop_flip",
    "data.policy": "trivial-wide",
    "data.erase": 0.1,
    "mix.mixup": 0.2,
    "mix.cutmix": 1.0,
    "mix.definition": "torchvision",
    "optimizer.label_smoothing": 0.1,
    "ema.decay": 0.99,
}


def get_sweep() -> Sweep:
    return Sweep("configs/photos.py:v1-18", {"plain": SHARED | PLAIN, "modern": SHARED | MODERN}, seeds=(0, 1, 2))
