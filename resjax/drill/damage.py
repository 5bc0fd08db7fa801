"""What a crash, a disk or a careless hand does to the files of a stopped run, and in words what it did."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

GARBAGE = (b"\0" * 40, b"", b"\xff\xfe\xfa", b"5", b"{}", b"[1]", b"null", b'{"step": "3"}', b"not JSON")
SUMMARIES = (b"", b"null", b"{}", b'{"steps": 90, "test_acc', b"[]", b"\0\0\0\0", b'{"steps": "all"}')


def cut(workdir: Path, rng: random.Random) -> str:
    """A file of the newest checkpoint ends too early."""
    checkpoint, file = _file(workdir, rng)
    size = rng.randrange(file.stat().st_size)
    with file.open("r+b") as content:
        content.truncate(size)
    return f"{file.relative_to(checkpoint.parent)} cut to {size} bytes"


def flip(workdir: Path, rng: random.Random) -> str:
    """One bit of the newest checkpoint is the other; it may or may not matter."""
    checkpoint, file = _file(workdir, rng)
    content = bytearray(file.read_bytes())
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"{file.relative_to(checkpoint.parent)}, bit {bit} of byte {at}"


def missing(workdir: Path, rng: random.Random) -> str:
    """A file of the newest checkpoint is gone."""
    checkpoint, file = _file(workdir, rng)
    file.unlink()
    return f"{file.relative_to(checkpoint.parent)} deleted"


def half(workdir: Path, rng: random.Random) -> str:
    """One more checkpoint was only begun: under Orbax's temporary name, or under its own with files missing."""
    newest, before = checkpoints(workdir)[:2]
    name = str(2 * int(newest.name) - int(before.name))  # the next to come
    if rng.random() < 0.5:
        name += ".orbax-checkpoint-tmp"
    begun = newest.with_name(name)
    if begun.exists():
        shutil.rmtree(begun)
    shutil.copytree(newest, begun)
    files = _files(begun)
    gone = rng.sample(files, rng.randint(1, len(files) - 1))
    for file in gone:
        file.unlink()
    return f"{name} with {len(files) - len(gone)} of {len(files)} files"


def garble(workdir: Path, rng: random.Random) -> str:
    """Garbage between the records, a summary that is none, temporary files that nobody finished."""
    chosen = rng.sample((_records, _summary, _left_over), rng.randint(1, 3))
    return ", ".join(garbage(workdir, rng) for garbage in chosen)


def _records(workdir: Path, rng: random.Random) -> str:
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for garbage in rng.sample(GARBAGE, 3):
        lines.insert(rng.randrange(len(lines)), garbage)  # every good line stays
    lines[-1] += lines[0][: len(lines[0]) // 2]  # a write that was cut short
    path.write_bytes(b"\n".join(lines))
    return "metrics.jsonl"


def _summary(workdir: Path, rng: random.Random) -> str:
    content = rng.choice(SUMMARIES)
    (workdir / "summary.json").write_bytes(content)
    return f"summary.json {content.decode()!r}"


def _left_over(workdir: Path, rng: random.Random) -> str:
    name = rng.choice(("config.json", "summary.json", "metrics.jsonl"))
    name += rng.choice((".tmp", ".0a1b2c3d.tmp"))
    (workdir / name).write_bytes(b'{"half": ')
    return name


DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "cut": cut,
    "flip": flip,
    "missing": missing,
    "half": half,
    "garble": garble,
}


def checkpoints(workdir: Path) -> list[Path]:
    """The folders of a run's checkpoints, latest first."""
    folder = workdir / "checkpoints"
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _file(workdir: Path, rng: random.Random) -> tuple[Path, Path]:
    """The newest checkpoint, and a file of it that is not empty."""
    newest = checkpoints(workdir)[0]
    return newest, rng.choice([file for file in _files(newest) if file.stat().st_size])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
