"""What the policies do to an image: shears, shifts, turns, tones and colours of an RGB image of Pillow.

Those with a strength take that of level 1 and give an `Op`. The level lies in [-1, 1]: its size says how much,
its sign which way, where there are two ways.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image, ImageEnhance, ImageOps


class Fabric(NamedTuple):
    """How pixels between and beyond those of an image are made: a filter, and an RGB colour."""

    resample: Image.Resampling
    fill: tuple[int, int, int]


Op = Callable[[Image.Image, float, Fabric], Image.Image]


def shear_x(most: float) -> Op:
    """Output pixel (x, y) comes from (x + level * most * y, y)."""
    return lambda image, level, fabric: _affine(image, (1, level * most, 0, 0, 1, 0), fabric)


def shear_y(most: float) -> Op:
    """Output pixel (x, y) comes from (x, y + level * most * x)."""
    return lambda image, level, fabric: _affine(image, (1, 0, 0, level * most, 1, 0), fabric)


def shift_x(most: float) -> Op:
    """To the left, by a share of the width and not by whole pixels."""
    return lambda image, level, fabric: _affine(image, (1, 0, level * most * image.width, 0, 1, 0), fabric)


def shift_y(most: float) -> Op:
    """Upwards, by a share of the height and not by whole pixels."""
    return lambda image, level, fabric: _affine(image, (1, 0, 0, 0, 1, level * most * image.height), fabric)


def move_x(pixels: float = 0, share: float = 0) -> Op:
    """To the right, by so many pixels, or by a share of the width; whole pixels, rounded towards 0."""

    def change(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
        return _affine(image, (1, 0, -int(level * (pixels or share * image.width)), 0, 1, 0), fabric)

    return change


def move_y(pixels: float = 0, share: float = 0) -> Op:
    """Downwards, by so many pixels, or by a share of the height; whole pixels, rounded towards 0."""

    def change(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
        return _affine(image, (1, 0, 0, 0, 1, -int(level * (pixels or share * image.height))), fabric)

    return change


def rotate(most: float) -> Op:
    """About the centre, anticlockwise, in degrees."""
    return lambda image, level, fabric: image.rotate(level * most, fabric.resample, fillcolor=fabric.fill)


def enhance(kind: Any, most: float) -> Op:
    """Blends with an image that lacks something, of a class of ImageEnhance; more of it for positive levels."""
    return lambda image, level, fabric: kind(image).enhance(1 + level * most)


def brightness(most: float) -> Op:
    return enhance(ImageEnhance.Brightness, most)


def colour(most: float) -> Op:
    return enhance(ImageEnhance.Color, most)


def contrast(most: float) -> Op:
    return enhance(ImageEnhance.Contrast, most)


def sharpness(most: float) -> Op:
    return enhance(ImageEnhance.Sharpness, most)


def posterize(bits: Callable[[float], int]) -> Op:
    """Keeps the leading bits of a value, as `bits` says for the size of the level; keeping none is black."""
    # Of Pillow's own, some versions refuse to keep none.
    return lambda image, level, fabric: _by_value(image, lambda value: value & -(1 << 8 - bits(abs(level))))


def solarize(threshold: Callable[[float], float]) -> Op:
    """Inverts values from a threshold on, which follows from the size of the level."""

    def change(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
        lowest = threshold(abs(level))
        return _by_value(image, lambda value: value if value < lowest else 255 - value)

    return change


def solarize_add(most: float) -> Op:
    """Adds to values below 128, up to 255; a whole number, rounded down."""

    def change(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
        more = int(abs(level) * most)
        return _by_value(image, lambda value: min(255, value + more) if value < 128 else value)

    return change


def autocontrast(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
    """Each channel from 0 to 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
    """Each channel's values equally often, as far as that goes."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
    return ImageOps.invert(image)


def identity(image: Image.Image, level: float, fabric: Fabric) -> Image.Image:
    return image


def _affine(image: Image.Image, source: tuple[float, ...], fabric: Fabric) -> Image.Image:
    """Output pixel (x, y) comes from (a x + b y + c, d x + e y + f) for source (a, b, c, d, e, f)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, source, resample=fabric.resample, fillcolor=fabric.fill
    )


def _by_value(image: Image.Image, change: Callable[[int], int]) -> Image.Image:
    """The same function of its value for every pixel and channel."""
    return image.point([change(value) for value in range(256)] * 3)
