"""Augmentation against naive references."""

import numpy as np
import pytest
from PIL import Image

from resjax.data.augment.boxes import AREA, RATIO, crop_box
from resjax.data.augment.device import Normalization, crop, flip, training_views
from resjax.data.augment.draw import TRIES, Augmentation, draw
from resjax.data.augment.host import cut, views
from resjax.data.order import Share
from resjax.data.preprocess import Preprocessing


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
    np.testing.assert_array_equal(random_crop(x, Share.of(len(x)), pad, rng()), expected)
    assert {tuple(o) for o in offsets.tolist()} & {(0, 0), (4, 4), (0, 4), (4, 0)}  # the outermost crops occur


def random_crop(x, share, pad, generator):
    return np.asarray(crop(x, draw(share, Augmentation("crop", pad), (0, 0), generator)["offset"], pad))


def random_flip(x, share, generator):
    return np.asarray(flip(x, draw(share, Augmentation("crop_flip"), (0, 0), generator)["mirror"]))


def random_resized_crop(x, share, size, interpolation, generator):
    draws = draw(share, Augmentation("resized_crop_flip"), (size, size), generator)
    mean = np.zeros(x[0].shape[2], np.float32)
    return cut(x, draws, Preprocessing(mean, np.float32(1), size=size, interpolation=interpolation))


def random_views(x, share, augment, pad, preprocessing, generator):
    draws = draw(share, Augmentation(augment, pad), (0, 0), generator)
    batch = {"image": views(x, draws, preprocessing), "label": np.zeros(len(x), np.int32)} | draws
    return np.asarray(training_views(batch, Normalization.of(preprocessing), pad)["image"])


def pinned(statistic, expected, deviation, draws):
    """A mean of `draws` values lies within five of its standard deviations: wrong by chance once in two million."""
    assert abs(statistic - expected) < 5 * deviation / draws**0.5


def test_flip_mirrors_half_and_changes_nothing_else():
    x = images(batch=100_000, height=1, width=2, channels=1)
    x[..., 1, :] = np.where(x[..., 0, :] == 0, 1, x[..., 0, :] - 1)
    original = x.copy()
    flipped = random_flip(x, Share.of(len(x)), rng())
    mirrored = (flipped == x[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == x).all(axis=(1, 2, 3))
    assert (mirrored != kept).all()
    pinned(mirrored.mean(), 1 / 2, 1 / 2, 100_000)
    np.testing.assert_array_equal(x, original)


@pytest.mark.parametrize("pad", [1, 4])
def test_every_crop_is_as_likely_as_any_other(pad):
    """Every pixel tells where it was, so each crop tells its offset; padding is 0."""
    side, batch, count = 3, 25_000, (2 * pad + 1) ** 2
    where = np.arange(1, side * side + 1, dtype=np.float32).reshape(1, side, side, 1)
    generator, seen = rng(), np.zeros((2 * pad + 1, 2 * pad + 1))
    padded = np.pad(where[0, ..., 0], pad)
    windows = {}
    for y in range(2 * pad + 1):
        for x in range(2 * pad + 1):
            windows.setdefault(padded[y : y + side, x : x + side].tobytes(), []).append((y, x))
    for _ in range(4):
        for view in random_crop(np.repeat(where, batch, axis=0), Share.of(batch), pad, generator):
            offsets = windows[view[..., 0].tobytes()]  # of all-zero crops there are several
            for y, x in offsets:
                seen[y, x] += 1 / len(offsets)
    assert seen.shape == (2 * pad + 1, 2 * pad + 1)
    assert (seen > 0).all()  # the outermost crops too
    assert seen.sum() == pytest.approx(100_000)
    assert np.abs(seen / 100_000 - 1 / count).max() < 5 * (1 / count / 100_000) ** 0.5


def test_zeros_are_padded_after_normalisation():
    x = np.full((64, 6, 6, 1), 200, np.uint8)
    preprocessing = Preprocessing(np.full((6, 6, 1), 100, np.float32), np.array(50, np.float32))
    y = random_views(x, Share.of(len(x)), "crop", 3, preprocessing, rng())
    assert set(np.unique(y)) == {0, 2}  # padding before would give (0 - 100) / 50 = -2


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
def test_what_each_augmentation_does(augment):
    x = images(height=8, width=8)
    preprocessing = Preprocessing(np.array([99, 127, 130], np.float32), np.array([70, 71, 72], np.float32))
    expected = (x.astype(np.float32) - preprocessing.mean) * (1 / preprocessing.std)
    if augment != "none":
        generator = rng()
        expected = random_crop(expected, Share.of(len(x)), 1, generator)
        expected = random_flip(expected, Share.of(len(x)), generator) if augment == "crop_flip" else expected
    np.testing.assert_array_equal(random_views(x, Share.of(len(x)), augment, 1, preprocessing, rng()), expected)


def test_statistics_of_crop_boxes():
    """Of 10^5 boxes in an image so large that rounding and rejection hardly count."""
    count, (height, width) = 100_000, (30_000, 30_000)
    draws = np.random.default_rng(0).random((count, 1, 4))
    draws[..., 0] /= 2  # areas up to 0.54 of the image, so that every aspect ratio fits
    left, top, right, bottom = np.array([crop_box((height, width), d) for d in draws]).T
    w, h = right - left, bottom - top
    area, log_ratio = w * h / (height * width), np.log(w / h)
    assert area.min() > AREA[0] * 0.999
    assert area.max() < 0.5401
    pinned(area.mean(), (AREA[0] + 0.54) / 2, 0.46 / 12**0.5, count)
    # Uniform in the logarithm: as many wide crops as high ones. Uniform ratios would have a mean logarithm of 0.03.
    low, high = np.log(RATIO)
    assert (log_ratio.min() > low - 1e-3, log_ratio.max() < high + 1e-3) == (True, True)
    pinned(log_ratio.mean(), 0, (high - low) / 12**0.5, count)
    pinned((log_ratio < low / 2).mean(), 1 / 4, (3 / 16) ** 0.5, count)
    # Positions: uniform, from one edge to the other.
    for start, free in ((left, width - w), (top, height - h)):
        share = start / free
        assert share.min() < 1e-3
        assert share.max() > 1 - 1e-3
        pinned(share.mean(), 1 / 2, 1 / 12**0.5, count)


def test_crop_boxes_touch_every_edge():
    """A small image, so that a position that is off by one leaves it, or never touches an edge."""
    height, width = 30, 40
    draws = np.random.default_rng(0).random((100_000, TRIES, 4))
    left, top, right, bottom = np.array([crop_box((height, width), d) for d in draws]).T
    assert (left.min(), top.min(), right.max(), bottom.max()) == (0, 0, width, height)
    assert ((right > left) & (bottom > top)).all()
    # All positions of one size of crop are as likely.
    w, h = right - left, bottom - top
    for size, start, side in ((w, left, width), (h, top, height)):
        places = np.bincount(start[size == 20], minlength=side - 20 + 1)
        assert len(places) == side - 20 + 1
        share = 1 / len(places)
        assert np.abs(places / places.sum() - share).max() < 5 * (share / places.sum()) ** 0.5
    assert (w * h).min() < 0.1 * height * width  # small and large crops both occur
    assert (w * h).max() > 0.9 * height * width


@pytest.mark.parametrize(
    ("shape", "box"),
    [((100, 1000), (433, 0, 566, 100)), ((1000, 100), (0, 433, 100, 566)), ((90, 100), (0, 0, 100, 90))],
)
def test_crop_box_falls_back_to_the_centre(shape, box):
    assert crop_box(shape, np.ones((TRIES, 4))) == box  # the whole area at the widest ratio never fits


def test_resized_crop_of_the_whole_image_is_pillows_antialiased_resize(monkeypatch):
    x = images(batch=2, height=40, width=40)
    monkeypatch.setattr("resjax.data.augment.boxes.crop_box", lambda shape, draws: (0, 0, 40, 40))
    expected = [np.asarray(Image.fromarray(i).resize((10, 10), Image.Resampling.BILINEAR)) for i in x]
    np.testing.assert_array_equal(
        random_resized_crop(list(x), Share.of(len(x)), 10, "bilinear", rng()), np.stack(expected)
    )
    block_means = x.reshape(2, 10, 4, 10, 4, 3).mean(axis=(2, 4))
    assert (
        np.abs(random_resized_crop(list(x), Share.of(len(x)), 10, "bilinear", rng()) - block_means).mean() < 25
    )  # no antialiasing: about 55


def test_row_i_depends_on_image_i_alone():
    x = list(images(batch=4, height=40, width=30))
    other = [x[0], images(1, 60, 20)[0], x[2], x[3]]
    a, b = (random_resized_crop(i, Share.of(len(i)), 8, "bilinear", rng()) for i in (x, other))
    np.testing.assert_array_equal(a[[0, 2, 3]], b[[0, 2, 3]])
