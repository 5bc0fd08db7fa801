"""Pictures as people give them -> pixels as a network takes them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from resjax import paths
from resjax.data import jpeg, photo
from resjax.errors import BadInput

# A file, pixels uint8 [H, W], [H, W, 1] or [H, W, 3], or an image of Pillow.
Picture = str | os.PathLike[str] | np.ndarray | Image.Image


def named(picture: Picture) -> str:
    """What a message calls a picture."""
    return paths.short(os.fspath(picture)) if isinstance(picture, str | os.PathLike) else "an image"


def pixels(picture: Picture, channels: int, least: jpeg.Least | None) -> tuple[np.ndarray, jpeg.Shape]:
    """An upright picture uint8 [H, W, C], grey or RGB, and the shape of the photo: [H, W] may be smaller.

    Args:
      channels: C, 1 or 3.
      least: by which a JPEG may be decoded to fewer pixels.

    Raises:
      BadInput: for a picture that cannot be read.
    """
    whole: jpeg.Shape | None = None

    def noted(shape: jpeg.Shape) -> jpeg.Shape:
        nonlocal whole
        whole = shape
        assert least is not None
        return least(shape)

    found = _array(picture) if isinstance(picture, np.ndarray) else _decoded(picture, noted if least else None)
    if found.shape[-1] > channels:
        found = np.asarray(Image.fromarray(found).convert("L"))[..., None]
    elif found.shape[-1] < channels:
        found = np.repeat(found, channels, axis=-1)
    return found, whole or found.shape[:2]


def _array(given: np.ndarray) -> np.ndarray:
    found = given[..., None] if given.ndim == 2 else given
    if given.dtype != np.uint8 or found.ndim != 3 or found.shape[-1] not in (1, 3) or not given.size:
        raise BadInput(
            f"an image is {given.dtype} {list(given.shape)}: must be uint8 [H, W], [H, W, 1] or [H, W, 3]"
        )
    return found


def _decoded(picture: str | os.PathLike[str] | Image.Image, least: jpeg.Least | None) -> np.ndarray:
    try:
        if isinstance(picture, Image.Image):
            return photo.upright(picture)
        return photo.decode(_content(Path(picture)), least)
    except BadInput:
        raise
    except UnidentifiedImageError as error:
        raise BadInput(f"{named(picture)} is not a picture") from error
    except Exception as error:  # the decoders raise whatever they please
        raise BadInput(f"{named(picture)} cannot be read: {paths.one_line(error)[:100]}") from error


def _content(path: Path) -> bytes:
    """The bytes of a file; not of a pipe or a device, which might never end."""
    if not path.is_file():
        raise BadInput(f"{named(path)}: {'is no file' if path.exists() else 'there is no such file'}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{named(path)} cannot be read: {error.strerror}") from error


def check_list(images: Any) -> None:
    """Raises BadInput for one image where a sequence of them is meant."""
    if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise BadInput("images is one image: give a list of images, or an array [N, H, W, C]")
