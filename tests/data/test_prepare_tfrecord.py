"""Sets that were stored as TFRecord: copied record by record, whatever happens on the way."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.crc32c import crc32c as crc32c_of_another

from resjax.data.loader import open_dataset
from resjax.data.prepare import crc32c, pool
from resjax.data.prepare.__main__ import main
from resjax.data.prepare.tfrecord import place
from resjax.errors import BadInput

SHARDS = {"train": 5, "test": 2}


def masked(data):
    crc = crc32c_of_another(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def tfrecord(records):
    lengths = [struct.pack("<Q", len(record)) for record in records]
    return b"".join(n + masked(n) + r + masked(r) for n, r in zip(lengths, records, strict=True))


@pytest.fixture(scope="module")
def stored(photos_dir, tmp_path_factory):
    """The set 'photos' as TFDS stores it by default, in several shards, and its records by split."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("old") / "photos" / "1.0.0"
    shutil.copytree(photos_dir / "photos" / "1.0.0", folder, ignore=shutil.ignore_patterns("*.array_record*"))
    info = json.loads((folder / "dataset_info.json").read_text())
    del info["fileFormat"]  # as in older sets
    builder, records = tfds.builder_from_directory(str(photos_dir / "photos" / "1.0.0")), {}
    for split in info["splits"]:
        source = builder.as_data_source(split["name"]).data_source
        records[split["name"]] = source.__getitems__(range(len(source)))
        parts = np.array_split(np.arange(len(source)), SHARDS[split["name"]])
        split["shardLengths"] = [str(len(part)) for part in parts]
        for i, part in enumerate(parts):
            name = f"photos-{split['name']}.tfrecord-{i:05d}-of-{len(parts):05d}"
            (folder / name).write_bytes(tfrecord([records[split["name"]][j] for j in part]))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder, records


@pytest.fixture
def damaged(stored, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(stored[0], tmp_path / "old" / "photos" / "1.0.0")


def flags_of(source, data_dir, processes=1):
    return ["tfrecord", f"--source={source}", f"--data_dir={data_dir}", f"--processes={processes}"]


def digests(data_dir):
    """Every file of a set, and nothing beside it."""
    files = [path for path in data_dir.rglob("*") if path.is_file()]
    return {str(f.relative_to(data_dir)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def whole(stored, tmp_path_factory):
    """The digests of the set that nothing happened to."""
    data_dir = tmp_path_factory.mktemp("whole")
    assert main(flags_of(stored[0], data_dir)) == 0
    return digests(data_dir)


def refused(capsys, flags, *parts):
    capsys.readouterr()
    assert main(flags) == 2
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert not out
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line


def test_crc32c():
    """The vectors of RFC 3720, and any length beside another implementation."""
    assert crc32c.crc32c(b"123456789") == 0xE3069283
    assert (crc32c.crc32c(bytes(32)), crc32c.crc32c(b"\xff" * 32)) == (0x8A9136AA, 0x62A8AB43)
    rng = np.random.default_rng(0)
    for size in [*range(40), 1000, 4095, 4097, 100_001]:
        data = rng.bytes(size)
        assert crc32c.crc32c(data) == crc32c_of_another(data), size


@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_records_in_the_same_order(stored, whole, settings, tmp_path, capsys, processes):
    import tensorflow_datasets as tfds

    source, records = stored
    assert main(flags_of(source, tmp_path, processes)) == 0
    assert f"wrote {tmp_path}/photos/1.0.0 (24 train, 7 test)" in capsys.readouterr().out
    assert digests(tmp_path) == whole
    builder = tfds.builder_from_directory(str(tmp_path / "photos" / "1.0.0"))
    assert builder.info.file_format.value == "array_record"
    for split, expected in records.items():
        assert [len(part) for part in np.array_split(expected, SHARDS[split])] == builder.info.splits[
            split
        ].shard_lengths
        held = builder.as_data_source(split).data_source
        assert held.__getitems__(range(len(held))) == expected
    data = open_dataset(**settings | {"name": "photos", "dir": str(tmp_path), "normalize": "channel"} | PHOTOS)
    assert (data.train_size, data.test_size, data.num_classes) == (24, 7, 5)


PHOTOS = {"augment": "resized_crop_flip", "image_size": 16, "pad": None}

# Runs the command, with something put before its start.
PROGRAM = """
import os, resource, signal, sys
from resjax.data.prepare import crc32c
from resjax.data.prepare.__main__ import main
from resjax.data.prepare.tfrecord import place
{before}
sys.exit(main(sys.argv[1:]))
"""
# At the data of a record, counted from one.
AT = """
real, count = crc32c.masked, 0
def masked(data):
    global count
    count += 1
    if count == {record} * 2: {action}
    return real(data)
crc32c.masked = masked
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
FILL = "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"  # no file may grow any more, as with `ulimit -f`


def run(flags, record, action):
    program = PROGRAM.format(before=AT.format(record=record, action=action))
    command = [sys.executable, "-c", program, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_killed_amid_a_shard(stored, whole, tmp_path, capsys):
    """Twice; finished shards stay as they are, and the end is the same as without."""
    flags = flags_of(stored[0], tmp_path)
    assert run(flags, 13, KILL).returncode == -signal.SIGKILL
    work = tmp_path / ".prepare-photos-1.0.0"
    assert os.listdir(tmp_path) == [work.name]
    finished = {path: path.stat().st_mtime_ns for path in (work / "set").iterdir()}
    assert len(finished) == 2  # of five records each
    assert list(work.glob("*.tmp"))  # amid the third
    assert run(flags, 8, KILL).returncode == -signal.SIGKILL
    assert len(list((work / "set").iterdir())) == 3
    for path, time in finished.items():
        assert path.stat().st_mtime_ns == time
    assert main(flags) == 0
    assert "going on with 15 of 31 records" in capsys.readouterr().err
    assert digests(tmp_path) == whole


def test_a_full_disk(stored, whole, tmp_path, capsys):
    flags = flags_of(stored[0], tmp_path)
    done = run(flags, 13, FILL)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: --data_dir='{tmp_path}' cannot be written (")
    assert "File too large" in line
    assert line.endswith("is kept: free space or mend that, then run the same command again")
    assert os.listdir(tmp_path) == [".prepare-photos-1.0.0"]
    assert main(flags) == 0
    assert "going on with 10 of 31 records" in capsys.readouterr().err
    assert digests(tmp_path) == whole


def shard(folder, i=1):
    return folder / f"photos-train.tfrecord-{i:05d}-of-00005"


def edit(at):
    def change(data):
        place = at % len(data)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(3), "the record at byte 0 is damaged (the checksum of its length does not match)"),
        (edit(40), "the record at byte 0 is damaged (its checksum does not match)"),
        (edit(-1), "is damaged (its checksum does not match)"),
        (lambda data: data[:-1], "is damaged (it is cut off)"),
        (lambda data: data + b"\0" * 5, "is damaged (it is cut off)"),
        (lambda data: data + tfrecord([b"x"]), "holds 6 records, not 5"),
        (lambda data: b"", "holds 0 records, not 5"),
    ],
)
def test_damaged_records(damaged, tmp_path, capsys, change, message):
    shard(damaged).write_bytes(change(shard(damaged).read_bytes()))
    refused(capsys, flags_of(damaged, tmp_path / "new"), f"{shard(damaged)}", message)
    assert not (tmp_path / "new" / "photos").exists()


def test_sets_that_cannot_be_rewritten(stored, damaged, photos_dir, tmp_path, capsys):
    new = tmp_path / "new"
    refused(capsys, flags_of(tmp_path / "nowhere", new), "nowhere' is not the folder of a set")
    refused(capsys, flags_of(damaged.parent, new), "give the one named by its version")
    refused(capsys, flags_of(damaged, damaged.parents[1]), "holds --source itself: give another folder")
    refused(capsys, flags_of(photos_dir / "photos" / "1.0.0", new), "is stored as array_record, not tfrecord")
    shard(damaged).unlink()
    refused(capsys, flags_of(damaged, new), f"{shard(damaged)} is missing")
    (damaged / "dataset_info.json").write_text("{")
    refused(capsys, flags_of(damaged, new), "dataset_info.json is damaged")
    (damaged / "dataset_info.json").write_text('{"name": "../x", "version": "1.0.0"}')
    refused(capsys, flags_of(damaged, new), "dataset_info.json names no set")
    assert not new.exists()


def test_one_process_at_a_time_and_one_source(stored, damaged, whole, tmp_path, capsys):
    new = tmp_path / "new"
    flags, work = flags_of(stored[0], new), new / ".prepare-photos-1.0.0"
    assert run(flags, 13, KILL).returncode == -signal.SIGKILL
    with (work / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(capsys, flags, f"another process prepares this set in {work}")
    info = damaged / "dataset_info.json"
    info.write_text(info.read_text().replace('"24"', '"25"').replace('"1.0.0"', '"1.0.0" ', 1) + " ")
    shard(damaged).write_bytes(tfrecord([b"x"] * 5))
    refused(capsys, flags_of(damaged, new), f"{work} holds the beginning of this set", "(now different: source)")
    assert main(flags) == 0
    assert digests(new) == whole
    refused(capsys, flags, f"{new}/photos/1.0.0 exists already")
    assert digests(new) == whole


def test_what_fails_or_dies_in_another_process():
    with pytest.raises(BadInput, match="'nowhere' is not the folder of a set"):
        list(pool.shared(place, [(Path("nowhere"), Path("new"))] * 3, 2))
    with pytest.raises(BadInput, match=r"a process .* ended \(exit code 7; .*with fewer --processes$"):
        list(pool.shared(os._exit, [(7,), (7,), (7,)], 2))
    assert sorted(pool.shared(abs, [(-n,) for n in range(9)], 2)) == list(range(9))
