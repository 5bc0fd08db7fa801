"""Two classes of photos with few images each: from scratch, from weights of other classes, and a linear probe.

    ln -s MANY photos-many
    ln -s FEW photos-few
    python -m resjax.main --config=configs/photos.py:v1-18 --config.data.dir=photos-many --workdir=runs/many \\
        --config.data.image_size=64 --config.data.augment=crop_flip --config.data.pad=8 --config.total_epochs=12
    python -m resjax.sweep --sweep=configs/sweeps/finetune.py --workdir=runs/few --together=3

MANY and FEW are folders as configs/photos.py takes them, of different classes. All three take equally many steps at
64 pixels with the recipes of configs/photos.py and configs/finetune.py as they are; nothing was chosen by the
results.
"""

from typing import Any

from resjax.sweep import Sweep, Variant

SHARED: dict[str, Any] = {
    "data.dir": "photos-few",
    "data.image_size": 64,
    "data.augment": "crop_flip",
    "data.pad": 8,
    "batch_size": 20,
    "total_epochs": None,
    "total_steps": 100,
    "eval_every_epochs": None,
    "eval_every_steps": 50,
    "schedule.warmup_epochs": None,
    "schedule.warmup_steps": 5,
    "eval_train": True,
}
WEIGHTS = {"init_from": "runs/many"}


def get_sweep() -> Sweep:
    return Sweep(
        "configs/photos.py:v1-18",
        {
            "from-scratch": Variant(SHARED),
            "fine-tuned": Variant(SHARED | WEIGHTS, "configs/finetune.py:v1-18"),
            "linear-probe": Variant(SHARED | WEIGHTS, "configs/finetune.py:v1-18,probe"),
        },
        seeds=(0, 1, 2),
    )
