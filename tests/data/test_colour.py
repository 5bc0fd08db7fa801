"""Colour jitter, PCA noise, erasing and the boxes of crops, against loops."""

import collections
import itertools
import math

import jax
import numpy as np
import pytest

from resjax.data.augment import boxes, colour, draw
from resjax.data.augment.device import erase
from resjax.data.order import Share

BATCH, HEIGHT, WIDTH = 6, 5, 7


def pixels():
    return np.random.default_rng(0).integers(0, 256, (BATCH, HEIGHT, WIDTH, 3)).astype(np.float32)


def jittered(image, kinds, alphas):
    """fb.resnet.torch's transforms, pixel by pixel."""
    image = image.astype(float)
    for kind, alpha in zip(kinds, alphas, strict=True):
        grey = np.array([[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in image])
        for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
            other = {"brightness": 0, "contrast": grey.mean(), "saturation": grey[row, column]}[kind]
            image[row, column] = alpha * image[row, column] + (1 - alpha) * other
    return image


def test_jitter_in_every_order():
    names = {colour.BRIGHTNESS: "brightness", colour.CONTRAST: "contrast", colour.SATURATION: "saturation"}
    kinds = np.array(list(itertools.permutations(range(3))), np.int32)
    alphas = np.random.default_rng(1).uniform(0.6, 1.4, (BATCH, 3)).astype(np.float32)
    ours = jax.jit(colour.jitter)(pixels(), kinds, alphas)
    assert ours.dtype == np.float32
    for i, image in enumerate(pixels()):
        expected = jittered(image, [names[kind] for kind in kinds[i].tolist()], alphas[i])
        np.testing.assert_allclose(ours[i], expected, rtol=0, atol=1e-3)


def test_draws_of_jitter():
    drawn = draw.jitter(Share.of(30000), 0.4, np.random.default_rng(0))
    alphas, kinds = drawn["jitter"], drawn["jitter_kind"]
    assert (alphas.dtype, kinds.dtype) == (np.float32, np.int32)
    low, high = alphas.min(), alphas.max()
    assert 0.6 <= low < 0.6001 < 1.3999 < high <= 1.4000001
    assert abs(alphas.mean() - 1) < 6 * 0.4 / 3**0.5 / alphas.size**0.5
    orders = collections.Counter(map(tuple, kinds.tolist()))
    assert set(orders) == set(itertools.permutations(range(3)))
    assert all(abs(count - 5000) < 6 * (30000 / 6 * 5 / 6) ** 0.5 for count in orders.values())


def test_light():
    """fb.resnet.torch, in [0, 1]: every pixel's rgb[i] += sum over j of eigvec[i][j] alpha[j] eigval[j]."""
    eigval = [0.2175, 0.0188, 0.0045]
    eigvec = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    alpha = np.random.default_rng(5).normal(0, 0.1, (BATCH, 3))
    drawn = draw.light(Share.of(BATCH), 0.1, np.random.default_rng(5))
    ours = jax.jit(colour.light)(pixels(), drawn)
    for n, image in enumerate(pixels()):
        for i in range(3):
            rgb = sum(eigvec[i][j] * alpha[n, j] * eigval[j] for j in range(3))
            np.testing.assert_allclose(ours[n, ..., i] / 255, image[..., i] / 255 + rgb, rtol=0, atol=1e-6)


def test_erase():
    some = np.array([[1, 2, 4, 5], [0, 0, 7, 4], [0, 0, 0, 0], [6, 4, 7, 5], [0, 1, 1, 2], [2, 0, 3, 5]], np.int32)
    expected = pixels() - 300  # no pixel is 0
    for i, (left, top, right, bottom) in enumerate(some.tolist()):
        for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
            if left <= column < right and top <= row < bottom:
                expected[i, row, column] = 0
    np.testing.assert_array_equal(jax.jit(erase)(pixels() - 300, some), expected)
    assert (expected[2] != 0).all()


def test_erased_boxes():
    rows, height, width = 8000, 60, 90
    drawn = draw.erased(Share.of(rows), (height, width), 0.25, np.random.default_rng(0))
    assert drawn.dtype == np.int32
    left, top, right, bottom = drawn.T
    erased = right > left
    assert abs(erased.sum() - 0.25 * rows) < 6 * (rows * 0.25 * 0.75) ** 0.5
    assert (drawn[~erased] == 0).all()
    w, h = (right - left)[erased], (bottom - top)[erased]
    assert left.min() == top.min() == 0
    assert (w < width).all()
    assert (h < height).all()
    # Rounding to pixels moves a side by half of one.
    share, ratio = w * h / (width * height), h / w
    assert 0.018 < share.min() < 0.03
    assert 0.32 < share.max() < 0.34
    assert 0.27 < ratio.min() < 0.35
    assert 2.9 < ratio.max() < 3.6
    assert abs(share.mean() - 0.175) < 0.01  # a few of the large and flat ones do not fit
    assert abs(np.log(ratio).mean() - np.log(0.3 * 3.3) / 2) < 0.06
    # Anywhere: as often at either border as it must be, where there is room for few places.
    assert abs((left[erased] / (width - w)).mean() - 0.5) < 0.03
    assert (bottom[erased] == height).any()


def torchvision_box(height, width, draws):
    """RandomErasing.get_params, with uniform draws for its random numbers."""
    for area, ratio, y, x in draws:
        erase_area = height * width * (0.02 + (0.33 - 0.02) * area)
        aspect_ratio = math.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * ratio)
        h = round(math.sqrt(erase_area * aspect_ratio))
        w = round(math.sqrt(erase_area / aspect_ratio))
        if not (h < height and w < width):
            continue
        i, j = math.floor(y * (height - h + 1)), math.floor(x * (width - w + 1))
        return j, i, j + w, i + h
    return 0, 0, 0, 0


def fb_box(height, width, draws):
    """RandomSizedCrop of fb.resnet.torch, with uniform draws for its random numbers; the square if none fits."""
    for area, ratio, swap, y, x in draws:
        target_area = (0.08 + 0.92 * area) * height * width
        aspect_ratio = 3 / 4 + (4 / 3 - 3 / 4) * ratio
        w = round(math.sqrt(target_area) * aspect_ratio)
        h = round(math.sqrt(target_area) / aspect_ratio)
        if swap < 0.5:
            w, h = h, w
        if h <= height and w <= width:
            y1, x1 = math.floor(y * (height - h + 0.99)), math.floor(x * (width - w + 0.99))
            return x1, y1, x1 + w, y1 + h
    short = min(height, width)
    x1, y1 = math.ceil((width - short) / 2), math.ceil((height - short) / 2)
    return x1, y1, x1 + short, y1 + short


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (64, 64), (20, 300)])
@pytest.mark.parametrize(
    ("ours", "defined", "numbers"), [(boxes.erased_box, torchvision_box, 4), (boxes.fb_crop_box, fb_box, 5)]
)
def test_boxes_of_tries(ours, defined, numbers, shape):
    draws = np.random.default_rng(7).random((300, 10, numbers))
    found = [ours(shape, each) for each in draws]
    assert found == [defined(*shape, each) for each in draws]
    none = (0, 0, 0, 0) if numbers == 4 else fb_box(*shape, [])
    if shape == (20, 300):
        assert none in found  # no try fits


def test_boxes_of_scaled_crops():
    shape, size, draws = (375, 500), 112, np.random.default_rng(8).random((20000, 3))
    sides, places = collections.Counter(), set()
    for each in draws:
        left, top, right, bottom = boxes.scale_crop_box(shape, each, size)
        side = 256 + math.floor(225 * each[0])  # of the short side, for crops of 224
        sides[side] += 1
        h, w = round(side / 2), round(round(side / 2) * 500 / 375)  # after resizing
        y, x = math.floor(each[1] * (h - size + 1)), math.floor(each[2] * (w - size + 1))
        places.add((y == 0, y == h - size, x == 0, x == w - size))
        expected = (x / w * 500, y / h * 375, (x + size) / w * 500, (y + size) / h * 375)
        np.testing.assert_allclose((left, top, right, bottom), expected, rtol=1e-12)
        assert 0 <= left < right <= 500
        assert 0 <= top < bottom <= 375
    assert (min(sides), max(sides)) == (256, 480)
    assert all(abs(count - 20000 / 225) < 6 * (20000 / 225) ** 0.5 for count in sides.values())
    assert len(places) >= 8  # all corners and borders


@pytest.mark.parametrize(("size", "least", "greatest"), [(224, 256, 480), (32, 37, 69)])
def test_short_sides_of_scaled_crops(size, least, greatest):
    """The box is `size` of the resized image; its short side was 300."""
    for uniform, side in ((0, least), (1 - 1e-9, greatest)):
        left, top, right, bottom = boxes.scale_crop_box((300, 400), np.array([uniform, 0, 1 - 1e-9]), size)
        assert (top, right) == (0, 400)
        assert bottom * side == pytest.approx(300 * size)
        assert 400 - left == pytest.approx(400 * size / round(side * 4 / 3))
