"""Where records come from: random access, positions of a split -> images and labels."""

import difflib
import functools
import gzip
import importlib.util
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from resjax import paths
from resjax.data.splits import Slice
from resjax.errors import BadInput

LARGEST_SYNTHETIC = 1024  # pixels of a side

# Sets of fixed shape are kept decoded in memory up to this many bytes over the splits in use.
MEMORY_LIMIT = 10**9

PREPARED_HERE = ("cifar10", "cifar100")

# NAME[/CONFIG][:VERSION] of a TFDS set; both names are folders'.
NAME = re.compile(r"\w[\w.+-]{0,99}(/\w[\w.+-]{0,99})?(:[\w.]{1,20})?", re.ASCII)

# A set's features.json names the Python class of every feature, and TFDS imports the module of any that it does not
# know. These are its own for what may lie beside an image and its label.
FEATURES = frozenset(
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "audio_feature.Audio",
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "dataset_feature.Dataset",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "labeled_image.LabeledImage",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
        "translation_feature.Translation",
        "translation_feature.TranslationVariableLanguages",
        "video_feature.Video",
    )
)
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # the last of sets from before 2022


class Records(Protocol):
    """The records of one slice of a split."""

    def __len__(self) -> int: ...

    def read(self, positions: np.ndarray) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        """Positions [B] in 0 <= position < len -> B uint8 images [H, W, C] and labels int32 [B]."""


@dataclass(frozen=True)
class Source:
    """A data set before any processing.

    Attributes:
        sizes: number of records in every stored split.
        image_shape: (H, W, C) of every image, or None where they differ in size; those are read as RGB.
        class_names: in label order, or empty if the set has none.
        open: a slice -> its records, not yet decoded.
    """

    name: str
    sizes: dict[str, int]
    image_shape: tuple[int, int, int] | None
    num_classes: int
    class_names: tuple[str, ...]
    open: Callable[[Slice], Records]

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

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[positions], self.labels[positions]


def open_source(name: str, data_dir: str, image_size: int) -> Source:
    """Finds a data set by name: 'digits', 'synthetic', or a TFDS set prepared below `data_dir`. Reads no images.

    Raises:
        BadInput: for an unknown name, or a set that is not prepared in a form that can be read.
    """
    if name == "digits":
        return digits()
    if name == "synthetic":
        return synthetic(image_size)
    return prepared(name, data_dir)


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


@dataclass(frozen=True)
class Encoded:
    """Records of a TFDS set, decoded when they are read.

    Attributes:
        raw: TFDS data source of the whole split, giving serialised examples.
        features: the two TFDS features that are read, image and label.
        part: which records of the split.
        image_shape: as in Source.
    """

    name: str
    raw: Any
    features: Any
    part: Slice
    image_shape: tuple[int, int, int] | None
    num_classes: int

    def __len__(self) -> int:
        return len(self.part)

    def read(self, positions: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        rows = [self.part.start + position for position in positions.tolist()]
        try:
            serialised = self.raw.__getitems__(rows)
        except Exception:  # any reader error; which record is to blame shows when each is read alone
            serialised = [self._read_one(row) for row in rows]
        records = [self._decode(row, example) for row, example in zip(rows, serialised, strict=True)]
        return [image for image, _ in records], np.array([label for _, label in records], np.int32)

    def _read_one(self, row: int) -> bytes:
        try:
            return self.raw[row]
        except Exception as error:
            raise self._corrupted(row, error) from error

    def _decode(self, row: int, example: bytes) -> tuple[np.ndarray, int]:
        from tensorflow_datasets import decode

        try:
            record = self.features.deserialize_example_np(example, decoders={"image": decode.SkipDecoding()})
            image = decode_image(record["image"], self.image_shape[2] if self.image_shape else 3)
            label = int(record["label"])
            if self.image_shape and image.shape != self.image_shape:
                raise ValueError(f"an image of shape {image.shape}, not {self.image_shape}")
        except Exception as error:  # the parsers and decoders raise whatever they please
            raise self._corrupted(row, error) from error
        if not 0 <= label < self.num_classes:
            raise BadInput(
                f"data.name={self.name!r}: record {row} of split {self.part.base!r} has label {label}, outside its "
                f"{self.num_classes} classes: prepare the set again"
            )
        return image, label

    def _corrupted(self, row: int, error: Exception) -> BadInput:
        return BadInput(
            f"data.name={self.name!r}: record {row} of split {self.part.base!r} is corrupted ({_one_line(error)}): "
            "prepare the set again"
        )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def decode_image(encoded: bytes, channels: int) -> np.ndarray:
    """Encoded image -> uint8 [H, W, channels]; grey and CMYK become RGB when channels is 3.

    simplejpeg (libjpeg-turbo) decodes JPEG; Pillow decodes other formats and the JPEGs that simplejpeg refuses.
    """
    if channels == 3 and encoded[:2] == b"\xff\xd8":
        import simplejpeg

        try:
            return simplejpeg.decode_jpeg(encoded, "RGB")
        except ValueError:
            pass  # CMYK, or damaged: Pillow decides which
    with Image.open(io.BytesIO(encoded)) as image:
        mode = "RGB" if channels == 3 else "L"
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)


def prepared(name: str, data_dir: str) -> Source:
    """A set prepared by TFDS in ArrayRecord format, with an `image` and a `label` feature.

    Args:
        name: TFDS name, optionally with a version: 'cifar10', 'cifar10:3.0.2', 'imagenet_v2/matched-frequency'.
        data_dir: where TFDS keeps sets; '' is its default, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        BadInput: for a set that is not prepared, cannot be read, or is not for image classification.
    """
    root = paths.home("data.dir", data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    folder = _find_prepared(name, root)
    import tensorflow_datasets as tfds

    try:
        file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        for kind in _classes(json.loads((folder / "features.json").read_text())):
            if kind not in FEATURES:
                raise ValueError(f"its features.json names the class {paths.short(kind)}, which is not known here")
        builder = tfds.builder_from_directory(str(folder))
        features = builder.info.features
        sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    except Exception as error:
        raise BadInput(
            f"data.name={name!r}: {folder} cannot be read ({_one_line(error)}): prepare the set again"
        ) from error
    if file_format != "array_record":
        raise BadInput(
            f"data.name={name!r}: {folder} is stored as {file_format}, not array_record: "
            f"{_how_to_prepare(name, root)}"
        )
    if not (
        isinstance(features, tfds.features.FeaturesDict)
        and isinstance(dict(features.items()).get("image"), tfds.features.Image)
        and isinstance(dict(features.items()).get("label"), tfds.features.ClassLabel)
    ):
        raise BadInput(
            f"data.name={name!r} has no 'image' and 'label' to classify (its features: {', '.join(features)}): "
            "choose an image classification set"
        )
    height, width, channels = features["image"].shape
    if features["image"].np_dtype != np.uint8 or channels not in (1, 3, None):
        raise BadInput(f"data.name={name!r}: its images are not 8-bit grey or RGB: choose another set")
    shape = (height, width, channels) if height and width and channels else None
    label = features["label"]
    num_classes = label.num_classes
    names = tuple(label.names) if label.names and label.names != [str(i) for i in range(num_classes)] else ()
    wanted = tfds.features.FeaturesDict({"image": features["image"], "label": label})

    def open_slice(part: Slice) -> Encoded:
        raw = builder.as_data_source(part.base).data_source
        return Encoded(name, raw, wanted, part, shape, num_classes)

    return Source(name, sizes, shape, num_classes, names, open_slice)


def _classes(node: Any) -> Iterator[str]:
    """The Python classes that a features.json names, at any depth."""
    if isinstance(node, dict):
        yield from (node[key] for key in CLASS_KEYS if isinstance(node.get(key), str))
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _classes(part)


def _find_prepared(name: str, root: Path) -> Path:
    """The folder of the newest version of a prepared set, or of the version that `name` asks for."""
    if name and not NAME.fullmatch(name):
        raise BadInput(
            f"data.name={paths.short(name)} is not the name of a set: give a name, and its folder in data.dir"
        )
    path, _, version = name.partition(":")
    versions = [p for p in (root / path).glob("*.*.*") if (p / "dataset_info.json").is_file()]
    if version:
        versions = [p for p in versions if p.name == version]
    if not path or not versions:
        raise BadInput(_missing(name, path, root))
    folder = max(versions, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    return folder


def _missing(name: str, path: str, root: Path) -> str:
    """Why a set was not found: a name that exists nowhere, or a set that is not prepared."""
    import tensorflow_datasets as tfds

    here = {p.parent.parent.name for p in root.glob("*/*/dataset_info.json")}
    known = {"digits", "synthetic", *here, *tfds.list_builders(with_community_datasets=False)}
    if path.split("/")[0] in known:
        return f"data.name={name!r} is not prepared below data.dir={str(root)!r}: {_how_to_prepare(path, root)}"
    # TFDS knows thousands of sets; the ones that the recipes name are likelier to be meant.
    usual = ["digits", "synthetic", "imagenet2012", *PREPARED_HERE, *here]
    close = difflib.get_close_matches(name, usual, 1, 0.6) or difflib.get_close_matches(name, known, 1, 0)
    return f"data.name={name!r} is not a data set: did you mean {close[0]!r}?"


def _how_to_prepare(name: str, root: Path) -> str:
    path = name.partition(":")[0]
    if path in PREPARED_HERE:
        return f"run python -m resjax.data.prepare {path} --source DIR_OR_TAR --data_dir {root}"
    return f"with TensorFlow installed, run tfds build {path} --file_format=array_record --data_dir={root}"
