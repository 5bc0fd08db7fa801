"""Builds a set shard by shard in a hidden folder, goes on after a stop, moves it into place when it is whole."""

import contextlib
import fcntl
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from resjax import files
from resjax.data.prepare import pool
from resjax.data.prepare.shards import Part, Shard, Written, write
from resjax.errors import BadInput

SAY_EVERY = 30.0  # seconds between two lines about progress where there is no terminal


@dataclass(frozen=True)
class Place:
    """Where a set goes: `data_dir`/`name`[/`config`]/`version`, as TFDS has it."""

    data_dir: Path
    name: str
    config: str
    version: str

    @property
    def target(self) -> Path:
        return self.data_dir / self.name / self.config / self.version

    @property
    def work(self) -> Path:
        """The folder of a set that is not whole; no name of a set begins with a dot."""
        return self.data_dir / "-".join(filter(None, (".prepare", self.name, self.config, self.version)))

    def check(self) -> None:
        """Raises BadInput if the set is there, or another process makes it: before much is read."""
        with _writing(self):
            self.refuse_existing()
            if (self.work / "lock").exists():
                with _locked(self.work):
                    pass

    def refuse_existing(self) -> None:
        if self.target.exists():
            raise BadInput(f"{self.target} exists already: use it, or delete it to prepare {self.name} again")


@dataclass(frozen=True)
class Plan:
    """What a set is made of.

    Attributes:
        shards: of all splits.
        made_from: what decides the content: options, and a digest of the source. It is compared when a stopped
            build goes on.
        describe: writes the set's metadata into its folder, given what each shard of every split holds.
    """

    place: Place
    shards: list[Shard]
    made_from: dict[str, Any]
    describe: Callable[[Path, dict[str, list[Written]]], None]


def digest(items: Iterable[object]) -> str:
    """A digest of the text of some values, such as the names and sizes of a source's files."""
    sha = hashlib.sha256()
    for item in items:
        sha.update(repr(item).encode(errors="surrogateescape") + b"\n")
    return sha.hexdigest()


def build(plan: Plan, processes: int) -> dict[str, list[Written]]:
    """Makes the set, and returns what its shards hold by split.

    A build that was stopped goes on with the shards that are missing. The files are the same for any number of
    processes.

    Raises:
        BadInput: if the set exists, another process makes it, the source or the options are not those that it was
            begun with, the source cannot be read, or the disk cannot be written; finished shards are kept.
    """
    place = plan.place
    with _writing(place):
        place.work.mkdir(parents=True, exist_ok=True)
        with _locked(place.work):
            try:
                place.refuse_existing()
                _begin(plan)
                written = _write_shards(plan, processes)
                plan.describe(place.work / "set", written)
                place.target.parent.mkdir(parents=True, exist_ok=True)
                (place.work / "set").rename(place.target)
            finally:
                if not any((place.work / "set").glob("*")):
                    shutil.rmtree(place.work, ignore_errors=True)  # also the lock: nobody else is at work here
    return written


def _begin(plan: Plan) -> None:
    """Makes the folder of a build ready: finished shards stay, anything else that a stopped one left goes."""
    work = plan.place.work
    if (work / "set").exists():
        began = files.read_json(work / "plan.json")
        if began != plan.made_from:
            changed = ", ".join(key for key in plan.made_from if began.get(key) != plan.made_from[key])
            raise BadInput(
                f"{work} holds the beginning of this set made otherwise (now different: {changed}): give the same "
                "options and source to go on, or delete that folder to begin anew"
            )
    else:
        files.write_json(work / "plan.json", plan.made_from)
        (work / "done").mkdir(exist_ok=True)
        (work / "set").mkdir()
    for left in [*work.glob("*.tmp"), *(work / "done").glob("*.tmp")]:
        left.unlink()
    finished = {shard.file(plan.place.name) for shard in plan.shards if _finished(plan.place, shard)}
    for file in (work / "set").iterdir():
        if file.name not in finished:
            file.unlink()


def _finished(place: Place, shard: Shard) -> Written | None:
    """What a shard holds if an earlier process finished it."""
    file = shard.file(place.name)
    note = place.work / "done" / f"{file}.json"
    if not note.exists() or not (place.work / "set" / file).exists():
        return None
    return Written(**files.read_json(note))


def _make(work: Path, file: str, part: Part) -> tuple[str, Written]:
    """Writes a shard, then notes that it is finished; runs in a process of its own."""
    written = write(work / "set" / file, part, work)
    files.write_json(work / "done" / f"{file}.json", asdict(written))
    return file, written


def _write_shards(plan: Plan, processes: int) -> dict[str, list[Written]]:
    """Writes the shards that are missing; what every shard holds, by split and in order."""
    place = plan.place
    found = {shard.file(place.name): _finished(place, shard) for shard in plan.shards}
    missing = [shard for shard in plan.shards if found[shard.file(place.name)] is None]
    total = sum(shard.records for shard in plan.shards)
    begin = total - sum(shard.records for shard in missing)
    if begin:
        print(f"going on with {begin:,} of {total:,} records from {place.work}", file=sys.stderr)
    tasks = [(place.work, shard.file(place.name), shard.part) for shard in missing]
    with _Progress(total, begin) as progress:
        for file, written in pool.shared(_make, tasks, min(processes, len(tasks))):
            found[file] = written
            progress.add(written.records + len(written.skipped))
    done: dict[str, list[Written]] = {}
    for shard in plan.shards:
        held = found[shard.file(place.name)]
        assert held
        done.setdefault(shard.split, []).append(held)
    return done


class _Progress:
    """A bar on a terminal, else a line now and then."""

    def __init__(self, total: int, begin: int) -> None:
        self._bar = tqdm(total=total, initial=begin, unit=" records", disable=not sys.stderr.isatty())
        self._done, self._total, self._said = begin, total, time.monotonic()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, records: int) -> None:
        self._bar.update(records)
        self._done += records
        if self._bar.disable and time.monotonic() - self._said >= SAY_EVERY:
            self._said = time.monotonic()
            print(f"prepared {self._done:,} of {self._total:,} records", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"another process prepares this set in {work}: wait for it, or stop it") from error
        yield


@contextlib.contextmanager
def _writing(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"--data_dir={str(place.data_dir)!r} cannot be written ({error.strerror or error}); what is finished "
            "is kept: free space or mend that, then run the same command again"
        ) from error
