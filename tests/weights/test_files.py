"""Safetensors and files of torch.save: what sound ones hold, and that hostile ones are refused in one line."""

import io
import json
import os
import pickle
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from resjax.errors import BadInput
from resjax.weights import source, tensors, torch_file
from tests.weights.conftest import FIXTURES, NETWORKS

FLOAT = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def two(first, second):
    return {"a": FLOAT | {"data_offsets": first}, "b": FLOAT | {"data_offsets": second}}


def refused(path, content, says, longest):
    """A file with this content is refused, by its name and in a line of fewer characters than `longest`."""
    path.write_bytes(content)
    with pytest.raises(BadInput, match=says) as error:
        source.open(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < longest


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (safetensors({"a": FLOAT}, length=2**40), "ends within its header"),
        (b"\x05\0\0", "ends within its header"),
        (safetensors(b"{" * 10**5), "not a sound"),
        (safetensors(b'{"a": ' + b"[" * 10**5), "not a sound"),
        (safetensors(b'{"a": ' + b"9" * 5000 + b"}"), "not a sound"),
        (safetensors(b"\xff{}"), "not a sound"),
        (safetensors([1]), "not a dictionary"),
        (safetensors({"a": [1]}), "'a' is not given as dtype, shape and data_offsets"),
        (safetensors({"a": FLOAT | {"more": 1}}), "'a' is not given as dtype, shape and data_offsets"),
        (safetensors({"a": FLOAT | {"dtype": "O"}}), "'a' is of type 'O', which is not read here"),
        (safetensors({"a": FLOAT | {"dtype": ["F32"]}}), "which is not read here"),
        (safetensors({"a": FLOAT | {"dtype": "F64"}}), "but has 8 bytes"),
        (safetensors({"a": FLOAT | {"shape": [3]}}), "but has 8 bytes"),
        (safetensors({"a": FLOAT | {"shape": [-1, -2]}}), "not of whole numbers"),
        (safetensors({"a": FLOAT | {"shape": [2.0]}}), "not of whole numbers"),
        (safetensors({"a": FLOAT | {"shape": [True, 2]}}), "not of whole numbers"),
        (safetensors({"a": FLOAT | {"shape": [2**70, 0]}}), "not of whole numbers"),
        (safetensors({"a": FLOAT | {"shape": [1] * 70}}), "more than 8"),
        (safetensors({"a": FLOAT | {"data_offsets": [-8, 0]}}), "not two whole numbers"),
        (safetensors({"a": FLOAT | {"data_offsets": [8, 0]}}), "but has -8 bytes"),
        (safetensors({"a": FLOAT | {"data_offsets": [0, 8, 8]}}), "not two whole numbers"),
        (safetensors({"a": FLOAT | {"data_offsets": [8, 16]}}, b"\0" * 16), "8 bytes lie between"),
        (safetensors({"a": FLOAT | {"data_offsets": [8, 16]}}), "overlap|lie between"),
        (safetensors(two([0, 8], [4, 12]), b"\0" * 12), "overlap"),
        (safetensors(two([0, 8], [0, 8])), "overlap"),
        (safetensors({"a": FLOAT}, b"\0" * 7), "overlap"),  # cut
        (safetensors({"a": FLOAT}, b"\0" * 9), "1 bytes lie between"),
        (safetensors(b'{"a": %b, "a": %b}' % ((json.dumps(FLOAT).encode(),) * 2)), "a name comes twice"),
        (safetensors({"__metadata__": {"a": 1}, "a": FLOAT}), "__metadata__ is not text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_safetensors_are_refused(tmp_path, content, says):
    refused(tmp_path / "model.safetensors", content, says, 500)


def test_a_header_of_gigabytes_takes_no_memory(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((2**33).to_bytes(8, "little") + b"{")
        file.truncate(2**33 + 8)  # a hole, which takes no place on the disk
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="its header takes 8,589,934,592 bytes, more than 10,000,000"):
            source.open(path)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_safetensors_go_out_and_in(tmp_path):
    rng = np.random.default_rng(0)
    out = {
        "b": rng.normal(size=(3, 2)).astype(np.float32).T,
        "a": np.array(7),
        "none": np.zeros((0, 3), np.float16),
        "flags": np.array([True, False, True]),
    }
    tensors.write(tmp_path / "x.safetensors", out, {"by": "test"})
    found, metadata = tensors.read(tmp_path / "x.safetensors")
    assert (found.keys(), metadata) == (out.keys(), {"by": "test"})
    for name, array in out.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    first = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(first[:8], "little")
    assert length % 8 == 0
    end = max(entry["data_offsets"][1] for name, entry in json.loads(first[8 : 8 + length]).items() if name in out)
    assert end == len(first) - 8 - length
    tensors.write(tmp_path / "x.safetensors", dict(reversed(out.items())), {"by": "test"})
    assert (tmp_path / "x.safetensors").read_bytes() == first


def test_arrays_may_begin_anywhere(tmp_path):
    header = {"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, "b": FLOAT | {"data_offsets": [3, 11]}}
    for spaces in range(4):
        text = json.dumps(header).encode() + b" " * spaces
        (tmp_path / "x").write_bytes(safetensors(text, bytes([1, 2, 3]) + np.float32([4, 5]).tobytes()))
        found, _ = tensors.read(tmp_path / "x")
        assert (found["a"].tolist(), found["b"].tolist()) == ([1, 2, 3], [4.0, 5.0])


class Pickle:
    """The pickle of a state dictionary, instruction by instruction: no PyTorch is needed to write one."""

    def __init__(self, storage="torch\nFloatStorage", key="0", tail=(0, (2, 3), (3, 1))):
        identifier = self.tuple(
            self.text("storage"), b"c" + storage.encode() + b"\n", self.text(key), self.text("cpu"), b"K\x06"
        )
        offset, shape, strides = (self.value(part) for part in tail)
        args = self.tuple(identifier + b"Q", offset, shape, strides, b"\x89", b"ccollections\nOrderedDict\n)R")
        self.tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + args + b"R"

    def value(self, value):
        if isinstance(value, tuple):
            return self.tuple(*map(self.value, value))
        return b"J" + value.to_bytes(4, "little", signed=True)

    @staticmethod
    def text(text):
        return b"X" + len(text).to_bytes(4, "little") + text.encode()

    @staticmethod
    def tuple(*parts):
        return b"(" + b"".join(parts) + b"t"

    def state(self, value=None, name="w"):
        return b"\x80\x02ccollections\nOrderedDict\n)R(" + self.text(name) + (value or self.tensor) + b"u."


def archive(pickled, storage=None, compression=zipfile.ZIP_STORED, **more):
    """The bytes of a zip archive as torch.save writes it."""
    file = io.BytesIO()
    data = np.arange(6, dtype=np.float32).tobytes() if storage is None else storage
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, content in ({"data.pkl": pickled, "data/0": data, "byteorder": b"little"} | more).items():
            if content is not None:
                out.writestr(f"archive/{name}", content)
    return file.getvalue()


def test_tensors_are_views_of_their_storages(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(archive(Pickle(tail=(1, (2, 2), (1, 2))).state()))
    found, notes = torch_file.read(path)
    np.testing.assert_array_equal(found["w"], [[1, 3], [2, 4]])
    assert (found["w"].dtype, notes) == (np.float32, ())
    with pytest.raises(ValueError, match="read-only"):
        found["w"][0] = 1
    path.write_bytes(archive(Pickle(tail=(6, (0, 3), (3, 1))).state()))
    assert torch_file.read(path)[0]["w"].shape == (0, 3)


def overlapping():
    """An archive whose members share the bytes of one."""
    with zipfile.ZipFile(io.BytesIO(content := archive(Pickle().state(), b"\0" * 5000))) as zipped:
        assert zipped.getinfo("archive/data/0").file_size == 5000
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as out:
        info = out.getinfo("archive/data/0")
        for i in range(1, 50):
            twin = zipfile.ZipInfo(f"archive/data/{i}")
            for field in ("CRC", "compress_size", "file_size", "header_offset", "compress_type"):
                setattr(twin, field, getattr(info, field))
            out.filelist.append(twin)
        out._didModify = True
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive(Pickle().state(b"cposix\nsystem\n(X\x04\0\0\0truetR")), "asks for posix.system"),
        (archive(Pickle().state(b"cbuiltins\neval\n(X\x05\0\0\01 + 1tR")), "asks for builtins.eval"),
        (archive(Pickle().state(b"cos\nsystem\n(X\x04\0\0\0truetR")), "asks for os.system"),
        (archive(Pickle().state(b"ctorch\nload\n(X\x01\0\0\0xtR")), "asks for torch.load"),
        (archive(Pickle().state(b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n)R")), "asks for torch"),
        (archive(Pickle().state(b"cargparse\nNamespace\n)\x81}b")), "argparse.Namespace.*save the weights alone"),
        (archive(Pickle().state(b"ccollections\nOrderedDict\n)\x81")), "asks for NEWOBJ"),
        (archive(Pickle().state(b"ctorch\nFloatStorage\n)R")), "makes a storage by hand"),
        (archive(Pickle().state(b"(itorch\nload\n")), "asks for INST"),
        (archive(Pickle(storage="numpy\nobject_").state()), "asks for numpy.object_"),
        (archive(Pickle(storage="collections\nOrderedDict").state()), "not a storage"),
        (archive(Pickle(key="../../etc/passwd").state()), "data/../../etc/passwd"),
        (archive(Pickle(key="1").state()), "data/1"),
        (archive(Pickle(tail=(0, (2, 4), (4, 1))).state()), "reaches beyond its storage of 6"),
        (archive(Pickle(tail=(1, (2, 3), (3, 1))).state()), "reaches beyond its storage"),
        (archive(Pickle(tail=(0, (2, 3), (6, 1))).state()), "reaches beyond its storage"),
        (archive(Pickle(tail=(-1, (2,), (1,))).state()), "not of whole numbers"),
        (archive(Pickle(tail=(5, (2,), (-1,))).state()), "not of whole numbers"),
        (archive(Pickle(tail=(0, (-2,), (1,))).state()), "not of whole numbers"),
        (archive(Pickle(tail=(0, (2, 3), (1,))).state()), "2 axes and 1 strides"),
        (archive(Pickle(tail=(0, (2**30, 2**30), (0, 0))).state()), "reaches beyond"),  # one element as many
        (archive(Pickle(tail=(0, (1,) * 9, (1,) * 9)).state()), "9 axes"),
        (archive(Pickle(storage="torch\nDoubleStorage").state(), b"\0" * 12), "does not hold whole elements"),
        (archive(Pickle(storage="torch\nDoubleStorage").state()), "reaches beyond its storage of 3"),
        (archive(Pickle().state(b"K\x01")), "'w' is a int and not a tensor"),
        (archive(b"\x80\x02K\x01."), "a int where a dict belongs"),
        (archive(Pickle().state()[:-1]), "pickle exhausted|no end"),
        (archive(b"\x80\x02}r\xff\xff\xff\xff(q\x00" + b"0" * 40), "not a plain file"),
        (archive(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f."), "not a plain file"),
        (archive(b"\x80\x02)" + b"q\x00h\x00\x86" * 64 + b"K\x01\x86."), "not a plain file"),  # 2**64 leaves
        (archive(b"\x80\x02})" + b"q\x00h\x00\x86" * 64 + b"K\x01s."), "a tuple as the key"),
        (archive(Pickle().state(), **{"data.pkl": None}), "no data.pkl"),
        (archive(Pickle().state(), b"", zipfile.ZIP_DEFLATED, **{"constants.pkl": b"\0" * 10**4}), "TorchScript"),
        (archive(Pickle().state(), byteorder=b"big"), "big-endian"),
        (archive(Pickle().state(), b"\0" * 10**6, zipfile.ZIP_DEFLATED), "unpacks to more than it holds"),
        (archive(Pickle().state(), os.urandom(5000), zipfile.ZIP_DEFLATED), "or is compressed"),
        (overlapping(), "unpacks to more than it holds|Overlapped"),
        (archive(Pickle().state())[:-30], "not a plain file"),
        (archive(Pickle().state()).replace(np.float32(5).tobytes(), np.float32(6).tobytes()), "CRC"),
        (torch_file.LEGACY + b"\0" * 50, "format of PyTorch 0.4 to 1.5.*save it again"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "tar archive.*save it again"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x80\x02}.", "neither safetensors nor a zip"),
        (b"", "neither safetensors nor a zip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_torch_files_are_refused(tmp_path, content, says, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("a pickle was run"))
    refused(tmp_path / "x.pth", content, says, 700)


def test_no_unpickler_is_used(monkeypatch):
    for name in ("Unpickler", "_Unpickler", "load", "loads"):
        monkeypatch.setattr(pickle, name, lambda *_: pytest.fail("a pickle was run"))
    found, notes = torch_file.read(FIXTURES / "torchvision_grouped.pth")
    assert "conv1.weight" in found
    assert [note.split(",")[0] for note in notes] == [
        "of its entries only 'state_dict' is taken",
        "its names begin with 'module.'",
    ]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder.symlink_to("/dev/zero"), "no such file or folder"),
        (lambda folder: os.mkfifo(folder), "no such file or folder"),
        (lambda folder: folder.symlink_to(folder), "no such file or folder"),
        (lambda folder: folder.mkdir(), "holds neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_what_is_no_file_is_not_read(tmp_path, make, says):
    make(tmp_path / "weights")
    with pytest.raises(BadInput, match=says):
        source.open(tmp_path / "weights")


def test_files_with_random_damage_are_read_or_refused(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "weights"
    sound = [(FIXTURES / name).read_bytes() for name in ("torchvision_grouped.pth", "timm_d.safetensors")]
    refused = 0
    for case in range(200):
        content = bytearray(sound[case % 2])
        for at in rng.integers(0, 6000, 3):  # most of what is not numbers comes first
            match rng.integers(3):
                case 0:
                    content[at] = rng.integers(256)
                case 1:
                    content[at : at + 20] = content[2 * at : 2 * at + 20]
                case 2:
                    del content[at : at + rng.integers(1, 40)]
        path.write_bytes(content)
        try:
            for array in source.open(path).tensors.values():
                assert array.size <= len(content)
        except BadInput:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "value"),
    [("bn1.running_var", -0.1), ("bn1.running_mean", np.nan), ("layer1.0.conv1.weight", np.inf)],
)
def test_numbers_that_cannot_be_weights_are_refused(tmp_path, name, value):
    _, spec = NETWORKS["torchvision.pth"]
    there = {key: np.array(array) for key, array in source.open(FIXTURES / "torchvision.pth").tensors.items()}
    there[name].flat[1] = value
    tensors.write(tmp_path / "x.safetensors", there, {})
    found = source.open(tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match=f"{name} holds values that cannot be"):
        found.variables(found.network(spec))


@pytest.mark.parametrize("label", ["a\x1b[2Jb", "a\nb", "\ud800"])
def test_class_names_that_would_change_the_terminal_are_refused(tmp_path, label):
    shutil.copytree(FIXTURES / "transformers", tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    config["id2label"]["0"] = label
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"a class name=.* holds the"):
        source.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", "[]", "is not a dictionary"),
        ("config.json", "[" * 10**5, "is damaged"),
        ("config.json", '{"model_type": "vit"}', "is of a model of type 'vit'"),
        ("config.json", '{"model_type": "resnet", "depths": 3}', "must be lists of whole numbers"),
        (
            "config.json",
            '{"model_type": "resnet", "depths": [1000000000], "hidden_sizes": [8]}',
            "at most 20000 in all",
        ),
        ("config.json", '{"model_type": "resnet", "hidden_sizes": ["8", 16]}', "must be whole numbers"),
        ("config.json", '{"model_type": "resnet", "layer_type": ["basic"]}', "must be a word"),
        ("config.json", '{"model_type": "resnet", "hidden_act": "gelu"}', "hidden_act='gelu' is not read here"),
        ("config.json", '{"model_type": "resnet", "downsample_in_first_stage": true}', "is not read here"),
        ("config.json", '{"model_type": "resnet", "downsample_in_bottleneck": 1}', "must be true or false"),
        ("config.json", '{"architecture": "resnet51"}', "did you mean resnet5"),
        ("config.json", '{"architecture": ["resnet50"]}', "is unknown"),
        ("config.json", '{"architecture": "resnet50", "model_args": {"act": 1}}', "changes the network"),
        ("config.json", '{"architecture": "resnet50"}', "has no pretrained_cfg"),
        ("preprocessor_config.json", "{}", "image_mean"),
        ("model.safetensors", "", "not a sound safetensors"),
    ],
)
def test_odd_folders_are_refused(tmp_path, file, content, says):
    shutil.copytree(FIXTURES / "transformers", tmp_path / "x")
    (tmp_path / "x" / file).write_text(content)
    with pytest.raises(BadInput, match=says):
        source.open(tmp_path / "x")


def test_links_lead_to_files_alone(tmp_path):
    """As the Hub's cache has them; a link to a device is as if there were nothing."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(FIXTURES / "transformers" / name)
    assert source.open(tmp_path).spec == source.open(FIXTURES / "transformers").spec
    (tmp_path / "preprocessor_config.json").symlink_to("/dev/zero")
    assert source.open(tmp_path).preprocessing is None
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(BadInput, match="holds neither"):
        source.open(tmp_path)
