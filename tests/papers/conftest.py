"""The tables as the command sees them, from the checkout's root."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from resjax.sweep import plan

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = {
    **{"test_accuracy_top5": 1.0, "test_accuracy": 0.9, "train_accuracy": 0.5, "seconds": 1.0, "steps": 1},
    **{"images_per_second": 100.0, "params": 9, "state_digest": "0", "device": "1 x cpu"},
}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def data_sets():
    """The papers' data sets seem to be prepared; no image of theirs is read."""
    shapes = {
        **{"cifar10": (32, 3, 10, 50_000), "cifar100": (32, 3, 100, 50_000)},
        **{"mnist": (28, 1, 10, 60_000), "imagenet2012": (224, 3, 1000, 1_281_167)},
    }
    digits = plan.look_up

    def look_up(config):
        if config.data.name not in shapes:
            return digits(config)
        side, channels, classes, size = shapes[config.data.name]
        usual = {"augment": "crop_flip", "pad": 4, "normalize": "pixel_mean", "image_size": side}
        return SimpleNamespace(
            image_shape=(side, side, channels), num_classes=classes, train_size=size, test_split="test", **usual
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "look_up", look_up)
        yield
