"""Sets that TFDS has prepared in ArrayRecord format, read without TensorFlow."""

import difflib
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resjax import paths
from resjax.data import jpeg
from resjax.data.sources import Source, decode_image
from resjax.data.splits import Slice
from resjax.errors import BadInput

PREPARED_HERE = ("cifar10", "cifar100", "imagenet2012")
SHRUNK = re.compile(r"side(\d+)_q(\d+)")  # the config of a set that was prepared with images encoded anew

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

    def read(self, positions: np.ndarray, least: jpeg.LeastOf | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        rows = [self.part.start + position for position in positions.tolist()]
        try:
            serialised = self.raw.__getitems__(rows)
        except Exception:  # any reader error; which record is to blame shows when each is read alone
            serialised = [self._read_one(row) for row in rows]
        records = [
            self._decode(row, example, least and partial(least, i))
            for i, (row, example) in enumerate(zip(rows, serialised, strict=True))
        ]
        return [image for image, _ in records], np.array([label for _, label in records], np.int32)

    def encoded(self, positions: np.ndarray) -> list[bytes]:
        from tensorflow_datasets import decode

        examples = self.raw.__getitems__([self.part.start + position for position in positions.tolist()])
        skip = {"image": decode.SkipDecoding()}
        return [self.features.deserialize_example_np(each, decoders=skip)["image"] for each in examples]

    def _read_one(self, row: int) -> bytes:
        try:
            return self.raw[row]
        except Exception as error:
            raise self._corrupted(row, error) from error

    def _decode(self, row: int, example: bytes, least: jpeg.Least | None) -> tuple[np.ndarray, int]:
        from tensorflow_datasets import decode

        try:
            record = self.features.deserialize_example_np(example, decoders={"image": decode.SkipDecoding()})
            image = decode_image(record["image"], self.image_shape[2] if self.image_shape else 3, least)
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
        how = _how_to_rewrite(folder, root) if file_format == "tfrecord" else _how_to_prepare(name, root)
        raise BadInput(f"data.name={name!r}: {folder} is stored as {file_format}, not array_record: {how}")
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
        how = _as_folder(name) or "give a name, and its folder in data.dir"
        raise BadInput(f"data.name={paths.short(name)} is not the name of a set: {how}")
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
        photos = "; or, for the photos there, --config.data.name=folder" if (root / "train").is_dir() else ""
        how = _how_to_prepare(path, root) + photos
        return f"data.name={name!r} is not prepared below data.dir={str(root)!r}: {how}"
    if how := _as_folder(name):
        return f"data.name={name!r} is not a data set: {how}"
    # TFDS knows thousands of sets; the ones that the recipes name are likelier to be meant.
    usual = ["digits", "synthetic", "folder", *PREPARED_HERE, *here]
    close = difflib.get_close_matches(name, usual, 1, 0.6) or difflib.get_close_matches(name, known, 1, 0)
    return f"data.name={name!r} is not a data set: did you mean {close[0]!r}?"


def _as_folder(name: str) -> str:
    """What to do with a name that is a folder's; empty for any other."""
    if not os.path.isdir(os.path.expanduser(name)):
        return ""
    return f"for a folder of photos give --config=configs/photos.py --config.data.dir={name}"


def _how_to_prepare(name: str, root: Path) -> str:
    path = name.partition(":")[0]
    stock, _, config = path.partition("/")
    shrunk = SHRUNK.fullmatch(config)
    if stock in PREPARED_HERE and (shrunk or not config):
        anew = f" --max_side={shrunk[1]} --quality={shrunk[2]}" if shrunk else ""
        return f"run python -m resjax.data.prepare {stock} --source DIR_OR_TAR --data_dir {root}{anew}"
    return f"with TensorFlow installed, run tfds build {path} --file_format=array_record --data_dir={root}"


def _how_to_rewrite(folder: Path, root: Path) -> str:
    other = f"{root}-array_record"
    command = ["python", "-m", "resjax.data.prepare", "tfrecord", "--source", str(folder), "--data_dir", other]
    return f"run {shlex.join(command)} and give data.dir={other}"
