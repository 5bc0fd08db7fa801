"""The list of a folder's photos by split and class: what a run of them is a run of, saved with it."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resjax.errors import BadInput

TEST_SHARE = 0.2  # of each class, where a folder has no split for testing
THREADS = 16


@dataclass(frozen=True)
class Split:
    """The photos of one split in the order in which they are records.

    Attributes:
        folder: where it is below the folder of photos; '' for that itself.
        sizes: path below `folder`, which begins with the class -> bytes.
    """

    folder: str
    sizes: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def paths(self) -> list[str]:
        """Below the folder of photos."""
        return [os.path.join(self.folder, path) for path in self.sizes]


@dataclass(frozen=True)
class Listing:
    """The photos of a folder.

    Attributes:
        classes: in label order.
        splits: by name.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]

    def labels(self, split: str) -> np.ndarray:
        """int32 [N], in the order of the split."""
        number = {name: label for label, name in enumerate(self.classes)}
        return np.array([number[class_of(path)] for path in self.splits[split].sizes], np.int32)

    def json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        splits = {name: {"folder": s.folder, "files": dict(s.sizes)} for name, s in self.splits.items()}
        return {"classes": list(self.classes), "splits": splits}

    @property
    def digest(self) -> str:
        """Equal for equal lists in the same order."""
        return hashlib.sha256(json.dumps(self.json()).encode()).hexdigest()

    @classmethod
    def from_json(cls, saved: Any, where: object) -> "Listing":
        """Reads what `json` returned; raises BadInput, naming `where` it comes from, for anything else."""
        try:
            splits = {name: Split(str(s["folder"]), dict(s["files"])) for name, s in saved["splits"].items()}
            listing = cls(tuple(map(str, saved["classes"])), splits)
            for name, split in splits.items():
                listing.labels(name)
                if not all(type(size) is int for size in split.sizes.values()):
                    raise ValueError("a size is not a number")
                if any(os.path.isabs(path) or ".." in Path(path).parts for path in split.paths):
                    raise ValueError("a path leads out of the folder")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{where} is not a list of photos ({type(error).__name__}: {error}): restore it from a copy"
            ) from error
        return listing

    def changes(self, root: Path) -> list[str]:
        """What has become of the files in `root` that are not as listed, a line each."""

        def change(path: str, size: int) -> str | None:
            try:
                now = (root / path).stat().st_size
            except OSError as error:
                return f"{path} is gone" if isinstance(error, FileNotFoundError) else f"{path}: {error.strerror}"
            return None if now == size else f"{path} has {now:,} bytes and had {size:,}"

        with ThreadPoolExecutor(THREADS) as pool:
            listed = [pair for s in self.splits.values() for pair in zip(s.paths, s.sizes.values(), strict=True)]
            return [line for line in pool.map(lambda pair: change(*pair), listed) if line]


def class_of(path: str) -> str:
    """The folder of its split that a photo lies in, at whatever depth."""
    return path.partition("/")[0]


def mixed(sizes: Mapping[str, int], seed: int) -> dict[str, int]:
    """Files in an order in which every slice has its share of every class, to within one image.

    Within a class they come in the order of a hash of seed and name, so that a file added later does not change the
    order of the others.
    """
    rank: dict[str, tuple[float, str]] = {}
    for name, own in _by_class(sizes, seed):
        rank |= {path: ((place + 0.5) / len(own), name) for place, path in enumerate(own)}
    return {path: sizes[path] for path in sorted(rank, key=rank.__getitem__)}


def divided(sizes: Mapping[str, int], seed: int) -> tuple[dict[str, int], dict[str, int]]:
    """Files for training, and for testing: of each class `TEST_SHARE`, at least one, none if it has only one."""
    test: set[str] = set()
    for _, own in _by_class(sizes, seed):
        test.update(own[: max(1, round(TEST_SHARE * len(own))) if len(own) > 1 else 0])
    return ({p: n for p, n in sizes.items() if p not in test}, {p: n for p, n in sizes.items() if p in test})


def _by_class(paths: Iterable[str], seed: int) -> Iterable[tuple[str, list[str]]]:
    """Every class with its paths in the order of a hash of seed and name."""
    classes: dict[str, list[str]] = {}
    for path in sorted(paths):
        classes.setdefault(class_of(path), []).append(path)
    for name, own in sorted(classes.items()):
        yield name, sorted(own, key=lambda path: hashlib.sha256(os.fsencode(f"{seed}/{path}")).digest())
