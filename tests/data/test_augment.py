"""Augmentation against naive references."""

import numpy as np
import pytest
from PIL import Image

from resjax.data.augment import (
    AREA,
    RATIO,
    TRIES,
    Normalize,
    Processing,
    centre_view,
    crop_box,
    random_crop,
    random_flip,
    random_resized_crop,
)


def rng():
    return np.random.default_rng(3)


def images(batch=16, height=9, width=7, channels=3):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, channels), np.uint8)


def test_crop_equals_a_loop_over_pixels():
    x, pad = images().astype(np.float32) + 1, 2
    offsets = rng().integers(0, 2 * pad + 1, size=(len(x), 2))
    expected = np.zeros_like(x)
    for i, (dy, dx) in enumerate(offsets):
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                y, z = row + dy - pad, column + dx - pad
                if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                    expected[i, row, column] = x[i, y, z]
    np.testing.assert_array_equal(random_crop(x, pad, rng()), expected)
    assert {tuple(o) for o in offsets.tolist()} & {(0, 0), (4, 4), (0, 4), (4, 0)}  # the outermost crops occur


def test_flip_mirrors_about_half_and_changes_nothing_else():
    x = images(batch=400)
    original = x.copy()
    flipped = random_flip(x, rng())
    mirrored = [np.array_equal(b, a[:, ::-1]) for a, b in zip(x, flipped, strict=True)]
    kept = [np.array_equal(b, a) for a, b in zip(x, flipped, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250
    np.testing.assert_array_equal(x, original)


def test_per_pixel_mean_and_one_scalar():
    x = images(batch=3000, height=4)  # more than one chunk of the sums
    normalize = Normalize.per_pixel(x)
    centred = x - x.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(normalize.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(normalize.std, centred.std(), rtol=1e-6)
    assert normalize.std.shape == ()
    y = normalize(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, centred / centred.std(), rtol=1e-5, atol=1e-5)


def test_per_channel():
    x = images(batch=50)
    x[..., 1] = 7  # a constant channel becomes 0, not NaN
    y = Normalize.per_channel(x)(x)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), [1, 0, 1], atol=1e-4)


def test_imagenet_constants():
    x = np.full((1, 1, 1, 3), 51, np.uint8)
    expected = (51 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(Normalize.imagenet()(x)[0, 0, 0], expected, rtol=1e-5)


def test_zeros_are_padded_after_normalisation():
    x = np.full((64, 6, 6, 1), 200, np.uint8)
    normalize = Normalize(np.full((6, 6, 1), 100, np.float32), np.float32(50))
    y = Processing("crop", 3, 0, normalize).train(x, rng())
    assert set(np.unique(y)) == {0, 2}  # padding before would give (0 - 100) / 50 = -2


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
def test_what_each_augmentation_does(augment):
    x = images(height=8, width=8)
    processing = Processing(augment, 1, 0, Normalize.per_channel(x))
    expected = processing.evaluate(x)
    if augment != "none":
        generator = rng()
        expected = random_crop(expected, 1, generator)
        expected = random_flip(expected, generator) if augment == "crop_flip" else expected
    np.testing.assert_array_equal(processing.train(x, rng()), expected)


def test_crop_boxes_keep_to_the_bounds():
    draws = np.random.default_rng(0).random((2000, TRIES, 4))
    boxes = np.array([crop_box((300, 400), d) for d in draws])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 400).all()
    assert (bottom <= 300).all()
    area, ratio = (right - left) * (bottom - top) / 120_000, (right - left) / (bottom - top)
    assert area.min() > AREA[0] * 0.97
    assert ratio.min() > RATIO[0] * 0.97
    assert ratio.max() < RATIO[1] * 1.03
    assert area.min() < 0.1  # small and large crops both occur
    assert area.max() > 0.9


@pytest.mark.parametrize(
    ("shape", "box"),
    [((100, 1000), (433, 0, 566, 100)), ((1000, 100), (0, 433, 100, 566)), ((90, 100), (0, 0, 100, 90))],
)
def test_crop_box_falls_back_to_the_centre(shape, box):
    assert crop_box(shape, np.ones((TRIES, 4))) == box  # the whole area at the widest ratio never fits


def test_resized_crop_of_the_whole_image_is_pillows_antialiased_resize(monkeypatch):
    x = images(batch=2, height=40, width=40)
    monkeypatch.setattr("resjax.data.augment.crop_box", lambda shape, draws: (0, 0, 40, 40))
    expected = [np.asarray(Image.fromarray(i).resize((10, 10), Image.Resampling.BILINEAR)) for i in x]
    np.testing.assert_array_equal(random_resized_crop(list(x), 10, rng()), np.stack(expected))
    block_means = x.reshape(2, 10, 4, 10, 4, 3).mean(axis=(2, 4))
    assert np.abs(random_resized_crop(list(x), 10, rng()) - block_means).mean() < 25  # no antialiasing: about 55


def test_row_i_depends_on_image_i_alone():
    x = list(images(batch=4, height=40, width=30))
    other = [x[0], images(1, 60, 20)[0], x[2], x[3]]
    a, b = random_resized_crop(x, 8, rng()), random_resized_crop(other, 8, rng())
    np.testing.assert_array_equal(a[[0, 2, 3]], b[[0, 2, 3]])


@pytest.mark.parametrize("shape", [(512, 256, 3), (256, 512, 3), (256, 256, 1)])
def test_centre_view(shape):
    x = np.zeros(shape, np.uint8)
    y, z = shape[0] // 2, shape[1] // 2
    x[y - 112 : y + 112, z - 112 : z + 112] = 255
    assert centre_view(x, 224).shape == (224, 224, shape[2])
    assert (centre_view(x, 224) == 255).all()


def test_centre_view_enlarges_small_images():
    assert centre_view(np.full((20, 33, 3), 9, np.uint8), 64).shape == (64, 64, 3)
