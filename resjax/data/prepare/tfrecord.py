"""A set that TFDS stored as TFRecord, rewritten in ArrayRecord format: the same records, order and shards.

A TFRecord file is a sequence of records, each 8 bytes of length, 4 of its checksum, the data, and 4 of the data's
checksum, all little-endian (tensorflow/core/lib/io/record_writer.h). Every checksum is verified.
"""

import json
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resjax.data.prepare import build, crc32c
from resjax.data.prepare.shards import Shard, Written
from resjax.errors import BadInput

FORMAT = "tfrecord"
VERSION = re.compile(r"\d+\.\d+\.\d+")
INFO = "dataset_info.json"
LARGEST_RECORD = 2**31  # bytes
LARGEST_TEXT = 2**26  # bytes of a file beside the records, such as class names


def place(source: Path, data_dir: Path) -> build.Place:
    """Where the rewritten set goes: the same name, config and version below another folder.

    Raises:
        BadInput: for a folder that holds no set stored as TFRecord, or one that would be rewritten into itself.
    """
    info = _info(source)
    if (stored := info.get("fileFormat", FORMAT)) != FORMAT:
        raise BadInput(f"--source={str(source)!r} is stored as {stored}, not {FORMAT}: there is nothing to rewrite")
    where = build.Place(data_dir, str(info.get("name")), str(info.get("configName", "")), str(info.get("version")))
    names = (where.name, where.config or "x")
    if not VERSION.fullmatch(where.version) or not all(re.fullmatch(r"\w[\w.+-]{0,99}", name) for name in names):
        raise BadInput(f"{source / INFO} names no set: restore it")
    if where.target.exists() and where.target.samefile(source):
        raise BadInput(f"--data_dir={str(data_dir)!r} holds --source itself: give another folder")
    return where


def plan(source: Path, where: build.Place) -> build.Plan:
    """Lists the files of the set.

    Raises:
        BadInput: for a set that is damaged, or lacks a file.
    """
    info = _info(source)
    shards, sizes = [], []
    try:
        for split in info["splits"]:
            lengths = [int(length) for length in split["shardLengths"]]
            for i, length in enumerate(lengths):
                file = source / f"{where.name}-{split['name']}.{FORMAT}-{i:05d}-of-{len(lengths):05d}"
                if not file.is_file():
                    raise BadInput(f"{file} is missing: restore it, or prepare the set again")
                sizes.append(file.stat().st_size)
                shards.append(Shard(split["name"], i, len(lengths), length, Stored(str(file), length)))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{source / INFO} does not tell its shards ({error!r}): restore it") from error
    made_from = {"source": build.digest([json.dumps(info, sort_keys=True), *sizes])}
    return build.Plan(where, shards, made_from, partial(_describe, source))


def _info(source: Path) -> dict[str, Any]:
    try:
        info = json.loads((source / INFO).read_text(encoding="utf-8"))
        if not isinstance(info, dict):
            raise ValueError("it holds no object")
    except OSError as error:
        raise BadInput(
            f"--source={str(source)!r} is not the folder of a set ({INFO}: {error.strerror}): give the one named "
            "by its version, such as .../imagenet2012/5.1.0"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{source / INFO} is damaged ({error}): restore it") from error
    return info


def _describe(source: Path, folder: Path, splits: dict[str, list[Written]]) -> None:
    """Copies the metadata; only what says how the records are stored changes."""
    for file in source.iterdir():
        if file.is_file() and f".{FORMAT}-" not in file.name and file.stat().st_size <= LARGEST_TEXT:
            shutil.copyfile(file, folder / file.name)
    info = _info(source)
    info["fileFormat"] = "array_record"
    for split in info["splits"]:
        if "filepathTemplate" in split:  # older sets have none, or one that names the format
            split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    (folder / INFO).write_text(json.dumps(info, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class Stored:
    """The records of one TFRecord file, as they are."""

    file: str
    records: int

    def examples(self, skipped: list[str]) -> Iterator[bytes]:
        count = 0
        for data in read(Path(self.file)):
            count += 1
            yield data
        if count != self.records:
            raise BadInput(f"{self.file} holds {count:,} records, not {self.records:,}: restore it from a copy")


def read(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Raises:
        BadInput: for a file that is cut off, or a checksum that does not match, with the record's place.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            at = 0
            while at < size:
                head = file.read(12)
                if len(head) < 12:
                    raise _damaged(path, at, "it is cut off")
                length, checksum = struct.unpack("<QI", head)
                if crc32c.masked(head[:8]) != checksum:
                    raise _damaged(path, at, "the checksum of its length does not match")
                if length > min(size - at - 16, LARGEST_RECORD):
                    raise _damaged(path, at, "it is cut off")
                data = file.read(length)
                if crc32c.masked(data) != int.from_bytes(file.read(4), "little"):
                    raise _damaged(path, at, "its checksum does not match")
                yield data
                at += 16 + length
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): mend that, then run again") from error


def _damaged(path: Path, at: int, why: str) -> BadInput:
    return BadInput(f"{path}: the record at byte {at:,} is damaged ({why}): restore the file from a copy")
