"""A photo from a file of one's own -> pixels as a person sees them."""

import io
from typing import Any

import numpy as np
from PIL import Image

from resjax.data import jpeg

# What a camera's EXIF says of how it was held: the orientation -> that of the pixels as they are stored.
ORIENTATION = 0x0112
TURN = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
LYING = (5, 6, 7, 8)  # height and width are exchanged


def decode(encoded: bytes, least: jpeg.Least | None = None) -> np.ndarray:
    """An encoded photo -> uint8 [H, W, 3], turned as its EXIF says.

    Grey, palettes and CMYK become RGB. Transparency is dropped, as Pillow's `convert("RGB")` does: a pixel that is
    seen through has the colour that is stored for it. Of 16 bits the upper 8 count. Of an animation it is the first
    picture.

    Args:
        least: by which a JPEG may have fewer pixels, see `jpeg.decode`; of the upright photo.

    Raises:
        Exception: whatever the decoders raise for what is not a whole picture.
    """
    if encoded[:2] == jpeg.START:
        held = jpeg_orientation(encoded)
        try:
            return turned(jpeg.decode(encoded, _lying(least) if least and held in LYING else least), held)
        except ValueError:
            pass  # CMYK, or damaged: Pillow decides which
    with Image.open(io.BytesIO(encoded)) as image:
        return upright(image)


def upright(image: Image.Image) -> np.ndarray:
    """An image of Pillow -> uint8 [H, W, 3], as `decode` has it; raises what Pillow does for a damaged one."""
    pixels = _rgb(image)  # before its EXIF is read: Pillow itself turns TIFF, and says so there
    return turned(pixels, orientation(image))


def _lying(least: jpeg.Least) -> jpeg.Least:
    """The same choice for the pixels of a photo as they are stored, whose height is its width."""
    return lambda shape: least(shape[::-1])[::-1]


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, C] of a camera that was held as EXIF's `orientation` says -> upright [H', W', C]."""
    return np.ascontiguousarray(TURN[orientation](pixels)) if orientation in TURN else pixels


def jpeg_orientation(encoded: bytes) -> int:
    """The orientation in a JPEG's EXIF; 1 if there is none, or none that can be read."""
    start = encoded.find(b"Exif\0\0", 0, 2**16) + 6
    if start < 6:
        return 1
    order: Any = "little" if encoded[start : start + 2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(encoded[start + at : start + at + size], order)

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * min(100, number(directory, 2)), 12):
        if number(entry, 2) == ORIENTATION:
            return number(entry + 8, 2)
    return 1


def orientation(image: Image.Image) -> int:
    """What the EXIF of an open image says; 1 if there is none, or none that can be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF, for which Pillow raises whatever it pleases
        return 1


def _rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]."""
    if image.mode == "F":
        raise ValueError("its pixels are fractions, whose range is not known")
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.clip(np.asarray(image), 0, 2**16 - 1) >> 8).astype(np.uint8))
    image.info.pop("transparency", None)  # of which Pillow would warn that it is dropped
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
