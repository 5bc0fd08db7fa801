"""Mean and standard deviation of images, exact."""

import numpy as np
import pytest

from resjax.data import statistics
from resjax.data.augment.device import Normalization, normalize
from resjax.data.loader import open_dataset
from resjax.data.preprocess import Preprocessing


def images(batch, height=4, width=7, channels=3):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, channels), np.uint8)


def test_by_pixel_is_a_mean_image_and_one_scalar():
    x = images(batch=3000)  # more than one chunk of the sums
    mean, std = statistics.by_pixel(x)
    centred = x - x.mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(mean, x.mean(axis=0, dtype=np.float64).astype(np.float32))
    np.testing.assert_allclose(std, centred.std(), rtol=1e-7)
    assert (mean.dtype, mean.shape, std.dtype, std.shape) == (np.float32, (4, 7, 3), np.float32, ())
    y = normalize(x, Normalization.of(Preprocessing(mean, std)))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, centred / centred.std(), rtol=1e-5, atol=1e-5)


def test_by_channel_is_one_mean_and_std_for_each():
    x = images(batch=3000)
    x[..., 1] = 7  # a constant channel becomes 0, not NaN
    mean, std = statistics.by_channel(x)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(std, [x[..., 0].std(), 1, x[..., 2].std()], rtol=1e-7)
    y = normalize(x, Normalization.of(Preprocessing(mean, std)))
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), [1, 0, 1], atol=1e-4)


def test_values_by_hand():
    """Two images of 1 x 2 pixels: (0, 2) and (4, 10)."""
    x = np.array([0, 2, 4, 10], np.uint8).reshape(2, 1, 2, 1)
    mean, std = statistics.by_pixel(x)
    assert mean.ravel().tolist() == [2, 6]
    assert std == np.float32(10**0.5)  # of -2, -4, 2, 4
    mean, std = statistics.by_channel(x)
    assert mean.tolist() == [4]
    assert std.tolist() == [np.float32(14**0.5)]  # of -4, -2, 0, 6


def test_imagenet_constants():
    x = np.full((1, 1, 1, 3), 51, np.uint8)
    expected = (51 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    imagenet = Preprocessing(statistics.IMAGENET_MEAN, statistics.IMAGENET_STD)
    np.testing.assert_allclose(normalize(x, Normalization.of(imagenet))[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("normalize", "shape"), [("pixel_mean", (8, 8, 1)), ("channel", (1,))])
def test_of_the_digits(settings, normalize, shape):
    data = open_dataset(**settings | {"normalize": normalize})
    train = data.source.load(data.parts["train"]).images.astype(np.float64)
    mean = train.mean(axis=0) if normalize == "pixel_mean" else train.mean().reshape(1)
    assert data.preprocessing.mean.shape == shape
    np.testing.assert_allclose(data.preprocessing.mean, mean, rtol=1e-7)
    np.testing.assert_allclose(data.preprocessing.std, (train - mean).std(), rtol=1e-7)
