"""Files: whole or not at all, and read whatever is left of them."""

import contextlib
import errno
import json
import os
import resource

import pytest

from resjax import files
from resjax.errors import BadInput


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 100 bytes. Not a fixture: pytest writes its report before it ends those."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_json(tmp_path):
    value = {"name": "größe", "values": [1, 0.1, None]}
    files.write_json(tmp_path / "a.json", value)
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    for content in (b"", b"{", b'\xff"'):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(BadInput, match=rf"^{tmp_path}/a.json is damaged \(.*restore it, or choose another"):
            files.read_json(tmp_path / "a.json")


def test_a_full_disk_leaves_the_file_and_nothing_else(tmp_path):
    files.replace(tmp_path / "a", "old")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        files.replace(tmp_path / "a", "new" * 100)
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_crash_leaves_the_old_or_the_new(tmp_path, monkeypatch, at):
    """The new is on the disk before it takes the name; what a kill leaves is known as temporary."""
    files.replace(tmp_path / "a", "old")
    names = []

    def fail(*_):
        names.extend(path.name for path in tmp_path.iterdir())
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, at, fail)
    with pytest.raises(OSError, match="Input/output"):
        files.replace(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(map(files.is_temporary, map(tmp_path.joinpath, names))) == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_two_at_once_do_not_mix(tmp_path, monkeypatch):
    """The second writes and is done while the first is about to take the name."""
    real = os.replace

    def late(*paths):
        monkeypatch.setattr(os, "replace", real)
        files.replace(tmp_path / "a", "second")
        real(*paths)

    monkeypatch.setattr(os, "replace", late)
    files.replace(tmp_path / "a", "first")
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_new_files_are_as_open_as_others(tmp_path):
    files.replace(tmp_path / "a", "")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert files.read_lines(path) == []
    good = [{"step": step, "text": "a\u2028b"} for step in range(4)]
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in good]
    bad = [
        b"",
        b"\x00" * 20,
        b"\xff\xfe\x00garbage",
        b"[1]",
        b"3",
        b'"text"',
        b"null",
        b"[" * 10**6,
        b'{"step": 5, "spl',
    ]
    mixed = [lines[0], bad[0], bad[1], bad[2], lines[1] + b"\r", *bad[3:8], lines[2], lines[3], bad[8]]
    path.write_bytes(b"\n".join(mixed))
    assert files.read_lines(path) == good
