"""What becomes of an encoded image on its way into a set."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from resjax.data import jpeg, photo

TURNED = 95  # quality of a JPEG that has to be turned or brought to RGB
KEPT = ("JPEG", "MPO", "PNG")  # MPO is what phones write: a JPEG with more pictures behind it


@dataclass(frozen=True)
class Shrink:
    """Every image becomes a JPEG of `quality`, its longer side at most `max_side` pixels; 0: they stay as they are.

    Larger images are resized with Pillow's bicubic filter, which antialiases; others keep their size.
    """

    max_side: int
    quality: int

    @property
    def config(self) -> str:
        """The name of the config of a set that is made so, which tells it from the set as published."""
        return f"side{self.max_side}_q{self.quality}" if self.max_side else ""

    @property
    def text(self) -> str:
        """What the metadata say of it."""
        if not self.max_side:
            return ""
        return (
            f"Every image was encoded anew as a JPEG of quality {self.quality}, its longer side at most "
            f"{self.max_side} pixels (Pillow's bicubic filter, antialiased)."
        )

    def apply(self, pixels: np.ndarray) -> bytes:
        """uint8 [H, W, 3] -> the file."""
        image = Image.fromarray(pixels)
        image.thumbnail((self.max_side, self.max_side), Image.Resampling.BICUBIC, reducing_gap=None)
        return _encoded(image, "JPEG", quality=self.quality)


def treated(shrink: Shrink, data: bytes) -> bytes:
    """A photo of one's own as it becomes part of a set: upright, and encoded anew if it is to be.

    Raises:
        Exception: of many kinds, for an image that is damaged.
    """
    return shrink.apply(photo.decode(data)) if shrink.max_side else upright(data)


def rgb_jpeg(data: bytes) -> bytes:
    """Any image as an RGB JPEG of quality 100, by which TFDS replaces what is none."""
    with Image.open(io.BytesIO(data)) as image:
        return _encoded(image.convert("RGB"), "JPEG", quality=100)


def upright(data: bytes) -> bytes:
    """An image that every reader shows alike: a JPEG or PNG as it is, if it is upright and of 8 bits, RGB or grey.

    Another JPEG is turned as its EXIF data says, and encoded again as RGB at quality 95. An image in another
    format, or with a palette, transparency or 16 bits, becomes a PNG of the pixels that `photo.decode` gives.

    Raises:
        Exception: of many kinds, for an image that is damaged.
    """
    with Image.open(io.BytesIO(data)) as image:
        usual = image.format in KEPT and image.mode in ("RGB", "L") and "transparency" not in image.info
        held = photo.jpeg_orientation(data) if data[:2] == jpeg.START else photo.orientation(image)
    if usual and held not in photo.TURN:
        return data
    decoded = Image.fromarray(photo.decode(data))
    if data[:2] == jpeg.START:
        return _encoded(decoded, "JPEG", quality=TURNED, subsampling=0)
    return _encoded(decoded, "PNG")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
