"""A TFDS set from Parquet files, as the Hugging Face Hub has image sets; order and splits are theirs.

A file is of the split that its name begins with, as in train-00000-of-00005.parquet, or that its folder is named
for, as in default/train/0000.parquet. Images are a column of structs with `bytes`, labels one of whole numbers or
names.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resjax.data.prepare import build, images, metadata
from resjax.data.prepare.images import Shrink
from resjax.data.prepare.shards import Shard, example
from resjax.errors import BadInput

VERSION = "1.0.0"
SHARDED = re.compile(r"(?P<split>.+?)-\d+-of-\d+(-\w+)?")
SPLIT_OF = {"val": "validation", "valid": "validation", "dev": "validation"}
UNKNOWN = -1  # the label of a split whose labels are kept secret
AT_ONCE = 64  # rows in memory
LARGEST_NUMBER = 100_000  # of classes


@dataclass(frozen=True)
class Columns:
    """Where image and label are, and the names of the classes in label order.

    Attributes:
        named: whether the labels are names, not numbers.
    """

    image: str
    label: str
    classes: tuple[str, ...]
    named: bool


@dataclass(frozen=True)
class RowGroup:
    """Rows start <= row < stop of a row group of a file."""

    file: str
    group: int
    start: int
    stop: int


def plan(
    source: Path, where: build.Place, shrink: Shrink, label: str, skip_damaged: bool
) -> tuple[build.Plan, list[str]]:
    """Looks at the files' descriptions and reads the labels, and no image; also what a person should know.

    Args:
        label: the column of labels; '' for the one that is meant.

    Raises:
        BadInput: for a source without Parquet files, or with ones that hold no images and labels.
    """
    files = _files(source)
    columns, without = _columns(files, label)
    files = {split: own for split, own in files.items() if split not in without}
    shards = []
    for split, own in files.items():
        shards += _shards(split, own, columns, partial(images.treated, shrink), skip_damaged)
    description = metadata.Description(
        text="\n\n".join(filter(None, ("Images from Parquet files, in their order.", shrink.text))),
        class_names=columns.classes,
        encoding="jpeg" if shrink.max_side else None,
        config_text=shrink.text,
        shuffled=False,
    )
    listed = [
        (split, str(file.relative_to(source)), file.stat().st_size) for split in files for file in files[split]
    ]
    made_from = {
        "source": build.digest([*listed, columns]),
        "max_side": shrink.max_side,
        "quality": shrink.quality,
        "skip_damaged": skip_damaged,
    }
    notes = [f"{split} has no labels, so it is left out" for split in without]
    return build.Plan(where, shards, made_from, partial(metadata.write, where, description)), notes


def _files(source: Path) -> dict[str, list[Path]]:
    """The files by split, in the order of their names."""
    if not source.is_dir():
        raise BadInput(f"--source={str(source)!r} is not a folder: give the one with the .parquet files")
    files: dict[str, list[Path]] = {}
    for file in sorted(source.rglob("*.parquet")):
        sharded = SHARDED.fullmatch(file.stem)
        split = sharded["split"] if sharded else file.parent.name if file.stem.isdecimal() else file.stem
        if not re.fullmatch(r"[a-z]\w{0,40}", split, re.ASCII):
            raise BadInput(
                f"{file} names no split: call it train-00000-of-00001.parquet, say, or put it into train/"
            )
        files.setdefault(SPLIT_OF.get(split, split), []).append(file)
    if not files:
        raise BadInput(f"--source={str(source)!r} holds no .parquet files: give the folder that does")
    return files


def _open(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise BadInput("Parquet files are read with pyarrow: pip install pyarrow") from error
    try:
        return parquet.ParquetFile(file)
    except Exception as error:  # of many kinds
        raise _damaged(file, error) from error


def _damaged(file: Path | str, error: Exception) -> BadInput:
    return BadInput(f"{file} cannot be read ({' '.join(str(error).split())[:200]}): download it again")


def _columns(files: dict[str, list[Path]], label: str) -> tuple[Columns, list[str]]:
    """The columns and classes, which all files must share, and the splits without labels."""
    every = [file for own in files.values() for file in own]
    first = _open(every[0]).schema_arrow
    for file in every[1:]:
        schema = _open(file).schema_arrow
        if schema != first:
            raise BadInput(f"{file} has other columns than {every[0]}: give the folder of one config of the set")
    features = _hub_features(first)
    image = next((f.name for f in first if _is_image(f)), "")
    if not image:
        raise BadInput(
            f"{every[0]} has no column of images (its columns: {', '.join(first.names)}): each image "
            "must be a struct with bytes"
        )
    class_names = {name: of["names"] for name, of in features.items() if of.get("_type") == "ClassLabel"}
    if label and label not in first.names:
        raise BadInput(f"--label={label!r} is not a column of {every[0]} (they are {', '.join(first.names)})")
    usual = [name for name in first.names if name in ("label", "labels")] or list(class_names)
    if not label and len(usual) != 1:
        raise BadInput(
            f"{every[0]} has {len(usual) or 'no'} columns that may be the label: choose with --label= one of "
            f"{', '.join(name for name in first.names if name != image)}"
        )
    label = label or usual[0]
    by_split = {split: _labels(own, label) for split, own in files.items()}
    without = [split for split, found in by_split.items() if found == {UNKNOWN}]
    found = set().union(*(found for split, found in by_split.items() if split not in without))
    if not found or len({type(value) for value in found}) > 1:
        raise BadInput(
            f"--source: column {label!r} of the files holds no labels of one kind: choose one with --label="
        )
    if isinstance(next(iter(found)), str):
        return Columns(image, label, tuple(sorted(found)), True), without
    names = tuple(map(str, class_names.get(label, range(max(found) + 1))))
    if min(found) < 0 or max(found) >= len(names):
        raise BadInput(
            f"--source: column {label!r} has labels from {min(found)} to {max(found)}, outside the {len(names)} "
            "classes: choose another column with --label="
        )
    return Columns(image, label, names, False), without


def _hub_features(schema: Any) -> dict[str, dict[str, Any]]:
    """What the Hub says of the columns; nothing if it says nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: of for name, of in features.items() if isinstance(of, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _is_image(field: Any) -> bool:
    from pyarrow import types

    return types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0


def _labels(files: list[Path], column: str) -> set[Any]:
    """Every label there is in some files, whole numbers or names."""
    found: set[Any] = set()
    for file in files:
        try:
            found.update(_open(file).read(columns=[column]).column(column).unique().to_pylist())
        except Exception as error:
            raise _damaged(file, error) from error
        odd = [value for value in found if type(value) not in (int, str)]
        if odd or len(found) > LARGEST_NUMBER:
            what = f"{odd[0]!r}, no label" if odd else f"over {LARGEST_NUMBER:,} labels"
            raise BadInput(f"{file}: column {column!r} holds {what}: choose another with --label=")
    return found


def _shards(split: str, files: list[Path], columns: Columns, treatment: Any, skip_damaged: bool) -> list[Shard]:
    """Cuts the rows of a split into as many shards as TFDS would make."""
    from tensorflow_datasets.core.utils import shard_utils

    groups, size = [], 0
    for file in files:
        described = _open(file).metadata
        for group in range(described.num_row_groups):
            groups.append(RowGroup(str(file), group, 0, described.row_group(group).num_rows))
            size += described.row_group(group).total_byte_size
    total = sum(group.stop for group in groups)
    if not total:
        raise BadInput(f"{files[0]} holds no rows of split {split!r}: leave it out, or download it again")
    number = shard_utils.ShardConfig().get_number_shards(size, total)
    ends = shard_utils.get_shard_boundaries(total, number)
    return [
        Shard(split, i, number, end - start, Rows(_between(groups, start, end), columns, treatment, skip_damaged))
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def _between(groups: list[RowGroup], start: int, end: int) -> list[RowGroup]:
    """The parts of row groups that hold the rows start <= row < end of a split."""
    found, before = [], 0
    for group in groups:
        first, last = max(start - before, 0), min(end - before, group.stop)
        if first < last:
            found.append(RowGroup(group.file, group.group, first, last))
        before += group.stop
    return found


@dataclass(frozen=True)
class Rows:
    """The rows of one shard, read when they are written."""

    groups: list[RowGroup]
    columns: Columns
    treatment: Any  # encoded image -> encoded image
    skip_damaged: bool

    def examples(self, skipped: list[str]) -> Iterator[bytes]:
        label_of = (
            {name: number for number, name in enumerate(self.columns.classes)} if self.columns.named else None
        )
        for group in self.groups:
            for row, image, label in _rows(group, self.columns):
                where = f"row {row} of row group {group.group} in {group.file}"
                try:
                    if not image or not image["bytes"]:
                        raise ValueError("there are no bytes of an image")
                    data = self.treatment(image["bytes"])
                except Exception as error:
                    if not self.skip_damaged:
                        reason = " ".join(str(error).split())[:200]
                        raise BadInput(f"{where} is damaged ({reason}): mend it, or give --skip_damaged") from error
                    skipped.append(where)
                else:
                    yield example(data, label_of[label] if label_of else label, image.get("path") or "")


def _rows(group: RowGroup, columns: Columns) -> Iterator[tuple[int, dict[str, Any] | None, Any]]:
    """Row number, image and label of every row of a part of a row group."""
    file = _open(Path(group.file))
    at = 0
    try:
        wanted = [columns.image, columns.label]
        for batch in file.iter_batches(batch_size=AT_ONCE, row_groups=[group.group], columns=wanted):
            first, last = max(group.start - at, 0), min(group.stop - at, len(batch))
            if first < last:
                part = batch.slice(first, last - first)
                held = zip(
                    part.column(columns.image).to_pylist(), part.column(columns.label).to_pylist(), strict=True
                )
                yield from ((at + first + i, *row) for i, row in enumerate(held))
            at += len(batch)
    except Exception as error:
        if isinstance(error, BadInput):
            raise
        raise _damaged(group.file, error) from error
