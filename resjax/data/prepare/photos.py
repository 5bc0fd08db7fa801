"""Shards of photographs that lie in files or, as they are, in tars."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resjax.data.prepare.shards import Shard, example
from resjax.errors import BadInput

OVERHEAD = 64  # bytes of a serialised record beside the image and its name, to within ten


class Photo(NamedTuple):
    """An encoded image: `size` bytes from `offset` of a file, its label, and its name in the set."""

    file: str
    offset: int
    size: int
    label: int
    name: str


# What an image becomes, given its name in the set and its bytes; raises what it pleases for a damaged one.
Treatment = Callable[[str, bytes], bytes]


@dataclass(frozen=True)
class Photos:
    """The photographs of one shard, read when they are written."""

    photos: list[Photo]
    treatment: Treatment
    skip_damaged: bool

    def examples(self, skipped: list[str]) -> Iterator[bytes]:
        for photo in self.photos:
            data = _read(photo)
            try:
                image = self.treatment(photo.name, data)
            except Exception as error:  # Pillow raises many kinds
                if not self.skip_damaged:
                    reason = " ".join(str(error).split())[:200]
                    raise BadInput(
                        f"{photo.name} in {photo.file} is damaged ({reason}): mend or remove it, or give "
                        "--skip_damaged"
                    ) from error
                skipped.append(photo.name)
            else:
                yield example(image, photo.label, photo.name)


def _read(photo: Photo) -> bytes:
    try:
        with Path(photo.file).open("rb") as file:
            file.seek(photo.offset)
            data = file.read(photo.size)
    except OSError as error:
        raise BadInput(f"{photo.file} cannot be read ({error.strerror}): mend that, then run again") from error
    if len(data) != photo.size:
        raise BadInput(f"{photo.file} has changed since it was listed: run again when nothing writes there")
    return data


def shards(split: str, photos: list[Photo], treatment: Treatment, skip_damaged: bool = False) -> list[Shard]:
    """The shards of a split whose photographs come in this order, as many as TFDS makes of the same images."""
    from tensorflow_datasets.core.utils import shard_utils

    size = sum(photo.size + len(photo.name) + OVERHEAD for photo in photos)
    number = shard_utils.ShardConfig().get_number_shards(size, len(photos))
    ends = shard_utils.get_shard_boundaries(len(photos), number)
    return [
        Shard(split, i, number, end - start, Photos(photos[start:end], treatment, skip_damaged))
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]
