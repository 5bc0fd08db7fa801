"""A folder of photos as a data set: FOLDER/{train,val}/CLASS/*.jpg, or FOLDER/CLASS/*.jpg.

Classes are the sorted names of their folders, as torchvision has them; photos may lie at any depth below. Folders
named train, val, validation, valid and test are splits. Where there is none to test on, a fifth of each class is
held out.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resjax import paths
from resjax.data import jpeg, photo, scan
from resjax.data.listing import Listing, Split, class_of, divided, mixed
from resjax.data.sources import Source
from resjax.data.splits import Slice
from resjax.errors import BadInput

NAME = "folder"  # as data.name
LIST = "files.json"  # of a run: its `Listing`
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
KINDS = "JPEG, PNG, WebP, BMP, TIFF, PPM or PGM"
SPLITS = ("train", "val", "validation", "valid", "test")
TESTED_ON = ("test", "validation", "val", "valid")  # the first of these that there is
LIKE_A_SPLIT = re.compile(r"(train|test|val|dev|eval)\w*", re.IGNORECASE)
HIDDEN = ("__MACOSX", "Thumbs.db", "desktop.ini")  # and all that starts with a dot
SHOWN = 10  # damaged files that are named


def source(dir: str, split_seed: int, skip_damaged: bool, listing: Listing | None = None) -> Source:
    """The photos of a folder; reads the ends of files that it has not seen before, and no picture.

    Args:
        dir: the folder.
        split_seed: of the order of files in a split, and of what is held out where there are no splits.
        skip_damaged: go on without damaged files.
        listing: of the run that goes on or is evaluated; no other file is looked at.

    Raises:
        BadInput: for a folder that is not laid out as above, damaged files, or ones that are not as listed.
    """
    root = _root(dir)
    notes: list[str] = []
    if listing is None:
        listing, notes = find(root, split_seed, skip_damaged)
    elif changed := listing.changes(root):
        more = f", and {len(changed) - 1:,} more of its photos have changed" if changed[1:] else ""
        raise BadInput(
            f"data.dir={dir}: {changed[0]} since this run began{more}: restore what was there, or start a new run "
            "in another --workdir"
        )
    known = listing

    def open_slice(part: Slice) -> Photos:
        files, labels = known.splits[part.base].paths, known.labels(part.base)
        return Photos(root, files[part.start : part.stop], labels[part.start : part.stop])

    sizes = {name: len(split) for name, split in known.splits.items()}
    return Source(NAME, sizes, None, len(known.classes), known.classes, open_slice, known, tuple(notes))


def changes(dir: str, listing: Listing) -> list[str]:
    """What has become of the photos in a folder that are not as listed, a line each."""
    return listing.changes(_root(dir))


@dataclass(frozen=True)
class Photos:
    """Records that are files: their paths below `root`, and labels int32 [N]."""

    root: Path
    files: list[str] = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: np.ndarray, least: jpeg.LeastOf | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        files = [self.root / self.files[i] for i in positions.tolist()]
        images = [self._read(path, least and partial(least, row)) for row, path in enumerate(files)]
        return images, self.labels[positions]

    def encoded(self, positions: np.ndarray) -> list[bytes]:
        return [(self.root / self.files[i]).read_bytes() for i in positions.tolist()]

    def _read(self, path: Path, least: jpeg.Least | None) -> np.ndarray:
        try:
            return photo.decode(path.read_bytes(), least)
        except FileNotFoundError as error:
            raise BadInput(f"{path} is gone: restore it") from error
        except Exception as error:  # the decoders raise whatever they please
            reason = paths.one_line(error)[:200]
            raise BadInput(
                f"{path} cannot be read ({reason}): restore it, or start a new run in another --workdir without it"
            ) from error


def _root(dir: str) -> Path:
    if not dir:
        raise BadInput("data.dir is empty: give the folder of your photos, --config.data.dir=PHOTOS")
    root = paths.home("data.dir", dir)
    if not root.is_dir():
        what = "this is a file: give the folder of your photos" if root.exists() else "there is no such folder"
        raise BadInput(f"data.dir={dir}: {what}")
    return root


def find(root: Path, split_seed: int, skip_damaged: bool) -> tuple[Listing, list[str]]:
    """Lists a folder's photos, and what a person should know about it, a line each.

    Raises:
        BadInput: for a folder that is not laid out as the module says, or with damaged files.
    """
    top, notes = _look(root, ""), _Notes()
    folder = {name.lower(): name for name in top.folders if name.lower() in SPLITS}
    others = [name for name in top.folders if name not in folder.values()]
    if "train" in folder and not (others and _look(root, folder["train"]).photos):  # else train is a class
        parts = {name: _classes(root, folder[name], notes) for name in SPLITS if name in folder}
        parts = {name: part for name, part in parts.items() if part}
        if others:
            notes.append(f"not a split, so not looked at: {_few(others)}")
    else:
        _check_nesting(root, top.folders)
        parts, folder = {"": _classes(root, "", notes)}, {"": ""}
    _check_classes(root, parts)
    reasons = scan.damaged(root, [file for part in parts.values() for own in part.values() for file in own])
    if reasons:
        _check_damage(root, parts, reasons, skip_damaged)
        notes.append(f"{_damage(reasons)}; left out")
    sizes = {}
    for name, part in parts.items():
        below = len(folder[name]) + 1 if folder[name] else 0
        kept = [file for own in part.values() for file in own if file.path not in reasons]
        sizes[name] = {file.path[below:]: file.size for file in kept}
    if not any(name in sizes for name in TESTED_ON):
        [(train, whole)] = sizes.items()
        sizes = dict(zip(("train", "test"), divided(whole, split_seed), strict=True))
        if not sizes["test"]:
            raise BadInput(f"data.dir={root}: each class has one photo, so none is left to test on: add some")
        folder = {"train": folder[train], "test": folder[train]}
        notes.append(
            f"no split to test on: a fifth of each class is held out, {len(sizes['test']):,} photos in all"
        )
        if single := [name for name, n in Counter(map(class_of, whole)).items() if n == 1]:
            notes.append(f"of one photo, which is trained on: {_few(single)}")
    classes = tuple(sorted({class_of(path) for path in sizes["train"]}))
    splits = {name: Split(folder[name], mixed(own, split_seed)) for name, own in sizes.items()}
    return Listing(classes, splits), notes.all()


class _Notes(list[str]):
    """What a person should know, a line each; the numbers of files that are no photos, by suffix."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Counter[str] = Counter()

    def others(self) -> str:
        return ", ".join(f"{n:,} {suffix}" for suffix, n in self.other.most_common(5))

    def all(self) -> list[str]:
        return [*self, f"not {KINDS}, so left out: {self.others()}"] if self.other else list(self)


class _Look(NamedTuple):
    """What one folder holds: folders and photos by name, suffixes of other files; and which one it is on disk."""

    folders: list[str]
    photos: list[str]
    other: list[str]
    identity: tuple[int, int]


def _look(root: Path, folder: str) -> _Look:
    """Looks into a folder below `root`."""
    try:
        status = (root / folder).stat()
        found = _Look([], [], [], (status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in HIDDEN:
                    continue
                suffix = os.path.splitext(entry.name)[1].lower()
                if _is_folder(entry):
                    found.folders.append(entry.name)
                elif suffix in SUFFIXES:
                    found.photos.append(entry.name)
                else:
                    found.other.append(suffix or "without a suffix")
    except OSError as error:
        why = "no permission" if isinstance(error, PermissionError) else error.strerror
        raise BadInput(f"data.dir={root}: {root / folder} cannot be looked into ({why}): mend that") from error
    found.folders.sort()
    found.photos.sort()
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _photos(root: Path, folder: str, notes: _Notes) -> list[scan.File]:
    """The photos at any depth below a folder; each real folder is looked into once, whatever links lead there."""
    result, waiting, known = [], [folder], set()
    while waiting:
        here = waiting.pop()
        found = _look(root, here)
        if found.identity in known:
            continue
        known.add(found.identity)
        notes.other.update(found.other)
        waiting += [f"{here}/{name}" for name in found.folders]
        result += [_file(root, f"{here}/{name}") for name in found.photos]
    return sorted(result)


def _file(root: Path, path: str) -> scan.File:
    try:
        status = os.stat(f"{root}/{path}")
    except OSError:
        return scan.File(path, -1, 0)
    return scan.File(path, status.st_size, status.st_mtime_ns)


Classes = dict[str, list[scan.File]]


def _classes(root: Path, split: str, notes: _Notes) -> Classes:
    """Class -> its photos, of the split in the folder `split`; none for a test split without labels."""
    folder, found = root / split, _look(root, split)
    if found.photos and not found.folders and split.lower() == "test":
        notes.append(f"{split} has no class folders, so no labels: it is not used")
        return {}
    if found.photos:
        raise BadInput(
            f"data.dir={root}: {len(found.photos):,} photos lie directly in {folder}, such as {found.photos[0]}: "
            f"put each into a folder named for its class, {folder / 'CLASS'}/*.jpg"
        )
    classes = {}
    for name in found.folders:
        paths.check_text("data.dir: a class folder's name", name)
        classes[name] = _photos(root, f"{split}/{name}" if split else name, notes)
    if not any(classes.values()):
        notes.other.update(found.other)
        seen = f" (there are {notes.others()})" if notes.other else ""
        raise BadInput(f"data.dir={root}: no photos in {folder}{seen}: put {KINDS} files into {folder / 'CLASS'}/")
    if empty := [name for name, photos in classes.items() if not photos]:
        seen = f" (there are {notes.others()})" if notes.other else ""
        raise BadInput(
            f"data.dir={root}: no photos of the class{'es' * bool(empty[1:])} {_few(empty)} in {folder}{seen}: add "
            f"{KINDS} files, or take the folder away"
        )
    return classes


def _check_nesting(root: Path, folders: Sequence[str]) -> None:
    """Refuses a folder whose folders are no classes: it holds the one that is meant, or splits by other names."""
    looks = {name: _look(root, name) for name in folders}
    inner = {name: found.folders for name, found in looks.items() if found.folders and not found.photos}
    if len(folders) == 1 and inner and ("train" in inner[folders[0]] or len(inner[folders[0]]) > 1):
        raise BadInput(
            f"data.dir={root} holds one folder, and what is meant seems to be in it: give "
            f"--config.data.dir={root / folders[0]}"
        )
    if like := [name for name, below in inner.items() if len(below) > 1 and LIKE_A_SPLIT.fullmatch(name)]:
        raise BadInput(
            f"data.dir={root}: {_few(like)} look{'s' * (len(like) == 1)} like splits of the set: name the one to "
            f"train on train, and the others {', '.join(SPLITS[1:-1])} or {SPLITS[-1]}"
        )


def _check_classes(root: Path, parts: dict[str, Classes]) -> None:
    """Raises BadInput for one class only, and for a class that cannot be trained."""
    train = next(iter(parts.values()))
    where = root / next(iter(parts))
    if len(train) < 2:
        raise BadInput(
            f"data.dir={root}: there is one class only, {next(iter(train))}, in {where}: a network tells at least "
            "two apart, each a folder of photos"
        )
    for name, part in parts.items():
        if lacking := sorted(part.keys() - train.keys()):
            swapped = train.keys() < part.keys() and _count(part) > _count(train)
            raise BadInput(
                f"data.dir={root}: {name} has the class {_few(lacking)}, which train lacks; train has "
                f"{_few(sorted(train))}: {'exchange the names train and ' + name if swapped else 'make them equal'}"
            )


def _check_damage(root: Path, parts: dict[str, Classes], reasons: dict[str, str], skip: bool) -> None:
    """Raises BadInput for damaged files, unless they are to be skipped and every class keeps one to train on."""
    if not skip:
        total = sum(map(_count, parts.values()))
        raise BadInput(
            f"data.dir={root}: of {total:,} photos {_damage(reasons)}: mend them or take them away, or go on "
            "without them by --config.data.skip_damaged=true"
        )
    for name, photos in next(iter(parts.values())).items():
        if all(file.path in reasons for file in photos):
            raise BadInput(
                f"data.dir={root}: no photo of class {name} can be trained on, all {len(photos):,} are damaged: "
                "mend them, or take the class away"
            )


def _damage(reasons: dict[str, str]) -> str:
    """'2 are damaged: cat/1.jpg (empty), cat/2.jpg (truncated)'."""
    shown = [f"{path} ({reason})" for path, reason in list(reasons.items())[:SHOWN]]
    more = f" and {len(reasons) - SHOWN:,} more" if len(reasons) > SHOWN else ""
    return f"{len(reasons):,} {'is' if len(reasons) == 1 else 'are'} damaged: {', '.join(shown)}{more}"


def _count(part: Classes) -> int:
    return sum(map(len, part.values()))


def _few(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if names[5:] else "")
