"""What a data set knows is filled in, without reading an image; nothing is guessed."""

import subprocess
import sys

import numpy as np
import pytest

from resjax.data import sources
from resjax.data.loader import open_dataset
from resjax.data.resolve import resolve
from resjax.errors import BadInput
from tests.data.conftest import build, encode

LEFT_OPEN = {"augment": None, "pad": None, "normalize": None, "image_size": 0}


@pytest.fixture
def open_settings(settings):
    return settings | LEFT_OPEN


@pytest.fixture(scope="session")
def fixed_dir(tmp_path_factory):
    """A folder with grey sets of one image size that no table knows ('letters'), one oblong ('labels')."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(2)
    data_dir = tmp_path_factory.mktemp("fixed")
    for name, shape in {"letters": (28, 28, 1), "labels": (12, 30, 1)}.items():
        features = {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
        }
        pixels = rng.integers(0, 256, (6, *shape[:2]), np.uint8)
        splits = {
            split: [{"image": encode(p, "png"), "label": i % 3} for i, p in enumerate(pixels)]
            for split in ("train", "test")
        }
        build(name, data_dir, features, splits)
    return str(data_dir)


def table(data):
    return data.augment, data.pad, data.normalize


@pytest.mark.parametrize(
    ("changes", "expected", "shape", "classes"),
    [
        ({}, ("crop", 1, "channel"), (8, 8, 1), 10),
        ({"pad": 2}, ("crop", 2, "channel"), (8, 8, 1), 10),
        ({"augment": "crop_flip"}, ("crop_flip", 1, "channel"), (8, 8, 1), 10),
        ({"normalize": "pixel_mean"}, ("crop", 1, "pixel_mean"), (8, 8, 1), 10),
        ({"image_size": 16}, ("crop", 1, "channel"), (16, 16, 1), 10),
        ({"name": "synthetic"}, ("crop_flip", 4, "pixel_mean"), (32, 32, 3), 10),
        ({"name": "synthetic", "image_size": 64}, ("crop_flip", 4, "pixel_mean"), (64, 64, 3), 10),
        ({"name": "synthetic", "image_size": 65}, ("resized_crop_flip", 0, "channel"), (65, 65, 3), 10),
        ({"name": "synthetic", "image_size": 224}, ("resized_crop_flip", 0, "channel"), (224, 224, 3), 1000),
        # A mean image belongs to images at their own size and place.
        (
            {"name": "synthetic", "augment": "resized_crop_flip"},
            ("resized_crop_flip", 4, "channel"),
            (32, 32, 3),
            10,
        ),
    ],
)
def test_usual_values(open_settings, changes, expected, shape, classes):
    data = resolve(**open_settings | changes)
    assert (table(data), data.image_shape, data.num_classes) == (expected, shape, classes)
    assert data.image_size == shape[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("resized_crop_flip", 0, "channel")),
        ({"augment": "none"}, ("none", 0, "channel")),
        ({"augment": "crop", "pad": 28}, ("crop", 28, "channel")),
    ],
)
def test_photographs(open_settings, photos_dir, changes, expected):
    data = resolve(**open_settings | {"name": "photos", "dir": str(photos_dir)} | changes)
    assert (table(data), data.image_shape, data.image_size) == (expected, (224, 224, 3), 224)
    assert (data.num_classes, data.train_size, data.validation_size, data.test_size) == (5, 24, 0, 7)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar100:3.0.2"])
def test_cifar(open_settings, monkeypatch, name):
    source = sources.Source(name, {"train": 50_000, "test": 10_000}, (32, 32, 3), 100, (), None)
    monkeypatch.setattr("resjax.data.resolve.open_source", lambda *_: source)
    assert table(resolve(**open_settings | {"name": name})) == ("crop_flip", 4, "pixel_mean")
    assert table(resolve(**open_settings | {"name": name, "pad": 8})) == ("crop_flip", 8, "pixel_mean")
    assert resolve(**open_settings | {"name": name, "image_size": 64}).normalize == "channel"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["data.augment and data.normalize are not given", "'letters'", "--config.data.augment=none|crop",
              "--config.data.normalize=pixel_mean|channel"]),
        ({"normalize": "channel"}, ["data.augment is not given", "--config.data.augment=none|crop"]),
        ({"augment": "none"}, ["data.normalize is not given", "--config.data.normalize="]),
        ({"augment": "crop", "normalize": "channel"}, ["data.pad is not given", "--config.data.pad=3"]),
    ],
)  # fmt: skip
def test_nothing_is_guessed(open_settings, fixed_dir, changes, parts):
    with pytest.raises(BadInput) as error:
        resolve(**open_settings | {"name": "letters", "dir": fixed_dir} | changes)
    assert all(part in str(error.value) for part in parts)
    assert "\n" not in str(error.value)


def test_photographs_need_a_pad_to_be_cropped(open_settings, photos_dir):
    with pytest.raises(BadInput, match=r"data\.pad is not given .* data\.augment='crop_flip'"):
        resolve(**open_settings | {"name": "photos", "dir": str(photos_dir), "augment": "crop_flip"})


def test_a_set_of_its_own_needs_two_fields(open_settings, fixed_dir):
    given = {"name": "letters", "dir": fixed_dir, "augment": "none", "normalize": "pixel_mean"}
    data = open_dataset(**open_settings | given)
    assert (data.image_shape, data.num_classes, data.class_names) == ((28, 28, 1), 3, ("a", "b", "c"))
    assert data.preprocessing.class_names == ("a", "b", "c")
    assert len(list(data.evaluate("test", 4))) == 2


def test_oblong_images(open_settings, fixed_dir):
    given = open_settings | {"name": "labels", "dir": fixed_dir, "augment": "none", "normalize": "channel"}
    data = resolve(**given)
    assert (data.image_shape, data.image_size) == ((12, 30, 1), 0)
    with pytest.raises(BadInput, match=r"data\.image_size=0, but images of 'labels' are not square"):
        resolve(**given | {"augment": "resized_crop_flip"})


@pytest.mark.parametrize("changes", [{}, {"name": "synthetic", "image_size": 80}, {"name": "photos"}])
def test_resolved_values_resolve_to_themselves(open_settings, photos_dir, changes):
    given = open_settings | {"dir": str(photos_dir)} | changes
    data = resolve(**given)
    fields = {field: getattr(data, field) for field in LEFT_OPEN}
    again = resolve(**given | fields)
    assert {field: getattr(again, field) for field in LEFT_OPEN} == fields
    assert (again.image_shape, again.resized) == (data.image_shape, data.resized)


def test_open_data_has_what_was_resolved(open_settings):
    data, resolved = open_dataset(**open_settings), resolve(**open_settings)
    for field in ("name", "num_classes", "class_names", "image_shape", "image_size", "train_size", "test_size"):
        assert getattr(data, field) == getattr(resolved, field)
    assert table(data) == table(resolved)
    batches = data.train(3, seed=0)
    assert next(batches)["image"].shape == (3, *resolved.image_shape)
    batches.close()


def test_no_image_is_read(open_settings, monkeypatch):
    monkeypatch.setattr(sources, "read_digits", None)
    monkeypatch.setattr(np.random, "default_rng", None)
    assert resolve(**open_settings).train_size == 1437
    assert resolve(**open_settings | {"name": "synthetic", "image_size": 224}).num_classes == 1000


def test_it_is_light():
    """A sweep looks up many sets, so neither JAX nor TFDS is imported for one that is built in."""
    program = f"""
import sys
from resjax.data.resolve import resolve
print(resolve(name="digits", dir="", train_split="train", validation_split="", test_split="test", workers=0,
              **{LEFT_OPEN!r}).image_shape)
assert not {{"grain", "jax", "tensorflow_datasets", "sklearn"}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("(8, 8, 1)\n", "")
