"""What turns stored pixels into network input; weights are worthless without it, so it is saved with them."""

import base64
import binascii
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from resjax.data.jpeg import LeastOf, Shape
from resjax.errors import BadInput

# One array if all images have one size, else a list of them.
Images = Sequence[np.ndarray] | np.ndarray

Box = tuple[float, float, float, float]  # left, top, right, bottom

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Of photos that are JPEGs: all their pixels, or no more than a view needs.
DECODINGS = ("full", "scaled")

# Published single-crop results resize the short side to 256 and keep the central 224.
CROP_SHARE = 224 / 256


@dataclasses.dataclass(frozen=True, eq=False)
class Preprocessing:
    """Stored pixels -> network input, fixed when a run starts.

    Two are equal if all their fields are, to the last bit.

    Attributes:
        mean: float32 [C], or a whole mean image [H, W, C], in the units of the stored pixels.
        std: float32, scalar or [C].
        size: side of the square input in pixels; 0 takes images as they are stored.
        crop_share: side of the central crop as a share of the resized short side; used if `size` is not 0.
        interpolation: of resizing, a key of INTERPOLATIONS.
        class_names: in label order, or empty if the classes have no names.
        decode: one of DECODINGS; 'scaled' decodes JPEGs at the smallest scale of `jpeg.decode` at which the part of
            a photo that a view shows is at least as large as the view.
    """

    mean: np.ndarray
    std: np.ndarray
    size: int = 0
    crop_share: float = CROP_SHARE
    interpolation: str = "bilinear"
    class_names: tuple[str, ...] = ()
    decode: str = "full"

    def __post_init__(self) -> None:
        """Raises ValueError for values that cannot work."""
        if self.mean.dtype != np.float32 or self.mean.ndim not in (1, 3) or not self.mean.size:
            raise ValueError(f"mean is {self.mean.dtype} {list(self.mean.shape)}, not float32 [C] or [H, W, C]")
        if self.std.dtype != np.float32 or self.std.shape not in ((), self.mean.shape[-1:]):
            raise ValueError(
                f"std is {self.std.dtype} {list(self.std.shape)}, not float32 for {self.channels} channels"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise ValueError("mean or std is not finite, or std is not positive")
        if type(self.size) is not int or self.size < 0 or (self.size and self.mean.ndim == 3):
            raise ValueError(f"size={self.size!r} is not a side in pixels, or not 0 beside a mean image")
        if type(self.crop_share) is not float or not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share={self.crop_share!r} is not a share in (0, 1]")
        if self.interpolation not in tuple(INTERPOLATIONS):
            raise ValueError(f"interpolation={self.interpolation!r} is not {' or '.join(INTERPOLATIONS)}")
        if self.decode not in DECODINGS or (self.decode == "scaled" and not self.size):
            raise ValueError(f"decode={self.decode!r} is not {' or '.join(DECODINGS)}, or not 'full' beside size=0")
        if type(self.class_names) is not tuple or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError("class_names are not all text")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocessing) and self.json() == other.json()

    @property
    def channels(self) -> int:
        """C, the channels of an image."""
        return self.mean.shape[-1]

    def view(self, images: Images, shapes: Sequence[Shape] | None = None) -> np.ndarray:
        """The one fixed view, not yet normalised: B uint8 images [H, W, C] -> uint8 [B, H', W', C].

        The whole images, or their centres at `size`; `augment.device` normalises them.

        Args:
            shapes: of the photos, whose pixels may be fewer; None if they have all.
        """
        if not self.size:
            return np.asarray(images)
        return np.stack([self._centre(image, shape) for image, shape in with_shapes(images, shapes)])

    @property
    def least(self) -> LeastOf | None:
        """To what JPEGs may be decoded for the fixed view, see `sources.Records`; None for all their pixels."""
        return (lambda row, shape: self.resized(shape)) if self.decode == "scaled" else None

    def resized(self, shape: Shape) -> Shape:
        """What the fixed view resizes a photo of this shape to, before it crops."""
        scale = round(self.size / self.crop_share) / min(shape)
        height, width = (max(self.size, round(side * scale)) for side in shape)
        return height, width

    def _centre(self, image: np.ndarray, shape: Shape) -> np.ndarray:
        h, w = self.resized(shape)
        resized = resize(image, (0, 0, image.shape[1], image.shape[0]), (w, h), self.interpolation)
        top, left = (h - self.size) // 2, (w - self.size) // 2
        return resized[top : top + self.size, left : left + self.size]

    def json(self) -> dict[str, Any]:
        """The fields as JSON values, exact to the last bit; a mean image of 32 x 32 x 3 takes 16 kB."""
        return {
            "mean": _plain(self.mean),
            "std": _plain(self.std),
            "size": self.size,
            "crop_share": self.crop_share,
            "interpolation": self.interpolation,
            "decode": self.decode,
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_json(cls, saved: Any, where: object = "preprocessing") -> "Preprocessing":
        """Reads what `json` returned.

        Args:
            where: where it comes from, for the message.

        Raises:
            BadInput: for anything else.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        try:
            if not isinstance(saved, dict):
                raise ValueError(f"it is a {type(saved).__name__}, not a dictionary")
            saved = {"decode": "full"} | saved  # which is how it was before there was a choice
            if odd := sorted(saved.keys() ^ set(fields)):
                raise ValueError(f"{odd[0]} is {'unknown' if odd[0] in saved else 'missing'}")
            if type(saved["class_names"]) is not list:
                raise ValueError("class_names is not a list")
            return cls(
                mean=_array(saved["mean"]),
                std=_array(saved["std"]),
                size=saved["size"],
                crop_share=saved["crop_share"],
                interpolation=saved["interpolation"],
                decode=saved["decode"],
                class_names=tuple(saved["class_names"]),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(f"{where} cannot be used ({error}): restore it from a copy") from error


def with_shapes(images: Images, shapes: Sequence[Shape] | None) -> Iterator[tuple[np.ndarray, Shape]]:
    """Each image with the shape of the photo that it is; None for images that have all their pixels."""
    for i, image in enumerate(images):
        yield image, shapes[i] if shapes else image.shape[:2]


def resize(image: np.ndarray, box: Box, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resizes box (left, top, right, bottom) of a uint8 image [H, W, C] to size (width, height).

    Pillow's filters average over the source pixels where they shrink (antialiasing). They see pixels beyond the
    box, so the result is a part of the whole image, resized.
    """
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(pixels).resize(size, INTERPOLATIONS[interpolation], box=box)
    return np.asarray(resized).reshape(size[1], size[0], image.shape[-1])


def _plain(values: np.ndarray) -> Any:
    """Numbers that people can read; a whole image as base64, which is also exact and a fifth as long."""
    if values.ndim < 3:
        return values.tolist()
    little_endian = values.astype("<f4").tobytes()
    return {"shape": list(values.shape), "float32": base64.b64encode(little_endian).decode()}


def _array(saved: Any) -> np.ndarray:
    """The inverse of `_plain`."""
    if not isinstance(saved, dict):
        numbers = saved if isinstance(saved, list) else [saved]
        if any(type(number) not in (int, float) for number in numbers):
            raise ValueError("mean or std holds something that is not a number")
        with np.errstate(over="ignore"):  # what is too large is not finite, which is refused
            return np.array(saved, np.float32)
    if saved.keys() != {"shape", "float32"}:
        raise ValueError("the mean image is not given as shape and float32")
    try:
        content = base64.b64decode(saved["float32"], validate=True)
        return np.frombuffer(content, "<f4").astype(np.float32).reshape([int(n) for n in saved["shape"]])
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"the mean image is cut or changed: {error}") from error
