"""ImageNet, folders of photos and Parquet files, made small, to TFDS sets and back."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resjax.data import folders, photo
from resjax.data.loader import open_dataset
from resjax.data.prepare import imagenet
from resjax.data.prepare.__main__ import main
from resjax.data.prepared import prepared
from resjax.data.splits import Slice

WNIDS = ["n01440764", "n01739381", "n02105855", "n15075141"]  # of label 0, 59, 251 and 999
CMYK, PNG = "n01739381_1309.JPEG", "n02105855_2933.JPEG"
RECIPE = {
    "augment": "resized_crop_flip",
    "image_size": 16,
    "pad": None,
    "normalize": "channel",
    "test_split": "validation",
}


def encoded(seed, kind="jpeg", mode="RGB", size=(40, 60), **options):
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size[::-1]).convert(mode).save(file, kind, **options)
    return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def lightness(data):
    return np.asarray(opened(data).convert("RGB").convert("L")).astype(int)


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def train_images():
    """wnid -> file name -> contents."""
    classes = {
        wnid: {f"{wnid}_{7 * i}.JPEG": encoded(i, mode="RGB" if i else "L") for i in range(5)} for wnid in WNIDS
    }
    classes["n01739381"][CMYK] = encoded(50, mode="CMYK")
    classes["n02105855"][PNG] = encoded(51, "png")
    return classes


def val_images():
    return {f"ILSVRC2012_val_{i:08d}.JPEG": encoded(100 + i) for i in (3, 1, 50_000, 2)}


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    inner = {f"{wnid}.tar": tar(images) for wnid, images in train_images().items()}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(val_images()))
    return folder


@pytest.fixture(scope="module")
def stock():
    """What TFDS says of its own set."""
    import tensorflow_datasets as tfds

    return tfds.builder("imagenet2012", data_dir="/nowhere").info


def flags_of(kind, source, data_dir, *more):
    return [kind, f"--source={source}", f"--data_dir={data_dir}", "--processes=1", *more]


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def records(folder, split):
    """The records of a set as plain TFDS reads them, with the images as they are encoded."""
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(str(folder)).as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return [source[i] for i in range(len(source))]


def cut_into(shards, monkeypatch):
    """Small sets become one shard, unless told otherwise."""
    from tensorflow_datasets.core.utils.shard_utils import ShardConfig

    monkeypatch.setattr(ShardConfig, "get_number_shards", lambda self, size, n: min(shards, n))


def refused(capsys, flags, *parts):
    capsys.readouterr()
    assert main(flags) == 2
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert not out
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line


def test_imagenet_is_the_stock_set(tars, stock, tmp_path, capsys):
    """Names, features, labels, and the order, which is that of a salted hash of the file name."""
    import tensorflow_datasets as tfds

    assert main(flags_of("imagenet2012", tars, tmp_path, "--partial")) == 0
    folder = tmp_path / "imagenet2012" / "5.1.0"
    assert f"wrote {folder} (22 train, 4 validation); next: python -m resjax.main" in capsys.readouterr().out
    assert tfds.builder_from_directory(str(folder)).info.features.to_json() == stock.features.to_json()
    assert (folder / "label.labels.txt").read_text().split() == stock.features["label"].names
    given = {name: (data, wnid) for wnid, images in train_images().items() for name, data in images.items()}
    names = stock.features["label"].names
    found = records(folder, "train")
    order = sorted(given, key=lambda name: hashlib.md5(b"train" + name.encode()).digest())
    assert [record["file_name"].decode() for record in found] == order
    for record in found:
        data, wnid = given[record["file_name"].decode()]
        assert names[record["label"]] == wnid
        if record["file_name"].decode() in (CMYK, PNG):
            assert (opened(record["image"]).format, opened(record["image"]).mode) == ("JPEG", "RGB")
            assert np.abs(lightness(record["image"]) - lightness(data)).mean() < 1.5
        else:
            assert record["image"] == data
    # n01751748, n09193705, n02105855: the first three labels that TFDS keeps.
    label_of = {
        record["file_name"].decode()[-10:-5]: names[record["label"]] for record in records(folder, "validation")
    }
    assert label_of == {"00001": "n01751748", "00002": "n09193705", "00003": "n02105855", "50000": "n02437616"}


def test_imagenet_in_folders_is_the_same(tars, tmp_path):
    """And again, with the tar of one split and the folders of the other, and with a flat folder of validation."""
    for wnid, images in train_images().items():
        (tmp_path / "sorted" / "train" / wnid).mkdir(parents=True)
        for name, data in images.items():
            (tmp_path / "sorted" / "train" / wnid / name).write_bytes(data)
    (tmp_path / "sorted" / "val").mkdir()
    for name, data in val_images().items():
        (tmp_path / "sorted" / "val" / name).write_bytes(data)
    sets = {}
    for source in (tars, tmp_path / "sorted"):
        assert main(flags_of("imagenet2012", source, tmp_path / source.name, "--partial")) == 0
        sets[source] = digests(tmp_path / source.name / "imagenet2012" / "5.1.0")
    assert sets[tars] == sets[tmp_path / "sorted"]
    label_folder = tmp_path / "sorted" / "val" / "n15075141"
    label_folder.mkdir()
    (tmp_path / "sorted" / "val" / "ILSVRC2012_val_00000001.JPEG").rename(label_folder / "x.JPEG")
    assert main(flags_of("imagenet2012", tmp_path / "sorted", tmp_path / "third", "--partial")) == 0
    [record] = records(tmp_path / "third" / "imagenet2012" / "5.1.0", "validation")
    assert (record["file_name"], record["label"]) == (b"x.JPEG", 999)


def devkit(path, truth, wnids):
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O")]
    synsets = np.array([[(i + 1, wnid, "a, b")] for i, wnid in enumerate(wnids)], kinds)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    text = "".join(f"{number}\n" for number in truth).encode()
    path.write_bytes(tar({imagenet.TRUTH: text, imagenet.META: meta.getvalue()}))


def test_labels_of_the_devkit(tars, stock, tmp_path, capsys):
    """Its numbers are not TFDS's labels: meta.mat says which class they mean."""
    source = Path(shutil.copytree(tars, tmp_path / "source"))
    wnids = stock.features["label"].names[::-1]
    truth = [1 + i % 1000 for i in range(50_000)]
    devkit(source / imagenet.DEVKIT, truth, [*wnids, "n00001740"])  # which also has what lies above the classes
    flags = flags_of("imagenet2012", source, tmp_path, "--partial")
    assert main(flags) == 0
    found = {r["file_name"]: r["label"] for r in records(tmp_path / "imagenet2012" / "5.1.0", "validation")}
    assert [found[f"ILSVRC2012_val_{i:08d}.JPEG".encode()] for i in (1, 2, 3, 50_000)] == [999, 998, 997, 0]
    shutil.rmtree(tmp_path / "imagenet2012")
    devkit(source / imagenet.DEVKIT, truth[:-1], wnids)
    refused(capsys, flags, "devkit_t12.tar.gz has 49,999 labels of validation images, not 50,000")
    devkit(source / imagenet.DEVKIT, [*truth[:-1], 1001], wnids)
    refused(capsys, flags, "devkit_t12.tar.gz holds no labels of validation images (KeyError")
    (source / imagenet.DEVKIT).write_bytes(b"x" * 2000)
    refused(capsys, flags, "devkit_t12.tar.gz holds no labels of validation images (")
    assert not (tmp_path / "imagenet2012").exists()


def with_train(data):
    return {"ILSVRC2012_img_train.tar": data}


def link(name):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    return file.getvalue()


INNER = tar({"n01440764_1.JPEG": encoded(0)})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has neither ILSVRC2012_img_train.tar nor a folder train"),
        (with_train(tar({"n01440764.tar": INNER})[:3000]), "img_train.tar is not a whole tar ("),
        (
            with_train(tar({"n01440764.tar": INNER[:1000]})),
            "img_train.tar is not a whole tar (its n01440764_1.JPEG is",
        ),
        (with_train(b"\x1f\x8b" + INNER), "img_train.tar is not a whole tar ("),
        (with_train(tar({"cat.tar": INNER})), "img_train.tar holds 'cat.tar', which is no class of the set"),
        (with_train(tar({"n01440764.tar": link("a.JPEG")})), "(its a.JPEG is not a plain file)"),
        (with_train(tar({"n01440764.tar": tar({"a.JPEG": b""})})), "a.JPEG has 0 bytes"),
        (
            with_train(tar({"n01440764.tar": tar({"a.JPEG": b"BM123"})})),
            "a.JPEG in {source}/ILSVRC2012_img_train.tar",
        ),
        (with_train(tar({"n01440764.tar": INNER, "n01739381.tar": INNER})), "n01440764_1.JPEG is there twice"),
        (
            {"ILSVRC2012_img_val.tar": tar({"cat.JPEG": encoded(0)})},
            "holds 'cat.JPEG', which is no validation image",
        ),
        ({"train/cat/1.JPEG": encoded(0)}, "train/cat is no class of the set"),
    ],
)
def test_sources_that_are_not_imagenet(tmp_path, capsys, files, message):
    source = tmp_path / "source"
    source.mkdir()
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    flags = flags_of("imagenet2012", source, tmp_path / "new", "--partial")
    refused(capsys, flags, message.format(source=source))
    assert not list(tmp_path.glob("new/*"))


def test_a_part_of_imagenet_is_asked_for(tars, tmp_path, capsys):
    flags = flags_of("imagenet2012", tars, tmp_path / "new")
    refused(capsys, flags, "has 22 images of train, not 1,281,167", "--partial")
    refused(capsys, flags_of("imagenet2012", tmp_path / "none", tmp_path / "new"), "none' is not a folder")
    assert not (tmp_path / "new").exists()


def test_images_encoded_anew_are_another_set(tars, settings, tmp_path):
    more = ("--partial", "--max_side=24", "--quality=80")
    assert main(flags_of("imagenet2012", tars, tmp_path, *more)) == 0
    assert [path.name for path in (tmp_path / "imagenet2012").iterdir()] == ["side24_q80"]
    folder = tmp_path / "imagenet2012" / "side24_q80" / "5.1.0"
    for record in records(folder, "train"):
        image = opened(record["image"])
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (24, 16))
        assert image.quantization[0] == opened(encoded(0, quality=80)).quantization[0]
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["configName"] == "side24_q80"
    for text in (info["description"], info["configDescription"]):
        assert "Every image was encoded anew as a JPEG of quality 80, its longer side at most 24 pixels" in text
    data = open_dataset(
        **settings
        | {"name": "imagenet2012/side24_q80", "dir": str(tmp_path)}
        | RECIPE
        | {"test_split": "validation"}
    )
    assert (data.train_size, data.test_size, data.num_classes) == (22, 4, 1000)


@pytest.fixture
def my_photos(tmp_path):
    """Photos of every kind in two splits and two classes."""
    exif = Image.Exif()
    exif[photo.ORIENTATION] = 6
    files = {
        "train/cat/a.jpg": encoded(0),
        "train/cat/deep/grey.JPG": encoded(1, mode="L"),
        "train/cat/turned.jpg": encoded(2, exif=exif),
        "train/cat/cmyk.jpg": encoded(3, mode="CMYK"),
        "train/犬/a.png": encoded(4, "png"),
        "train/犬/palette.png": encoded(5, "png", mode="P"),
        "train/犬/clear.png": encoded(6, "png", mode="RGBA"),
        "train/犬/a.webp": encoded(7, "webp"),
        "train/犬/a.bmp": encoded(8, "bmp"),
        "val/cat/a.tiff": encoded(9, "tiff"),
        "val/犬/turned.png": encoded(10, "png", exif=exif),
    }
    for name, data in files.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    return tmp_path / "photos"


KEPT = ("train/cat/a.jpg", "train/cat/deep/grey.JPG", "train/犬/a.png")


@pytest.mark.parametrize("shards", [1, 4])
def test_a_folder_is_the_same_set_when_prepared(my_photos, tmp_path, capsys, monkeypatch, shards):
    cut_into(shards, monkeypatch)
    assert main(flags_of("folder", my_photos, tmp_path, "--name=mine")) == 0
    out = capsys.readouterr().out
    assert "(9 train, 2 validation); next: python -m resjax.main --config=configs/photos.py" in out
    own, read = folders.source(str(my_photos), 0, False), prepared("mine", str(tmp_path))
    assert read.class_names == own.class_names == ("cat", "犬")
    folder = tmp_path / "mine" / "1.0.0"
    assert len(list(folder.glob("mine-train.array_record-*"))) == shards
    for split, name in (("train", "train"), ("val", "validation")):
        size = own.sizes[split]
        assert read.sizes[name] == size
        images, labels = own.open(Slice(split, 0, size)).read(np.arange(size))
        again, labels_again = read.open(Slice(name, 0, size)).read(np.arange(size))
        assert labels.tolist() == labels_again.tolist()
        held = records(folder, name)
        for image, other, record in zip(images, again, held, strict=True):
            file = record["file_name"].decode()
            assert (record["image"] == (my_photos / file).read_bytes()) == (file in KEPT)
            assert image.shape == other.shape
            lossy = file.endswith("jpg") and file not in KEPT  # turned, or CMYK
            assert np.abs(image.astype(int) - other).max() <= (40 if lossy else 0), file


def test_damaged_photos(my_photos, tmp_path, capsys):
    """Found by the listing, or only when a file is decoded."""
    cut, broken = my_photos / "train/cat/a.jpg", my_photos / "train/犬/a.bmp"
    broken.write_bytes(broken.read_bytes()[:20] + b"\xff" * 40 + broken.read_bytes()[60:])
    flags = flags_of("folder", my_photos, tmp_path)
    data = (my_photos / "train/cat/turned.jpg").read_bytes()
    place = data.index(b"\xff\xda") + 20
    (my_photos / "train/cat/turned.jpg").write_bytes(data[:place] + b"\xff\xd9" + data[-2:])
    cut.write_bytes(cut.read_bytes()[:-300])
    refused(capsys, flags, f"--source={my_photos}: of 11 photos", "cat/a.jpg (truncated)", "--skip_damaged")
    assert main([*flags, "--skip_damaged"]) == 0
    out, err = capsys.readouterr()
    assert "train" in out
    assert "cat/a.jpg (truncated)" in err
    read = prepared("photos", str(tmp_path))
    assert read.sizes["train"] == len(records(tmp_path / "photos" / "1.0.0", "train")) < 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "there is no such folder"),
        (lambda root: (root / "cat").mkdir(parents=True), "--source="),
    ],
)
def test_folders_that_are_none(tmp_path, capsys, make, message):
    make(tmp_path / "photos")
    refused(capsys, flags_of("folder", tmp_path / "photos", tmp_path / "new"), message, "--source=")
    assert not (tmp_path / "new").exists()


def parquet(path, images, labels, features=None, group=3, **more):
    import pyarrow as pa
    from pyarrow import parquet as pq

    table = {"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    table |= {name: pa.array(values) for name, values in ({"label": labels} | more).items() if values is not None}
    table = pa.table(table)
    if features:
        info = {"info": {"features": {"image": {"_type": "Image"}} | features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def rows(first, number):
    return [{"bytes": encoded(first + i), "path": f"{first + i}.jpg"} for i in range(number)]


NAMED = {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}}


@pytest.mark.parametrize("shards", [1, 2])
def test_parquet_as_the_hub_has_it(tmp_path, settings, monkeypatch, shards):
    """In order, over several files and row groups; a split without labels is left out."""
    cut_into(shards, monkeypatch)
    source = tmp_path / "source"
    parquet(source / "data/train-00000-of-00002-ab12.parquet", rows(0, 7), [i % 3 for i in range(7)], NAMED)
    parquet(source / "data/train-00001-of-00002-ab12.parquet", rows(7, 4), [2, 1, 0, 2], NAMED)
    parquet(source / "default/val/0000.parquet", rows(20, 2), [1, 1], NAMED)
    parquet(source / "test.parquet", rows(30, 2), [-1, -1], NAMED)
    assert main(flags_of("parquet", source, tmp_path, "--name=mine")) == 0
    folder = tmp_path / "mine" / "1.0.0"
    assert len(list(folder.glob("mine-train.array_record-*"))) == shards
    found = records(folder, "train")
    assert [record["image"] for record in found] == [encoded(i) for i in range(11)]
    assert [record["label"] for record in found] == [*(i % 3 for i in range(7)), 2, 1, 0, 2]
    assert found[8]["file_name"] == b"8.jpg"
    read = prepared("mine", str(tmp_path))
    assert (read.sizes, read.class_names) == ({"train": 11, "validation": 2}, ("cat", "dog", "eel"))


def test_parquet_without_a_word_of_the_hub(tmp_path, capsys):
    """Labels that are names, images in need of being turned, and one that is damaged."""
    images = [*rows(0, 2), {"bytes": encoded(2, "webp"), "path": None}, {"bytes": b"x", "path": None}]
    parquet(tmp_path / "source/train.parquet", images, ["b", "a", "b", "a"], coarse=[0, 0, 1, 1])
    flags = flags_of("parquet", tmp_path / "source", tmp_path)
    refused(capsys, flags, "row 0 of row group 1 in", "train.parquet is damaged (", "--skip_damaged")
    assert main([*flags, "--skip_damaged"]) == 0
    assert "left out as damaged: row 0 of row group 1" in capsys.readouterr().err
    assert prepared("source", str(tmp_path)).class_names == ("a", "b")
    found = records(tmp_path / "source" / "1.0.0", "train")
    assert [(record["label"], opened(record["image"]).format) for record in found] == [
        (1, "JPEG"),
        (0, "JPEG"),
        (1, "PNG"),
    ]
    assert main([*flags, "--skip_damaged", "--name=coarse", "--label=coarse", "--max_side=20"]) == 0
    found = records(tmp_path / "coarse" / "side20_q90" / "1.0.0", "train")
    assert [(record["label"], opened(record["image"]).size) for record in found] == [(0, (20, 13))] * 2 + [
        (1, (20, 13))
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "x").mkdir(parents=True), "holds no .parquet files"),
        (
            lambda p: parquet(p / "train.parquet", rows(0, 2), None, {}, a=[0, 1]),
            "has no columns that may be the label",
        ),
        (
            lambda p: parquet(p / "train.parquet", rows(0, 2), [0, 3], NAMED),
            "has labels from 0 to 3, outside the 3",
        ),
        (lambda p: parquet(p / "train.parquet", rows(0, 2), [0.5, 1.0]), "holds 0.5, no label"),
        (lambda p: parquet(p / "0000.parquet", rows(0, 2), [0, 1]), "0000.parquet names no split"),
        (
            lambda p: [parquet(p / f"{s}.parquet", rows(0, 1), [v]) for s, v in (("a", 0), ("b", "x"))],
            "b.parquet has ot",
        ),
        (lambda p: (p.mkdir(), (p / "train.parquet").write_bytes(b"PAR1xPAR1")), "train.parquet cannot be read ("),
        (lambda p: parquet(p / "train.parquet", [], []), "holds no labels of one kind"),
    ],
)
def test_parquet_that_is_no_image_set(tmp_path, capsys, make, message):
    source = tmp_path / "1source"
    make(source)
    refused(capsys, flags_of("parquet", source, tmp_path / "new"), "has no name for a set: give one, --name=mine")
    refused(capsys, flags_of("parquet", source, tmp_path / "new", "--name=mine"), message)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["cifar10", "--max_side=500"], "--max_side is not for cifar10: leave it out"),
        (["folder", "--partial"], "--partial is not for folder"),
        (["imagenet2012", "--name=x"], "--name is not for imagenet2012"),
        (["tfrecord", "--skip_damaged"], "--skip_damaged is not for tfrecord"),
        (["folder", "--quality=90"], "give --max_side, too"),
        (["folder", "--max_side=0"], "--max_side=0 must be from 16 to"),
        (["folder", "--max_side=many"], "invalid int value: 'many'"),
        (["folder", "--max_side=500", "--quality=101"], "--quality=101 must be from 1 to 100"),
        (["folder", "--name=digits"], "--name='digits' must be of a-z, 0-9 and _, a letter first, and not be"),
        (["folder", "--name=../x"], "--name='../x' must be of a-z"),
        (["folder", "--processes=0"], "--processes=0 must be from 1"),
    ],
)
def test_options_that_do_not_fit(tmp_path, capsys, flags, message):
    refused(capsys, [*flags, f"--source={tmp_path}", f"--data_dir={tmp_path}/new"], message)
    assert not (tmp_path / "new").exists()
