"""Sources of records (random access: positions of a split -> images and labels), and the sets that are built in."""

import functools
import gzip
import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from resjax.data import jpeg
from resjax.data.listing import Listing
from resjax.data.splits import Slice
from resjax.errors import BadInput

LARGEST_SYNTHETIC = 1024  # pixels of a side

# Sets of fixed shape are kept decoded in memory up to this many bytes over the splits in use.
MEMORY_LIMIT = 10**9


class Records(Protocol):
    """The records of one slice of a split."""

    def __len__(self) -> int: ...

    def read(
        self, positions: np.ndarray, least: jpeg.LeastOf | None = None
    ) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        """Positions [B] in 0 <= position < len -> B uint8 images [H, W, C] and labels int32 [B].

        Args:
            least: by which JPEGs of photos may be decoded to fewer pixels; other records are read whole.
        """


def read(
    records: Records, positions: np.ndarray, least: jpeg.LeastOf | None = None
) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray, list[jpeg.Shape] | None]:
    """Images and labels as `records.read` gives them, and the shapes that photos had before they were scaled.

    The shapes are None without `least`: images have all their pixels then.
    """
    if least is None:
        return *records.read(positions), None
    scaled: dict[int, jpeg.Shape] = {}

    def noted(row: int, shape: jpeg.Shape) -> jpeg.Shape:
        scaled[row] = shape
        return least(row, shape)

    images, labels = records.read(positions, noted)
    return images, labels, [scaled.get(row, image.shape[:2]) for row, image in enumerate(images)]


@runtime_checkable
class Compressed(Records, Protocol):
    """Records whose images are decoded whenever they are read."""

    def encoded(self, positions: np.ndarray) -> list[bytes]:
        """Positions [B] -> B images as they are stored, such as JPEGs."""


@dataclass(frozen=True)
class Source:
    """A data set before any processing.

    Attributes:
        sizes: number of records in every stored split.
        image_shape: (H, W, C) of every image, or None where they differ in size; those are read as RGB.
        class_names: in label order, or empty if the set has none.
        open: a slice -> its records, not yet decoded.
        listing: of a folder, its files, to be saved with the run.
        notes: what a person should know about the set, a line each.
    """

    name: str
    sizes: dict[str, int]
    image_shape: tuple[int, int, int] | None
    num_classes: int
    class_names: tuple[str, ...]
    open: Callable[[Slice], Records]
    listing: Listing | None = None
    notes: tuple[str, ...] = ()

    def fits_in_memory(self, records: int) -> bool:
        """Whether so many decoded records are small enough to be kept in memory."""
        return self.image_shape is not None and records * math.prod(self.image_shape) <= MEMORY_LIMIT

    def load(self, part: Slice) -> "InMemory":
        """A slice decoded into memory, for a set whose images have one shape."""
        records = self.open(part)
        if isinstance(records, InMemory):
            return records
        assert self.image_shape is not None
        images = np.empty((len(part), *self.image_shape), np.uint8)
        labels = np.empty(len(part), np.int32)
        for start in range(0, len(part), 1024):  # the encoded set is never in memory as a whole
            positions = np.arange(start, min(start + 1024, len(part)))
            images[positions], labels[positions] = records.read(positions)
        return InMemory(images, labels)


@dataclass(frozen=True)
class InMemory:
    """Decoded records: images uint8 [N, H, W, C], labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes

    def read(self, positions: np.ndarray, least: jpeg.LeastOf | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self.images[positions], self.labels[positions]


def digits() -> Source:
    """The 1,797 handwritten digits that come with scikit-learn: 8 x 8 x 1, grey values 0..16.

    The split is fixed and stratified (see `digits_test_mask`): 1,437 records in 'train', 360 in 'test'.

    Raises:
        BadInput: if scikit-learn is not installed.
    """
    path = digits_file()

    def make() -> dict[str, InMemory]:
        images, labels = read_digits(path)
        test = digits_test_mask(labels)
        return {"train": InMemory(images[~test], labels[~test]), "test": InMemory(images[test], labels[test])}

    sizes = {"train": 1437, "test": 360}
    return Source("digits", sizes, (8, 8, 1), 10, tuple("0123456789"), _opener(make))


def synthetic(image_size: int) -> Source:
    """Random images for benchmarks, the same in every process: 1,024 for training and 256 for testing.

    Their side is `image_size` (32 if 0); there are 1,000 classes at 224 and 10 at any other size.

    Raises:
        BadInput: for a side at which they would take more than 4 GB.
    """
    side = image_size or 32
    if side > LARGEST_SYNTHETIC:
        raise BadInput(
            f"data.image_size={side}: synthetic images of that size do not fit in memory: use at most "
            f"{LARGEST_SYNTHETIC}"
        )
    num_classes = 1000 if side == 224 else 10
    sizes = {"train": 1024, "test": 256}

    def make() -> dict[str, InMemory]:
        rng = np.random.default_rng(0)
        splits = {}
        for split, size in sizes.items():
            images = rng.integers(0, 256, (size, side, side, 3), np.uint8)
            splits[split] = InMemory(images, rng.integers(0, num_classes, size, np.int32))
        return splits

    return Source("synthetic", sizes, (side, side, 3), num_classes, (), _opener(make))


def _opener(make: Callable[[], dict[str, InMemory]]) -> Callable[[Slice], InMemory]:
    """Opens slices of splits that are all made when the first slice is opened."""
    splits = functools.cache(make)

    def open_slice(part: Slice) -> InMemory:
        whole = splits()[part.base]
        return InMemory(whole.images[part.start : part.stop], whole.labels[part.start : part.stop])

    return open_slice


def digits_file() -> Path:
    """scikit-learn's file, found without importing scikit-learn, which would take two seconds.

    Raises:
        BadInput: if scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput("data.name='digits' is read from scikit-learn: pip install scikit-learn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def read_digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8, 1] and labels int32 [1797], in scikit-learn's order."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].astype(np.uint8).reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)


def digits_test_mask(labels: np.ndarray) -> np.ndarray:
    """Which digits are for testing: bool [1797], 360 of them.

    Every fifth record is taken, sorted by class and in stored order within a class. So each class gives a fifth of
    its records, to within one, and no random generator is involved, which could change.
    """
    mask = np.zeros(len(labels), bool)
    mask[np.argsort(labels, kind="stable")[::5]] = True
    return mask


def decode_image(encoded: bytes, channels: int, least: jpeg.Least | None = None) -> np.ndarray:
    """Encoded image -> uint8 [H, W, channels]; grey and CMYK become RGB when channels is 3.

    simplejpeg (libjpeg-turbo) decodes JPEG; Pillow decodes other formats and the JPEGs that simplejpeg refuses.

    Args:
        least: as in `jpeg.decode`; what Pillow decodes keeps all pixels.
    """
    if channels == 3 and encoded[:2] == jpeg.START:
        try:
            return jpeg.decode(encoded, least)
        except ValueError:
            pass  # CMYK, or damaged: Pillow decides which
    with Image.open(io.BytesIO(encoded)) as image:
        mode = "RGB" if channels == 3 else "L"
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)
