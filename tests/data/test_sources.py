"""Digits, synthetic images and prepared sets."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from resjax.data import prepared, sources
from resjax.data.splits import Slice


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scikit-learn's own imports
def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images, labels = sources.read_digits(sources.digits_file())
    np.testing.assert_array_equal(images[..., 0], load_digits().images)
    np.testing.assert_array_equal(labels, load_digits().target)
    assert (images.dtype, labels.dtype, images.shape) == (np.uint8, np.int32, (1797, 8, 8, 1))


def test_digits_split_is_fixed_stratified_and_disjoint():
    source = sources.digits()
    assert source.sizes == {"train": 1437, "test": 360}
    train, test = source.load(Slice("train", 0, 1437)), source.load(Slice("test", 0, 360))
    digest = hashlib.sha256(train.images.tobytes() + train.labels.astype("<i4").tobytes()).hexdigest()
    assert digest == "e622a33bb4cc6b415b07c407de2a26929add68e975a822b3f704dc21c98e449e"
    _, labels = sources.read_digits(sources.digits_file())
    mask = sources.digits_test_mask(labels)
    assert mask.sum() == 360  # one mask for both sides, so they are disjoint and complete
    of_class = np.bincount(labels)
    np.testing.assert_array_less(np.abs(np.bincount(test.labels) - of_class / 5), 1)
    np.testing.assert_array_equal(np.bincount(test.labels) + np.bincount(train.labels), of_class)
    pixels = np.concatenate([train.images, test.images]).reshape(1797, -1)
    everything = sources.read_digits(sources.digits_file())[0].reshape(1797, -1)
    np.testing.assert_array_equal(np.unique(pixels, axis=0), np.unique(everything, axis=0))


@pytest.mark.parametrize(("image_size", "side", "classes"), [(0, 32, 10), (16, 16, 10), (224, 224, 1000)])
def test_synthetic(image_size, side, classes):
    source = sources.synthetic(image_size)
    part = source.load(Slice("train", 0, source.sizes["train"]))
    assert part.images.shape == (1024, side, side, 3)
    assert source.num_classes == classes
    assert part.labels.max() == classes - 1 or classes == 1000
    if side == 16:
        np.testing.assert_array_equal(part.images, sources.synthetic(16).load(Slice("train", 0, 1024)).images)


def test_photographs_of_every_kind_become_rgb(photos_dir):
    source = prepared.prepared("photos", str(photos_dir))
    assert source.image_shape is None
    assert source.sizes == {"train": 24, "test": 7}
    images, labels = source.open(Slice("train", 4, 24)).read(np.arange(20))
    everything, all_labels = source.open(Slice("train", 0, 24)).read(np.arange(24))
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 for image in everything)
    assert len({image.shape for image in everything}) > 10
    assert labels.tolist() == all_labels[4:].tolist()
    assert all(np.array_equal(a, b) for a, b in zip(images, everything[4:], strict=True))


@pytest.mark.parametrize(
    ("kind", "mode"), [("jpeg", "RGB"), ("jpeg", "L"), ("jpeg", "CMYK"), ("png", "RGB"), ("png", "P")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_image(kind, mode, channels):
    smooth = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8) * 3
    picture = Image.fromarray(np.stack([smooth, 255 - smooth, smooth // 2], -1)).convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 95} if kind == "jpeg" else {}))
    decoded = sources.decode_image(file.getvalue(), channels).astype(int)
    expected = np.asarray(picture.convert("RGB" if channels == 3 else "L")).reshape(40, 30, channels)
    assert decoded.shape == (40, 30, channels)
    assert np.abs(decoded - expected).mean() < (2 if kind == "jpeg" else 1e-9)
