"""Tar archives that are read and never extracted, so no path or link in one is followed."""

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

# So that no archive makes us read without end.
LARGEST_ARCHIVE = 2**29  # bytes once unpacked, of one that is read whole; the published ones have 190 million
MOST_MEMBERS = 100  # of such a one; the published ones have at most 30
LARGEST_HEADER = 2**16  # bytes, with a long name


def members(path: Path, limits: dict[str, int]) -> dict[str, bytes]:
    """The regular members of a .tar or .tar.gz that `limits` names, by name, each of at most so many bytes.

    They are read into memory in one pass.

    Raises:
        Exception: of many kinds, for an archive that is damaged, too large, or has too many members.
    """
    files = {}
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = _Bounded(gzip.GzipFile(fileobj=file) if packed else file)
        with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
            for count, member in enumerate(archive):
                if count == MOST_MEMBERS:
                    raise ValueError(f"it has more than {MOST_MEMBERS} members")
                if member.name not in limits or not member.isreg():
                    continue
                if member.size > limits[member.name]:
                    raise ValueError(f"its {member.name} has {member.size} bytes, too many")
                content = archive.extractfile(member)
                files[member.name] = content.read() if content else b""
    return files


class _Bounded:
    """A file that ends in an error after `LARGEST_ARCHIVE` bytes, however little of the disk they take."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, LARGEST_ARCHIVE

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {LARGEST_ARCHIVE} bytes")
        return data


def places(path: Path, start: int, size: int) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of every file in a tar that fills `size` bytes of a file from `start`.

    Only the headers are read, so the archive may be as large as it likes, or lie within another.

    Raises:
        Exception: of many kinds, for a tar that is damaged, compressed, or holds anything but files and folders.
    """
    with path.open("rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore[call-overload]
            for member in archive:
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise ValueError(f"its {member.name} is not a plain file")
                if member.offset_data + member.size > start + size:
                    raise ValueError(f"its {member.name} is cut off")
                yield Path(member.name).name, member.offset_data, member.size
                archive.members = []  # else it keeps them all


class _Headers:
    """A file of which no more than a header is read at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > LARGEST_HEADER:
            raise ValueError(f"it has a header of {size} bytes")
        return self._file.read(size)
