"""CIFAR from small batches in the published layouts, to TFDS sets and back."""

import dataclasses
import gzip
import io
import json
import os
import pickle
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from resjax import cli
from resjax.data.loader import open_dataset
from resjax.data.prepare import cifar
from resjax.data.prepare.__main__ import main
from resjax.data.prepared import prepared
from resjax.data.resolve import resolve
from resjax.data.splits import Slice
from resjax.errors import BadInput

RECORDS = 12  # images in a file; the published files have 10,000 or 50,000

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    for name, published in cifar.PUBLISHED.items():
        small = dataclasses.replace(published, records={"train": RECORDS, "test": RECORDS})
        monkeypatch.setitem(cifar.PUBLISHED, name, small)


def names_of(name):
    if name == "cifar10":
        return {"label": CIFAR10_NAMES}
    return {"coarse_label": [f"coarse_{i}" for i in range(20)], "label": [f"fine_{i}" for i in range(100)]}


def make_data(name, files):
    """Per file: images uint8 [N, 32, 32, 3] and labels by name."""
    rng = np.random.default_rng(0)
    return {
        file: (
            rng.integers(0, 256, (RECORDS, 32, 32, 3), np.uint8),
            {label: rng.integers(0, len(names), RECORDS) for label, names in names_of(name).items()},
        )
        for file in files
    }


def python2_pickle(batch):
    """The batch as Python 2 wrote it: protocol 2, byte strings as such, old NumPy module names."""
    out = [b"\x80\x02"]

    def write(value):
        if isinstance(value, bytes):
            out.append(b"T" + len(value).to_bytes(4, "little") + value)
        elif isinstance(value, int):
            out.append(b"J" + value.to_bytes(4, "little", signed=True))
        elif isinstance(value, list):
            out.append(b"](")
            for item in value:
                write(item)
            out.append(b"e")
        elif isinstance(value, dict):
            out.append(b"}(")
            for key, item in value.items():
                write(key)
                write(item)
            out.append(b"u")
        else:  # uint8 array
            out.append(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01")
            for side in value.shape:
                write(side)
            out.append(
                b"\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
            )
            write(value.tobytes())
            out.append(b"tb")

    write(batch)
    return b"".join(out) + b"."


def published_files(name, version, dump=python2_pickle):
    """File name -> contents, for the 'binary' or 'python' version."""
    layout = cifar.PUBLISHED[name].layouts[version == "python"]
    assert bool(layout.label_keys) == (version == "python")
    plain = [file.removesuffix(".bin") for files in layout.files.values() for file in files]
    files = {}
    for file, (images, labels) in make_data(name, plain).items():
        planes = images.transpose(0, 3, 1, 2).reshape(RECORDS, -1)
        if version == "binary":
            columns = [labels[label][:, None].astype(np.uint8) for label in layout.names]
            files[file + ".bin"] = np.concatenate([*columns, planes], axis=1).tobytes()
        else:
            lists = {layout.label_keys[label].encode(): values.tolist() for label, values in labels.items()}
            files[file] = dump({b"batch_label": b"x", b"data": planes, **lists})
    names = names_of(name)
    if version == "binary":
        files |= {layout.names[label]: "\n".join([*names[label], ""]).encode() for label in names}
    else:
        files[layout.meta] = dump({layout.names[k].encode(): [n.encode() for n in v] for k, v in names.items()})
    return layout.folder, files


def write_folder(root, folder, files):
    (root / folder).mkdir(parents=True)
    for file, content in files.items():
        (root / folder / file).write_bytes(content)
    return root / folder


def write_tar(root, folder, files):
    path = root / "published.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    ("version", "dump", "container"),
    [
        ("binary", None, "folder"),
        ("binary", None, "parent"),
        ("binary", None, "tar"),
        ("python", python2_pickle, "folder"),
        ("python", python2_pickle, "tar"),
        ("python", lambda batch: pickle.dumps(batch, protocol=2), "folder"),
    ],
)
def test_every_layout_reads_back_the_same(tmp_path, capsys, name, version, dump, container):
    folder, files = published_files(name, version, dump)
    source = write_tar(tmp_path, folder, files) if container == "tar" else write_folder(tmp_path, folder, files)
    source = source.parent if container == "parent" else source
    out = tmp_path / "sets"
    assert main([name, "--source", str(source), "--data_dir", str(out)]) == 0
    assert f"wrote {out}/{name}/3.0.2" in capsys.readouterr().out

    layout = cifar.PUBLISHED[name].layouts[0]
    expected = make_data(name, [file.removesuffix(".bin") for split in layout.files.values() for file in split])
    read = prepared(name, str(out))
    for split, split_files in layout.files.items():
        plain = [file.removesuffix(".bin") for file in split_files]
        want = {
            image.tobytes(): int(label)
            for file in plain
            for image, label in zip(expected[file][0], expected[file][1]["label"], strict=True)
        }
        got = read.load(Slice(split, 0, read.sizes[split]))
        assert len(got.images) == len(want) == RECORDS * len(plain)
        assert {image.tobytes(): int(label) for image, label in zip(got.images, got.labels, strict=True)} == want
    assert read.class_names == tuple(names_of(name)["label"])


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_the_next_command_is_one(tmp_path, capsys, monkeypatch, name, classes):
    monkeypatch.chdir(Path(__file__).parents[2])
    source = write_folder(tmp_path, *published_files(name, "binary"))
    out = tmp_path / "my sets"
    assert main([name, "--source", str(source), "--data_dir", str(out)]) == 0
    program, arguments = capsys.readouterr().out.split("; next: ")[1].split(" -m resjax.main ")
    assert program == "python"
    config = cli.load(shlex.split(arguments))
    assert (config.data.name, config.data.dir) == (name, str(out))
    data = resolve(**config.data)
    assert (data.num_classes, data.image_shape, data.train_size) == (
        classes,
        (32, 32, 3),
        RECORDS * (5 if name == "cifar10" else 1),
    )
    assert (data.augment, data.pad, data.normalize) == ("crop_flip", 4, "pixel_mean")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_set_is_the_stock_one(tmp_path, name):
    import tensorflow_datasets as tfds

    target, _ = cifar.prepare(name, write_folder(tmp_path, *published_files(name, "binary")), tmp_path / "sets")
    assert target == tmp_path / "sets" / name / "3.0.2"
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == [name]
    built, stock = tfds.builder_from_directory(str(target)), tfds.builder(name, data_dir=str(tmp_path / "none"))
    assert (built.name, str(built.version)) == (stock.name, str(stock.version))
    assert built.info.features.to_json() == stock.info.features.to_json()
    assert built.info.supervised_keys == stock.info.supervised_keys
    files = {path.name for path in target.iterdir()}
    assert {f"{name}-{split}.array_record-00000-of-00001" for split in ("train", "test")} < files
    assert {"dataset_info.json", "features.json", "label.labels.txt"} < files
    assert json.loads((target / "dataset_info.json").read_text())["fileFormat"] == "array_record"
    ids = {record["id"].decode() for record in built.as_data_source("test")}
    assert ids == {f"test_{i:05d}" for i in range(RECORDS)}
    if name == "cifar10":
        assert built.info.features["label"].names == CIFAR10_NAMES
    else:
        assert {int(record["coarse_label"]) for record in built.as_data_source("train")} <= set(range(20))


def test_small_sets_are_held_in_memory_and_train(tmp_path, settings):
    cifar.prepare("cifar10", write_folder(tmp_path, *published_files("cifar10", "binary")), tmp_path / "sets")
    slices = {"train_split": "train[:45]", "validation_split": "train[45:]"}
    data = open_dataset(**settings | {"name": "cifar10", "dir": str(tmp_path / "sets"), "pad": 4} | slices)
    assert (data.train_size, data.validation_size, data.test_size) == (45, 15, 12)
    assert (data.num_classes, data.image_shape) == (10, (32, 32, 3))
    batches = data.train(100, seed=0)  # more than the split
    assert next(batches)["image"].shape == (100, 32, 32, 3)
    batches.close()


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickles_of_python_3_are_read(protocol):
    """Whatever the protocol, and in either order of the elements."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 7), np.uint8)
    batch = {b"data": images, b"columns": np.asfortranarray(images), b"labels": [3, 0, 255, 256, 70_000, -1]}
    batch |= {b"names": [b"a.png", b"b.png"], b"count": 10_000, b"batch_label": b"batch 1 of 5"}
    found = cifar.load_arrays("batch", pickle.dumps(batch, protocol=protocol))
    assert found.keys() == batch.keys()
    for key, value in batch.items():
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize(
    ("payload", "asks"),
    [
        (Call(os.system, "true"), "posix.system"),
        (Call(eval, "1 + 1"), r"builtin(s|__)\.eval"),
        (RuntimeError("x"), r"(builtins|exceptions)\.RuntimeError"),
        (np.float64(1), "scalar"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_that_ask_for_more_than_arrays_are_refused(payload, asks, protocol):
    with pytest.raises(BadInput, match=rf"^batch is not a pickle of plain arrays \(it asks for .*{asks}"):
        cifar.load_arrays("batch", pickle.dumps(payload, protocol))


@pytest.mark.parametrize("dtype", ["O", "f8", "i8", "V8"])
def test_pickled_arrays_of_anything_but_bytes_are_refused(dtype):
    with pytest.raises(BadInput, match="not of bytes"):
        cifar.load_arrays("batch", pickle.dumps({b"data": np.zeros(4, dtype)}, protocol=2))


def test_a_pickled_type_may_claim_what_it_likes():
    """NumPy's own `dtype.__setstate__` believes a state that says of objects that they are none."""
    flags = b"K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    honest = python2_pickle({b"data": np.zeros((1, 8), np.uint8)})
    assert flags in honest
    with pytest.raises(BadInput, match="an array of b'O8', not of bytes"):
        cifar.load_arrays("batch", honest.replace(b"U\x02u1", b"U\x02O8"))
    # Of bytes, but with fields, a shape of its own and elements of another size: nothing of it is believed.
    crafted = honest.replace(flags, b"K\x04U\x01|U\x02O8NNJ\x08\x00\x00\x00J\x08\x00\x00\x00K\x3ftb")
    found = cifar.load_arrays("batch", crafted)[b"data"]
    assert (found.dtype, found.shape) == (np.uint8, (1, 8))


def test_a_pickle_may_number_its_values_as_it_likes():
    """An unpickler would make room for four billion of them."""
    assert cifar.load_arrays("batch", b"\x80\x02}r\xff\xff\xff\xff.") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02}",  # no end
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 2**63 bytes
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x00.",  # and as many of a bytearray
        b"\x80\x02]q\x00h\x00a.",  # a list in itself
        b"\x80\x02}U\x01xU\x01ys]b.",  # the state of a list
        b"\x80\x02cnumpy\nndarray\n}b.",  # the state of a class
        b"\x80\x02}U\x01xcnumpy\nndarray\ns.",  # a class as a value
        b"\x80\x02}U\x01x]]as.",  # a list of lists
        b"(" * 100_000,
        b"]" * 100_000 + b"a" * 99_999 + b".",
    ],
)
def test_odd_pickles_are_refused(data):
    with pytest.raises(BadInput, match=r"^batch is not a pickle of plain arrays \(.*\): download the set again$"):
        cifar.load_arrays("batch", data)


def damage(kind, folder, files):
    first = next(iter(files))
    if kind == "truncated":
        files[first] = files[first][:-1]
    elif kind == "short":
        files[first] = files[first][: len(files[first]) // 2]
    elif kind == "missing":
        del files[first]
    elif kind == "label":
        files[first] = bytes([10]) + files[first][1:]
    elif kind == "names":
        files["batches.meta.txt"] = b"cat\ndog\n"
    return folder, files


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "data_batch_1.bin has 36875 bytes, not whole records of 3073"),
        ("short", "data_batch_1.bin holds 6 images, not 12"),
        ("missing", "data_batch_1.bin"),
        ("label", "data_batch_1.bin: image 0 has label 10, outside the 10 classes"),
        ("names", "batches.meta.txt names 2 classes for label, not 10"),
    ],
)
@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_damaged_files_leave_nothing_behind(tmp_path, capsys, kind, message, write):
    source = write(tmp_path, *damage(kind, *published_files("cifar10", "binary")))
    assert main(["cifar10", "--source", str(source), "--data_dir", str(tmp_path / "sets")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "sets").rglob("*"))


@pytest.mark.parametrize("key", ["data", "labels"])
def test_pickled_batches_that_lack_something(tmp_path, key):
    folder, files = published_files("cifar10", "python")
    batch = cifar.load_arrays("x", files["test_batch"])
    del batch[key.encode()]
    source = write_folder(tmp_path, folder, files | {"test_batch": python2_pickle(batch)})
    with pytest.raises(BadInput, match="test_batch is not a CIFAR batch"):
        cifar.read_published("cifar10", source)


def test_pickled_labels_of_another_length(tmp_path):
    folder, files = published_files("cifar10", "python")
    batch = cifar.load_arrays("x", files["test_batch"]) | {b"labels": [1, 2]}
    source = write_folder(tmp_path, folder, files | {"test_batch": python2_pickle(batch)})
    with pytest.raises(BadInput, match="does not give each image one class"):
        cifar.read_published("cifar10", source)


def test_half_an_archive_is_refused(tmp_path):
    path = write_tar(tmp_path, *published_files("cifar10", "binary"))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(BadInput, match="is not a whole archive"):
        cifar.read_published("cifar10", path)


def forge(path, name, size, kind=tarfile.REGTYPE, content=b"", packed=True):
    """An archive with one member whose header may lie."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    header = member.tobuf(tarfile.GNU_FORMAT)
    with (gzip.open if packed else open)(path, "wb") as file:
        file.write(header)
        for part in content if isinstance(content, list) else [content]:
            file.write(part)
    return path


ZEROS = [bytes(2**20)] * 600  # more than an archive may unpack to, in half a megabyte


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        # The header claims a terabyte.
        (lambda p: forge(p, "cifar-10-batches-py/test_batch", 2**40, packed=False), "has 1099511627776 bytes, too"),
        (lambda p: forge(p, "cifar-10-batches-bin/test_batch.bin", 100_000_000), "has 100000000 bytes, too many"),
        # And what is skipped or is a header itself unpacks without end.
        (lambda p: forge(p, "other", len(ZEROS) << 20, content=ZEROS), "unpacks to more than"),
        (lambda p: forge(p, "././@LongLink", len(ZEROS) << 20, tarfile.GNUTYPE_LONGNAME, ZEROS), "unpacks to more"),
        (lambda p: forge(p, "x", len(ZEROS) << 20, tarfile.XHDTYPE, ZEROS), "unpacks to more than"),
        # What is wanted is a link, a device or a pipe.
        *(
            (
                lambda p, kind=kind: forge(p, "cifar-10-batches-py/test_batch", 0, kind),
                "does not hold cifar-10-batches",
            )
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
        ),
    ],
)
def test_hostile_archives(tmp_path, archive, message):
    """One line, and memory in proportion to the published set, whatever an archive claims or unpacks to."""
    program = (
        "import resource, sys; from resjax.data.prepare.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "sys.exit(main(['cifar10', '--source', sys.argv[1], '--data_dir', sys.argv[2]]))"
    )
    path = archive(tmp_path / "bomb.tar.gz")
    done = subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "sets"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: --source='{path}' ")
    assert message in line
    assert not (tmp_path / "sets").exists()


def test_thousands_of_members(tmp_path):
    with tarfile.open(tmp_path / "many.tar.gz", "w:gz") as archive:
        for i in range(3000):
            archive.addfile(tarfile.TarInfo(f"cifar-10-batches-py/{i}"))
    with pytest.raises(BadInput, match="it has more than 100 members"):
        cifar.read_published("cifar10", tmp_path / "many.tar.gz")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_pipes_and_devices_are_not_waited_for(tmp_path, capsys, make):
    make(tmp_path / "source")
    assert main(["cifar10", "--source", f"{tmp_path}/source", "--data_dir", f"{tmp_path}/sets"]) == 2
    assert "is neither a file nor a folder" in capsys.readouterr().err
    folder, files = published_files("cifar10", "python")
    source = write_folder(tmp_path, folder, files)
    (source / "data_batch_3").unlink()
    make(source / "data_batch_3")
    assert main(["cifar10", "--source", str(source), "--data_dir", f"{tmp_path}/sets"]) == 2
    assert "data_batch_3 is not a regular file" in capsys.readouterr().err


def test_a_file_longer_than_any_published_one(tmp_path):
    folder, files = published_files("cifar10", "binary")
    source = write_folder(tmp_path, folder, files)
    with (source / "data_batch_2.bin").open("ab") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(BadInput, match=r"data_batch_2.bin has more than \d+ bytes, too many"):
        cifar.read_published("cifar10", source)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: name, --source, --data_dir"),
        (["cifar11", "--source=x", "--data_dir=y"], "invalid choice: 'cifar11'"),
        (["cifar10", "--source=x", "--data_dir=y", "--fast"], "unrecognized arguments: --fast"),
        (["cifar10", "--source=x\0y", "--data_dir=y"], "--source='x\\x00y' holds the control character"),
        (["cifar10", "--source=x", "--data_dir=y\nz"], "--data_dir='y\\nz' holds the control character"),
        (["cifar10", "--source=" + "x" * 5000, "--data_dir=y"], "is too long"),
        (["cifar10", "--source=x", "--data_dir=" + "y/" * 5000], "is too long"),
        (["cifar10", "--source=x", "--data_dir=--"], "--data_dir: expected one argument"),
        (
            ["cifar10", "--source=~nobody-here/x", "--data_dir=y"],
            "--source='~nobody-here/x': there is no such user",
        ),
    ],
)
def test_bad_flags_are_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("source", ["nowhere", "empty", "file"])
def test_sources_that_hold_no_cifar(tmp_path, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"hello")
    with pytest.raises(BadInput, match="--source="):
        cifar.read_published("cifar10", tmp_path / source)


def test_an_existing_set_is_kept(tmp_path, capsys):
    source = write_folder(tmp_path, *published_files("cifar10", "binary"))
    command = ["cifar10", "--source", str(source), "--data_dir", str(tmp_path / "sets")]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sets").rglob("*")}
    capsys.readouterr()
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sets").rglob("*")} == before


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(image):
        raise OSError("disk full")

    monkeypatch.setattr(cifar, "_png", fail)
    source = write_folder(tmp_path, *published_files("cifar10", "binary"))
    with pytest.raises(BadInput, match="disk full"):
        cifar.prepare("cifar10", source, tmp_path / "sets")
    assert not list((tmp_path / "sets").rglob("*"))


def test_tensorflow_is_never_imported(tmp_path, settings):
    source = write_folder(tmp_path, *published_files("cifar10", "binary"))
    changes = {"name": "cifar10", "dir": str(tmp_path / "sets")}
    program = f"""
import dataclasses, sys
from resjax.data.prepare import cifar
from resjax.data.prepare.__main__ import main
from resjax.data.loader import open_dataset
small = dataclasses.replace(cifar.PUBLISHED["cifar10"], records={{"train": {RECORDS}, "test": {RECORDS}}})
cifar.PUBLISHED["cifar10"] = small
assert main(["cifar10", "--source", {str(source)!r}, "--data_dir", {changes["dir"]!r}]) == 0
data = open_dataset(**{settings | changes!r})
batches = data.train(8, seed=0)
next(batches)
batches.close()
assert len(list(data.evaluate("test", 8))) == 2
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
