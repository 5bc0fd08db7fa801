"""JPEGs, decoded whole or to fewer pixels: libjpeg-turbo can leave out high frequencies, and is faster then."""

from collections.abc import Callable

import numpy as np

START = b"\xff\xd8"
# Photos scaled to 6/8 and 7/8 take longer than whole ones: the inverse DCT is only fast for 1, 2, 4 and 8 eighths.
LEAST_REDUCTION = 1.5

Shape = tuple[int, int]  # height, width
# The shape of a photo -> the least that it may be decoded to.
Least = Callable[[Shape], Shape]
# The same by its row among photos that are read together, and its shape.
LeastOf = Callable[[int, Shape], Shape]


def decode(encoded: bytes, least: Least | None = None) -> np.ndarray:
    """A JPEG -> uint8 [H, W, 3], RGB; grey becomes RGB.

    Args:
        least: chooses a scale, of n/8 for n in 1 ... 5 and 8: the smallest that keeps both sides at least as long.
            A side of x pixels has ceil(x n / 8) then. None, or a shape beyond 5/8 of the photo, keeps all pixels.

    Raises:
        ValueError: for CMYK, and for what is damaged.
    """
    import simplejpeg

    if least is None:
        return simplejpeg.decode_jpeg(encoded, "RGB")
    height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
    h, w = least((height, width))
    if h > height or w > width:  # no scale is enough
        return simplejpeg.decode_jpeg(encoded, "RGB")
    return simplejpeg.decode_jpeg(encoded, "RGB", min_height=h, min_width=w, min_factor=LEAST_REDUCTION)
