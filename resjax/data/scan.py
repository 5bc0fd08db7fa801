"""Which photos of a folder are damaged: a fast look at the two ends of every file, kept for the next start.

What looks whole is believed, and what looks odd is decoded. So no sound photo is called damaged; one whose ends are
sound and whose middle is not shows when it is read.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from resjax import files, paths
from resjax.data import jpeg, photo

THREADS = 16  # which wait for the disk most of the time
MANY = 5_000  # files that take a while
LAYOUT = 1  # of the file that keeps what was found
TAIL = 4096  # bytes: where the end of a picture is, unless something is appended to it

# Markers of a JPEG before which there is nothing to be skipped, and those that start a frame.
ALONE = {0x01, *range(0xD0, 0xDA)}
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA
END_OF_JPEG = b"\xff\xd9"
PNG, END_OF_PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

SOUND = ""
CUT = "truncated"


class File(NamedTuple):
    """A file as its folder shows it: size in bytes, -1 for a link to nothing; time of the last change."""

    path: str
    size: int
    time: int


def damaged(root: Path, found: Sequence[File]) -> dict[str, str]:
    """The damaged ones of the files below `root`: path -> what is wrong.

    A file that was looked at before, and has the same size and time, is not looked at again.
    """
    kept = _kept(root)
    known = _read(kept) if kept else {}
    new = [file for file in found if known.get(file.path, ())[:2] != [file.size, file.time]]
    if len(new) >= MANY:
        where = f"; kept in {kept.parent} for the next start" if kept else ""
        print(f"looking at the ends of {len(new):,} photos in {root}{where}", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(THREADS) as pool:
        looks = dict(zip([file.path for file in new], pool.map(lambda file: look(root, file), new), strict=True))
    reasons = {file.path: looks[file.path] if file.path in looks else known[file.path][2] for file in found}
    if kept and new:
        # What a permission hides may show itself without any change of the file.
        lasting = [file for file in found if not reasons[file.path].startswith("unreadable")]
        _write(kept, root, {file.path: [file.size, file.time, reasons[file.path]] for file in lasting})
    return {path: reason for path, reason in reasons.items() if reason != SOUND}


def look(root: Path, file: File) -> str:
    """What is wrong with a file; SOUND if nothing seems to be."""
    if file.size <= 0:
        return "empty" if file.size == 0 else "a link to nothing"
    path = root / file.path
    try:
        with path.open("rb") as content:
            found = ends(content, file.size)
        if found is None:
            photo.decode(path.read_bytes())
    except UnidentifiedImageError:
        return "not a picture"
    except PermissionError:
        return "unreadable: no permission"
    except Exception as error:  # the decoders raise whatever they please
        return paths.one_line(error)[:100]
    return found or SOUND


def ends(content: BinaryIO, size: int) -> str | None:
    """SOUND for a file of `size` bytes that begins and ends as a picture does, CUT if its end is missing.

    None if that cannot be told from its ends.
    """
    head = content.read(16)
    if head[:2] == jpeg.START:
        return _ends_of_jpeg(content, size)
    if head[:8] == PNG and head[12:16] == b"IHDR":
        return _ends_with(content, size, 8, END_OF_PNG)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return SOUND if 8 + int.from_bytes(head[4:8], "little") <= size else CUT
    content.seek(0)
    with Image.open(content) as image:
        known = image.mode != "F"  # which cannot be decoded at all
        needed = max(_needed(image), default=size + 1)
    return SOUND if known and needed <= size else None


def _ends_of_jpeg(content: BinaryIO, size: int) -> str | None:
    """Walks over the segments before the first scan, in which an embedded small picture may have its own end."""
    at, frame = 2, False
    while True:
        content.seek(at)
        head = content.read(4)
        if len(head) < 4:
            return CUT
        mark, length = head[1], int.from_bytes(head[2:], "big")
        if head[:2] == b"\xff\xff":
            at += 1  # a segment may be preceded by any number of them
            continue
        if head[0] != 0xFF or mark in ALONE or length < 2:
            return None
        if mark == START_OF_SCAN:
            return _ends_with(content, size, at, END_OF_JPEG) if frame else None
        frame |= mark in FRAMES
        at += 2 + length


def _ends_with(content: BinaryIO, size: int, start: int, mark: bytes) -> str:
    """Whether `mark` comes after `start`; phones append films and other data to photos, so then all is searched."""
    content.seek(max(start, size - TAIL))
    if mark in content.read():
        return SOUND
    content.seek(start)
    return SOUND if mark in content.read() else CUT


def _needed(image: Any) -> Iterator[int]:
    """How far into its file the parts of a BMP, PNM or TIFF picture reach, in bytes, where that is known."""
    tags = getattr(image, "tag_v2", {})
    for offsets, counts in ((273, 279), (324, 325)):  # of strips, of tiles
        if offsets in tags and counts in tags:
            yield from (offset + count for offset, count in zip(tags[offsets], tags[counts], strict=True))
    for tile in image.tile if not tags else []:
        row = tile.args[1] if isinstance(tile.args, tuple) and len(tile.args) > 1 else 0
        row = row or {"L": 1, "RGB": 3}.get(image.mode, 0) * image.width
        if tile.codec_name == "raw" and row:
            yield tile.offset + row * image.height


def _kept(root: Path) -> Path | None:
    """The file that keeps what was found in a folder; None if it would lie in that folder."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    except RuntimeError:  # a user without a home
        return None
    name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    return None if home.is_relative_to(root.absolute()) else home / "resjax" / "photos" / f"{name}.json"


def _read(kept: Path) -> dict[str, list]:
    """What was kept: path -> size, time and what is wrong; nothing of a file that is damaged."""
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content["layout"] != LAYOUT:
            return {}
        entries = content["files"].items()
        return {path: entry for path, entry in entries if list(map(type, entry)) == [int, int, str]}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}


def _write(kept: Path, root: Path, found: dict[str, list]) -> None:
    with suppress(OSError):  # it only saves time
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.replace(kept, json.dumps({"layout": LAYOUT, "folder": str(root.absolute()), "files": found}))
