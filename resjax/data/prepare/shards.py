"""One shard of a set: records in order -> an ArrayRecord file, whole or not at all."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resjax.errors import BadInput

# As TFDS, but not compressed: that would gain half a percent of a JPEG, and take most of the time.
OPTIONS = "group_size:1,uncompressed"


class Part(Protocol):
    """The records of a shard, where they come from; it is sent to another process."""

    def examples(self, skipped: list[str]) -> Iterator[bytes]:
        """Serialised records in order; the names of those left out are appended to `skipped`.

        Raises:
            BadInput: for a source that cannot be read.
        """


@dataclass(frozen=True)
class Shard:
    """Shard `index` of the `of` shards of a split, and how many records its source has."""

    split: str
    index: int
    of: int
    records: int
    part: Part

    def file(self, name: str) -> str:
        """How TFDS names the file in the set `name`."""
        return f"{name}-{self.split}.array_record-{self.index:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class Written:
    """What a shard holds: records, their bytes, and the names of what was left out."""

    records: int
    size: int
    skipped: list[str]


def write(path: Path, part: Part, build_dir: Path) -> Written:
    """Writes a shard beside its place, then moves it there.

    Raises:
        BadInput: for a source that cannot be read, or a disk that cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    temporary = build_dir / f"{path.name}.{os.getpid()}.tmp"
    skipped: list[str] = []
    records = size = 0
    writer = ArrayRecordWriter(str(temporary), OPTIONS)
    try:
        for example in part.examples(skipped):
            _checked(writer.write, example)
            records += 1
            size += len(example)
        if skipped and not records:
            raise BadInput(f"every image of {path.name} is damaged, {skipped[0]} first: mend them")
        _checked(writer.close)  # only here does it tell of a full disk
        if _checked(ArrayRecordReader(str(temporary)).num_records) != records:
            raise OSError(f"{temporary} does not hold what was written")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Written(records, size, skipped)


def _checked(call, *args):
    """The result of a call to ArrayRecord; its errors, of many kinds, become those of the operating system."""
    try:
        return call(*args)
    except Exception as error:
        raise OSError(str(error).partition(";")[0]) from error


def example(image: bytes, label: int, file_name: str) -> bytes:
    """A record of a set of photographs as TFDS serialises it, in an order of fields that does not change."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def feature(value: bytes) -> tf_feature_pb2.Feature:
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))

    fields = {
        "image": feature(image),
        "label": tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label])),
        "file_name": feature(file_name.encode()),
    }
    features = tf_feature_pb2.Features(feature=fields)
    return tf_example_pb2.Example(features=features).SerializeToString(deterministic=True)
