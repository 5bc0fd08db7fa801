"""One run at a time in a workdir."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold(workdir: Path) -> Iterator[None]:
    yield
