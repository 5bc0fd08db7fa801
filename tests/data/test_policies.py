"""Augmentation policies against their definitions, written out in NumPy."""

import collections

import numpy as np
import pytest
from PIL import Image

from resjax.data.augment.policies import MEAN_COLOUR, apply, draw, policy
from resjax.data.order import Share
from resjax.errors import BadInput

TIMM, TORCHVISION, TRIVIAL = "rand-m7-mstd0.5-inc1", "torchvision-rand-n2-m9", "trivial-wide"
HEIGHT, WIDTH = 24, 19


def picture():
    """Smooth, so that no rounding moves a pixel far; no channel has all values, so that tones change."""
    coarse = np.random.default_rng(1).integers(30, 220, (5, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


# The definitions: of pixels and of tones.


def affine(x, source, fill, cubic=False):
    """Output pixel (x, y), at (x + 1/2, y + 1/2), comes from `source` of that; the border goes on outwards."""
    height, width, _ = x.shape
    rows, columns = np.mgrid[:height, :width] + 0.5
    left, top = np.broadcast_arrays(*source(columns, rows))
    x0, y0 = np.floor(left - 0.5).astype(int), np.floor(top - 0.5).astype(int)
    result = np.zeros(x.shape)
    for i in range(-1, 3) if cubic else range(2):
        for j in range(-1, 3) if cubic else range(2):
            weight = kernel(left - 0.5 - x0 - i, cubic) * kernel(top - 0.5 - y0 - j, cubic)
            result += weight[..., None] * x[np.clip(y0 + j, 0, height - 1), np.clip(x0 + i, 0, width - 1)]
    inside = (left >= 0) & (left < width) & (top >= 0) & (top < height)
    return np.where(inside[..., None], np.clip(result, 0, 255), fill)


def kernel(d, cubic):
    """Bilinear, or Keys' cubic convolution with a = -1, Pillow's parameter for transformations."""
    d = abs(d)
    if not cubic:
        return 1 - d
    return np.where(d <= 1, d**3 - 2 * d**2 + 1, -(d**3) + 5 * d**2 - 8 * d + 4)


def turn(degrees):
    """Source of a turn to the left about the centre."""
    angle, cx, cy = np.radians(degrees), WIDTH / 2, HEIGHT / 2

    def source(x, y):
        x, y = x - cx, y - cy
        return x * np.cos(angle) - y * np.sin(angle) + cx, x * np.sin(angle) + y * np.cos(angle) + cy

    return source


def grey(x):
    return np.floor(x.astype(float) @ [19595, 38470, 7471] / 65536 + 0.5)[..., None]


def blend(x, other, factor):
    return np.clip(other + factor * (x.astype(float) - other), 0, 255)


def smooth(x):
    """The middle pixel weighs 5, its neighbours 1; the border stays."""
    result = x.astype(float)
    for row in range(1, HEIGHT - 1):
        for column in range(1, WIDTH - 1):
            around = x[row - 1 : row + 2, column - 1 : column + 2].astype(float)
            result[row, column] = np.floor((around.sum((0, 1)) + 4 * around[1, 1]) / 13 + 0.5)
    return result


def stretch(x):
    x = x.astype(float)
    low, high = x.min((0, 1)), x.max((0, 1))
    return np.floor((x - low) * 255 / (high - low) + 1e-6)


def equalize(x):
    result = np.empty(x.shape)
    for c in range(3):
        counts = np.bincount(x[..., c].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        below = np.cumsum(counts) - counts
        table = np.minimum(255, (step // 2 + below) // step) if step else np.arange(256)
        result[..., c] = table[x[..., c]]
    return result


def solarize(x, threshold):
    return np.where(x < threshold, x, 255 - x.astype(float))


def posterize(x, bits):
    return x.astype(float) // 2 ** (8 - bits) * 2 ** (8 - bits)


def tones(most):
    """Of strength s in [-1, 1]."""
    return {
        "Color": lambda x, s: blend(x, grey(x), 1 + most * s),
        "Contrast": lambda x, s: blend(x, np.floor(grey(x).mean() + 0.5), 1 + most * s),
        "Brightness": lambda x, s: blend(x, 0, 1 + most * s),
        "Sharpness": lambda x, s: blend(x, smooth(x), 1 + most * s),
        "AutoContrast": lambda x, s: stretch(x),
        "Equalize": lambda x, s: equalize(x),
    }


def timm(cubic):
    def moved(source):
        return lambda x, s: affine(x, source(s), MEAN_COLOUR, cubic)

    return tones(0.9) | {
        "Invert": lambda x, s: 255 - x.astype(float),
        "Rotate": moved(lambda s: turn(30 * s)),
        "Posterize": lambda x, s: posterize(x, 4 - int(abs(s) * 4)),
        "Solarize": lambda x, s: solarize(x, 256 - int(abs(s) * 256)),
        "SolarizeAdd": lambda x, s: np.where(x < 128, np.minimum(255, x.astype(float) + int(abs(s) * 110)), x),
        "ShearX": moved(lambda s: lambda x, y: (x + 0.3 * s * y, y)),
        "ShearY": moved(lambda s: lambda x, y: (x, y + 0.3 * s * x)),
        "TranslateX": moved(lambda s: lambda x, y: (x + 0.45 * s * WIDTH, y)),
        "TranslateY": moved(lambda s: lambda x, y: (x, y + 0.45 * s * HEIGHT)),
    }


def torchvision(shear, across, down, degrees, tone, bits):
    def moved(source):
        return lambda x, s: affine(x, source(s), 0)

    return tones(tone) | {
        "Identity": lambda x, s: x,
        "ShearX": moved(lambda s: lambda x, y: (x + shear * s * y, y)),
        "ShearY": moved(lambda s: lambda x, y: (x, y + shear * s * x)),
        "TranslateX": moved(lambda s: lambda x, y: (x - int(across * s), y)),
        "TranslateY": moved(lambda s: lambda x, y: (x, y - int(down * s))),
        "Rotate": moved(lambda s: turn(degrees * s)),
        "Posterize": lambda x, s: posterize(x, 8 - round(abs(s) * bits)),
        "Solarize": lambda x, s: solarize(x, 255 - 8.5 * round(abs(s) * 30)),
    }


DEFINED = {
    (TIMM, 0): timm(cubic=False),
    (TIMM, 1): timm(cubic=True),
    (TORCHVISION, 0): torchvision(0.3, WIDTH * 150 / 331, HEIGHT * 150 / 331, 30, 0.9, 4),
    (TRIVIAL, 0): torchvision(0.99, 32, 32, 135, 0.99, 6),
}
WHOLE = ("Identity", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd")  # no fractions occur


@pytest.mark.parametrize(("name", "which"), DEFINED)
def test_every_operation_is_as_defined(name, which):
    made, defined, x = policy(name), DEFINED[name, which], picture()
    assert set(made.ops) == set(defined)
    for i, operation in enumerate(made.ops):
        for magnitude in (0, 7, 9, 17, 23, made.strongest):
            for sign in (1, -1):
                level = sign * min(magnitude / made.strongest, 1)
                ours = apply(x, made, np.array([i]), np.array([level]), np.array([which]))
                expected = defined[operation](x, level)
                allowed = 0 if operation in WHOLE else 1
                off = np.abs(ours.astype(float) - expected)
                assert ours.dtype == np.uint8
                assert off.max() <= allowed, (operation, level, off.max())


def test_operations_follow_each_other_and_none_leaves_the_image():
    made, x = policy(TIMM), picture()
    names = list(made.ops)
    both = np.array([names.index("Invert"), names.index("Solarize")])
    ours = apply(x, made, both, np.array([0.7, 0.7]), np.array([0, 0]))
    np.testing.assert_array_equal(ours, solarize(255 - x, 256 - 179))
    np.testing.assert_array_equal(apply(x, made, np.array([-1, -1]), np.ones(2), np.array([0, 1])), x)


def pinned(count, draws, probability):
    """An event of that probability came as often as it must, to six standard deviations."""
    deviation = (draws * probability * (1 - probability)) ** 0.5
    return abs(count - draws * probability) <= 6 * deviation


@pytest.mark.parametrize(
    ("name", "operations", "count", "probability"),
    [(TIMM, 15, 2, 0.5), ("rand-m5-n3-inc1", 15, 3, 0.5), (TORCHVISION, 14, 2, 1), (TRIVIAL, 14, 1, 1)],
)
def test_each_operation_comes_as_often(name, operations, count, probability):
    rows = 20000
    drawn = draw(Share.of(rows), policy(name), np.random.default_rng(0))
    assert drawn["policy_op"].shape == drawn["policy_level"].shape == (rows, count)
    seen = collections.Counter(drawn["policy_op"].ravel().tolist())
    assert set(seen) == set(range(operations)) | ({-1} if probability < 1 else set())
    for i in range(operations):
        assert pinned(seen[i], rows * count, probability / operations)
    assert pinned(seen[-1], rows * count, 1 - probability)
    negative = drawn["policy_level"] < 0
    assert pinned(negative.sum(), negative.size, 0.5)
    # Nothing tells anything of anything else: positions, signs and filters.
    if count > 1:
        same = drawn["policy_op"][:, 0] == drawn["policy_op"][:, 1]
        assert pinned(same.sum(), rows, (1 - probability) ** 2 + probability**2 / operations)
        assert pinned((negative[:, 0] & negative[:, 1]).sum(), rows, 0.25)
    bicubic = drawn["policy_filter"] == 1
    assert pinned((bicubic & negative).sum(), bicubic.size, 0.25 if operations == 15 else 0)


def levels(name):
    return np.abs(draw(Share.of(30000), policy(name), np.random.default_rng(0))["policy_level"])


def test_levels():
    normal = levels(TIMM)
    assert abs(normal.mean() - 0.7) < 6 * 0.05 / normal.size**0.5
    assert abs(normal.std() - 0.05) < 6 * 0.05 / (2 * normal.size) ** 0.5
    clipped = levels("rand-m9-mstd1-inc1")
    assert clipped.max() == 1
    assert pinned((clipped == 1).sum(), clipped.size, 0.158655)  # beyond one deviation
    assert set(levels("rand-m6-inc1").ravel()) == {0.6}
    assert set(levels(TORCHVISION).ravel()) == {9 / 30}
    counts = collections.Counter(np.round(levels(TRIVIAL).ravel() * 30, 9).tolist())
    assert set(counts) == set(range(31))
    assert all(pinned(count, 30000, 1 / 31) for count in counts.values())


def test_a_row_does_not_depend_on_who_reads_it():
    whole = draw(Share.of(12), policy(TIMM), np.random.default_rng(4))
    part = draw(Share.of(12, np.array([3, 8])), policy(TIMM), np.random.default_rng(4))
    for key, value in whole.items():
        np.testing.assert_array_equal(part[key], value[[3, 8]])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rand-m7", "data.policy='rand-m7' is none that is known: give one such as rand-m7-mstd0.5-inc1"),
        ("rand-m" + "9" * 5000 + "-inc1", "is none that is known"),
        ("rand-m٣-inc1", "is none that is known"),
        ("rand-m11-inc1", "data.policy='rand-m11-inc1': magnitude 11 is beyond full strength: use at most m10"),
        ("torchvision-rand-n2-m31", "magnitude 31 is beyond full strength: use at most m30"),
        ("torchvision-rand-n0-m9", "use n1 to n10"),
        ("rand-m5-mstd11-inc1", "at most mstd10"),
    ],
)
def test_unknown_policies(name, message):
    with pytest.raises(BadInput) as caught:
        policy(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
