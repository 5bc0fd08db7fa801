"""The TFDS sets cifar10 and cifar100 from the published files.

The source is the binary or the Python version from https://www.cs.toronto.edu/~kriz/cifar.html, as the archive, the
unpacked folder or the folder that holds it. The result has the name, version, features, record order and file
layout of the stock TFDS set in ArrayRecord format, so both read alike.
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resjax.data.prepare import archive, pickled
from resjax.errors import BadInput

VERSION = "3.0.2"
PIXELS = 3 * 32 * 32  # bytes of one published image: channels first, then rows, then columns
# More than any published file needs, so that no source makes us read without end.
LARGEST_RECORD = 2 * PIXELS + 256  # bytes: an image as Python 3 may write it (in UTF-8), its labels and its name
LARGEST_TEXT = 2**16  # bytes of class names


@dataclass(frozen=True)
class Layout:
    """How one version of a set is published.

    Attributes:
        folder: the archive's one top folder.
        files: batch files by split, in order.
        names: label name -> where its class names are: a text file, or a key of the pickled meta file.
        label_keys: label name -> key in a pickled batch; empty for the binary version, where every record starts
            with one byte for each label, in the order of `names`.
        meta: the pickled file with the class names.
    """

    folder: str
    files: dict[str, tuple[str, ...]]
    names: dict[str, str]
    label_keys: dict[str, str]
    meta: str = ""


@dataclass(frozen=True)
class Published:
    """One published set: classes by label, images in each file of a split, and the layouts it comes in."""

    classes: dict[str, int]
    records: dict[str, int]
    layouts: tuple[Layout, ...]
    description: str


PUBLISHED = {
    "cifar10": Published(
        classes={"label": 10},
        records={"train": 10_000, "test": 10_000},
        layouts=(
            Layout(
                folder="cifar-10-batches-bin",
                files={
                    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                    "test": ("test_batch.bin",),
                },
                names={"label": "batches.meta.txt"},
                label_keys={},
            ),
            Layout(
                folder="cifar-10-batches-py",
                files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
                names={"label": "label_names"},
                label_keys={"label": "labels"},
                meta="batches.meta",
            ),
        ),
        description="60,000 32x32 colour images in 10 classes: 50,000 for training and 10,000 for testing.",
    ),
    "cifar100": Published(
        classes={"coarse_label": 20, "label": 100},
        records={"train": 50_000, "test": 10_000},
        layouts=(
            Layout(
                folder="cifar-100-binary",
                files={"train": ("train.bin",), "test": ("test.bin",)},
                names={"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
                label_keys={},
            ),
            Layout(
                folder="cifar-100-python",
                files={"train": ("train",), "test": ("test",)},
                names={"coarse_label": "coarse_label_names", "label": "fine_label_names"},
                label_keys={"coarse_label": "coarse_labels", "label": "fine_labels"},
                meta="meta",
            ),
        ),
        description="60,000 32x32 colour images in 100 classes, grouped into 20 superclasses: 50,000 for training "
        "and 10,000 for testing.",
    ),
}


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 32, 32, 3] and, by label name, labels uint8 [N]."""

    images: np.ndarray
    labels: dict[str, np.ndarray]


def prepare(name: str, source: Path, data_dir: Path) -> tuple[Path, dict[str, int]]:
    """Builds the set and returns its folder and its number of records by split.

    A failure leaves nothing behind: the set is built in a temporary folder and moved when complete.

    Raises:
        BadInput: if the set exists, or the source is missing, damaged or not the published set.
    """
    target = data_dir / name / VERSION
    try:
        there = target.exists()
    except OSError as error:
        raise BadInput(f"--data_dir={str(data_dir)!r} cannot be read: {error.strerror}") from error
    if there:
        raise BadInput(f"{target} exists already: use it, or delete it to prepare {name} again")
    splits, class_names = read_published(name, source)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=data_dir) as build_dir:
            built = _write(name, splits, class_names, build_dir)
            target.parent.mkdir(exist_ok=True)
            built.rename(target)
    except OSError as error:
        raise BadInput(f"--data_dir={str(data_dir)!r} cannot be written: {error}") from error
    return target, {split: len(data.images) for split, data in splits.items()}


def read_published(name: str, source: Path) -> tuple[dict[str, Split], dict[str, list[str]]]:
    """Reads the published files: data by split, class names by label.

    Raises:
        BadInput: for a file that is missing, of the wrong size, not a pickle of plain arrays, or holds a label out
            of range.
    """
    published = PUBLISHED[name]
    layout, open_file = _open_source(published, source)

    def parse(file: str, records: int) -> Split:
        data = open_file(file)
        split = _parse_pickle(file, data, layout) if layout.label_keys else _parse_binary(file, data, layout)
        if len(split.images) != records:
            raise BadInput(f"{file} holds {len(split.images)} images, not {records}: download the set again")
        for label, values in split.labels.items():
            wrong = np.flatnonzero(values >= published.classes[label])
            if wrong.size:
                raise BadInput(
                    f"{file}: image {wrong[0]} has {label} {values[wrong[0]]}, outside the "
                    f"{published.classes[label]} classes: download the set again"
                )
        return split

    splits = {}
    for split, files in layout.files.items():
        parts = [parse(file, published.records[split]) for file in files]
        splits[split] = Split(
            np.concatenate([part.images for part in parts]),
            {label: np.concatenate([part.labels[label] for part in parts]) for label in layout.names},
        )
    class_names = _read_class_names(layout, open_file)
    for label, names in class_names.items():
        if len(set(names)) != published.classes[label]:
            raise BadInput(
                f"{layout.meta or layout.names[label]} names {len(set(names))} classes for {label}, "
                f"not {published.classes[label]}: download the set again"
            )
    return splits, class_names


def _open_source(published: Published, source: Path) -> tuple[Layout, Callable[[str], bytes]]:
    """Finds which version `source` holds: its layout, and a function from file name to contents."""
    wanted = " or ".join(layout.folder for layout in published.layouts)
    limits = {layout.folder: _limits(published, layout) for layout in published.layouts}
    if source.is_dir():
        for layout in published.layouts:
            for folder in (source, source / layout.folder):
                first = folder / layout.files["test"][0]
                if (folder.name == layout.folder and folder.is_dir()) or first.is_file():
                    own = limits[layout.folder]
                    return layout, lambda file, folder=folder, own=own: _read_file(folder / file, own[file])
    elif source.is_file():
        try:
            files = archive.members(
                source, {f"{folder}/{file}": size for folder, own in limits.items() for file, size in own.items()}
            )
        except Exception as error:  # a damaged archive can raise nearly anything
            reason = " ".join(str(error).split())[:200]
            raise BadInput(
                f"--source={str(source)!r} is not a whole archive ({reason}): download it again"
            ) from error
        for layout in published.layouts:
            if any(member.startswith(f"{layout.folder}/") for member in files):
                return layout, lambda file, layout=layout: _read_member(files, f"{layout.folder}/{file}", source)
    elif source.exists():
        raise BadInput(f"--source={str(source)!r} is neither a file nor a folder: give the published .tar.gz")
    else:
        raise BadInput(f"--source={str(source)!r} does not exist: give the published .tar.gz or its folder")
    raise BadInput(f"--source={str(source)!r} does not hold {wanted}: give the published .tar.gz or its folder")


def _limits(published: Published, layout: Layout) -> dict[str, int]:
    """Every file that is read, with the most bytes that it can have."""
    limits = {
        file: published.records[split] * LARGEST_RECORD for split in layout.files for file in layout.files[split]
    }
    return limits | dict.fromkeys([layout.meta] if layout.meta else layout.names.values(), LARGEST_TEXT)


def _read_file(path: Path, limit: int) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would be waited for, or never end
            raise BadInput(f"{path} is not a regular file: unpack the published archive again")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): unpack the published archive again") from error
    if len(data) > limit:
        raise BadInput(f"{path} has more than {limit} bytes, too many: unpack the published archive again")
    return data


def _read_member(files: dict[str, bytes], member: str, source: Path) -> bytes:
    if member not in files:
        raise BadInput(f"--source={str(source)!r} has no {member}: download it again")
    return files[member]


def _parse_binary(file: str, data: bytes, layout: Layout) -> Split:
    """Records of one byte for each label, then the image."""
    labels = len(layout.names)
    if not data or len(data) % (labels + PIXELS):
        raise BadInput(
            f"{file} has {len(data)} bytes, not whole records of {labels + PIXELS}: download the set again"
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, labels + PIXELS)
    return Split(_images(table[:, labels:]), {label: table[:, i] for i, label in enumerate(layout.names)})


def _parse_pickle(file: str, data: bytes, layout: Layout) -> Split:
    """A dictionary with byte-string keys: 'data' uint8 [N, 3072] and one list for each label."""
    batch = load_arrays(file, data)
    try:
        pixels = batch[b"data"]
        labels = {label: np.array(batch[key.encode()], np.int64) for label, key in layout.label_keys.items()}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{file} is not a CIFAR batch ({error!r}): download the set again") from error
    shape = (len(pixels), PIXELS) if isinstance(pixels, np.ndarray) else None
    if shape is None or pixels.shape != shape or pixels.dtype != np.uint8:
        raise BadInput(f"{file}: its images are not bytes of shape [N, {PIXELS}]: download the set again")
    for label, values in labels.items():
        if values.shape != (len(pixels),) or (values < 0).any():
            raise BadInput(f"{file}: its {label} list does not give each image one class: download the set again")
    return Split(_images(pixels), labels)


def _images(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _read_class_names(layout: Layout, open_file: Callable[[str], bytes]) -> dict[str, list[str]]:
    try:
        if not layout.meta:
            return {label: open_file(file).decode("ascii").split() for label, file in layout.names.items()}
        meta = load_arrays(layout.meta, open_file(layout.meta))
        return {label: [name.decode("ascii") for name in meta[key.encode()]] for label, key in layout.names.items()}
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise BadInput(f"the class names cannot be read ({error!r}): download the set again") from error


def load_arrays(file: str, data: bytes) -> dict[Any, Any]:
    """The dictionary that Python 2 or 3 pickled, if it holds arrays of bytes and plain values alone.

    Raises:
        BadInput: if the pickle is damaged or asks for anything else.
    """
    try:
        return pickled.read(data)
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{file} is not a pickle of plain arrays ({reason}): download the set again") from error


def _write(name: str, splits: dict[str, Split], class_names: dict[str, list[str]], build_dir: str) -> Path:
    """Writes the set with TFDS below `build_dir` and returns its folder."""
    import tensorflow_datasets as tfds

    published = PUBLISHED[name]

    def info(self) -> tfds.core.DatasetInfo:
        labels = {label: tfds.features.ClassLabel(names=names) for label, names in class_names.items()}
        image = tfds.features.Image(shape=(32, 32, 3))
        return tfds.core.DatasetInfo(
            builder=self,
            description=published.description,
            features=tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image, **labels}),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def examples(self, split: str, data: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, image in enumerate(data.images):
            labels = {label: int(values[i]) for label, values in data.labels.items()}
            # An encoded file keeps TFDS from encoding the array itself, for which it needs TensorFlow. The key
            # decides where the record goes, so it must be the stock set's.
            yield i, {"id": f"{split}_{i:05d}", "image": _png(image), **labels}

    def split_generators(self, download_manager) -> dict[str, Any]:
        return {split: self._generate_examples(split, data) for split, data in splits.items()}

    with tfds.core.registered.skip_registration():
        builder_class = type(
            name.capitalize(),  # TFDS takes the set's name from the class
            (tfds.core.GeneratorBasedBuilder,),
            {
                "__module__": "resjax.data.prepare",  # kept in the set's description, also when run as a script
                "VERSION": tfds.core.Version(VERSION),
                "_info": info,
                "_split_generators": split_generators,
                "_generate_examples": examples,
            },
        )
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = builder_class(data_dir=build_dir, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download and the temporary folder
        builder.download_and_prepare()
    return Path(builder.data_dir)


def _png(image: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file
