"""The tables as the command sees them, from the checkout's root."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from resjax.sweep import plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def data_sets():
    """The papers' data sets seem to be prepared; no image of theirs is read."""
    shapes = {"cifar10": (32, 10, 50_000), "cifar100": (32, 100, 50_000), "imagenet2012": (224, 1000, 1_281_167)}
    digits = plan.look_up

    def look_up(config):
        if config.data.name not in shapes:
            return digits(config)
        side, classes, size = shapes[config.data.name]
        usual = {"augment": "crop_flip", "pad": 4, "normalize": "pixel_mean", "image_size": side}
        usual["test_split"] = "validation" if config.data.name == "imagenet2012" else "test"
        return SimpleNamespace(image_shape=(side, side, 3), num_classes=classes, train_size=size, **usual)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "look_up", look_up)
        yield
