"""Every mistake gives one line that names the field, the value and the fix."""

import importlib
import itertools
import json
import shutil

import numpy as np
import pytest

from resjax.data import prepared
from resjax.data.loader import open_dataset
from resjax.errors import BadInput


@pytest.fixture
def photo_settings(settings, photos_dir, tmp_path):
    """Settings for a copy of the photographs that the test may damage."""
    shutil.copytree(photos_dir / "photos", tmp_path / "photos")
    changes = {"name": "photos", "dir": str(tmp_path), "augment": "none", "normalize": "channel", "image_size": 16}
    return settings | changes


def refused(*parts):
    """Context that expects a BadInput of one line with all `parts` in it."""

    class Refused:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, traceback):
            assert kind is BadInput, error
            assert "\n" not in str(error)
            for part in parts:
                assert part in str(error)
            return True

    return Refused()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"name": "cifer10"}, ["data.name='cifer10'", "did you mean 'cifar10'?"]),
        ({"name": "digit"}, ["did you mean 'digits'?"]),
        ({"name": ""}, ["data.name=''", "did you mean"]),
        ({"augment": "crop_flop"}, ["data.augment='crop_flop'", "did you mean crop_flip?"]),
        ({"normalize": "pixel"}, ["data.normalize='pixel'", "did you mean pixel_mean?"]),
        ({"pad": -1}, ["data.pad=-1", "0 or more"]),
        ({"workers": -1}, ["data.workers=-1", "0 or more"]),
        ({"image_size": -1}, ["data.image_size=-1", "0 or more"]),
        ({"train_split": "trian"}, ["data.train_split='trian'", "test, train"]),
        ({"train_split": "train[5:5]"}, ["data.train_split='train[5:5]'", "no record"]),
        ({"train_split": ""}, ["data.train_split=''"]),
        ({"test_split": "train[1000:]"}, ["data.test_split='train[1000:]'", "data.train_split='train'", "overlap"]),
        ({"validation_split": "train[:9]"}, ["data.validation_split='train[:9]'", "overlap"]),
        ({"train_split": "train[9:]", "validation_split": "train[:10]"}, ["data.validation_split=", "overlap"]),
        ({"train_split": "train[9:]", "test_split": "train[5:20]"}, ["data.test_split='train[5:20]'", "overlap"]),
        ({"train_split": "train[9:]", "test_split": "train"}, ["data.test_split='train'", "overlap"]),
        ({"pad": 9}, ["data.pad=9", "8 x 8"]),
        ({"pad": 1_000_000}, ["data.pad=1000000", "8 x 8"]),
        ({"augment": "none", "pad": 1_000_000}, ["data.pad=1000000"]),
        ({"workers": 10_000}, ["data.workers=10000", "cores"]),
        *(
            ({"name": name}, [f"data.name={name!r} is not the name of a set", "data.dir"])
            for name in (
                *(
                    "../digits",
                    "a/../../b",
                    "a/..",
                    "..",
                    ".",
                    "/etc",
                    "a//b",
                    "a/b/c",
                    "a/",
                    "~/a",
                    "a:1/..",
                    "a*",
                ),
                *("a\0b", "a\nb", "digits\n", " ", "ä"),
            )
        ),
        ({"name": "x" * 5000}, ["data.name='xxx", "is not the name of a set"]),
        ({"name": "imagenet_v2/matched-frequency"}, ["is not prepared below data.dir", "tfds build imagenet_v2/"]),
        ({"validation_split": f"train[:{'9' * 5000}]"}, ["data.validation_split='train[:999", "is not a split"]),
        ({"validation_split": f"train[{'9' * 5000}:]"}, ["data.validation_split='train[999", "is not a split"]),
        ({"name": "synthetic", "image_size": 10**6}, ["data.image_size=1000000", "at most 1024"]),
        ({"augment": "resized_crop_flip"}, ["data.normalize='pixel_mean'", "'channel'"]),
        ({"image_size": 16}, ["data.normalize='pixel_mean'", "'channel'"]),
    ],
)
def test_settings_that_cannot_work(settings, changes, parts):
    with refused(*parts):
        open_dataset(**settings | changes)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("cifar10", "python -m resjax.data.prepare cifar10 --source DIR_OR_TAR --data_dir {dir}"),
        ("cifar100", "python -m resjax.data.prepare cifar100 --source DIR_OR_TAR --data_dir {dir}"),
        ("imagenet2012", "python -m resjax.data.prepare imagenet2012 --source DIR_OR_TAR --data_dir {dir}"),
        ("imagenet2012/side500_q90", "--data_dir {dir} --max_side=500 --quality=90"),
        ("imagenet_v2/matched-frequency", "tfds build imagenet_v2/matched-frequency --file_format=array_record"),
    ],
)
def test_not_prepared(settings, tmp_path, name, command):
    with refused(f"data.name={name!r}", "data.dir=", command.format(dir=tmp_path)):
        open_dataset(**settings | {"name": name, "dir": str(tmp_path)})


def test_default_folder_is_that_of_tfds(photo_settings, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", photo_settings["dir"])
    assert open_dataset(**photo_settings | {"dir": ""}).train_size == 24
    assert open_dataset(**photo_settings | {"name": "photos:1.0.0", "dir": ""}).train_size == 24
    with refused("data.name='photos:2.0.0'"):
        open_dataset(**photo_settings | {"name": "photos:2.0.0", "dir": ""})


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_prepared_in_another_format(photo_settings, tmp_path):
    rewrite(tmp_path / "photos/1.0.0/dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
    command = (
        "prepare tfrecord --source {0}/photos/1.0.0 --data_dir {0}-array_record and give data.dir={0}-array_record"
    )
    with refused("data.name='photos'", "is stored as tfrecord", command.format(tmp_path)):
        open_dataset(**photo_settings)


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_damaged_description(photo_settings, tmp_path, file):
    (tmp_path / "photos/1.0.0" / file).write_text("{")
    with refused("data.name='photos'", "prepare the set again"):
        open_dataset(**photo_settings)


@pytest.mark.parametrize("legacy", [False, True])
def test_features_import_no_module_of_their_own(photo_settings, tmp_path, monkeypatch, legacy):
    """TFDS would import whatever a features.json names, before it sees that there is no feature in it."""
    (tmp_path / "intruder.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    kind = {"type": "intruder.Feature", "content": {}} if legacy else {"pythonClassName": "intruder.Feature"}
    add = lambda content: content["featuresDict"]["features"].update(other=kind)  # noqa: E731
    rewrite(tmp_path / "photos/1.0.0/features.json", add)
    with refused("data.name='photos'", "names the class 'intruder.Feature', which is not known here"):
        open_dataset(**photo_settings)
    assert not (tmp_path / "ran").exists()
    add = lambda content: content.update(python_class_name=content.pop("pythonClassName") + "x")  # noqa: E731
    rewrite(tmp_path / "photos/1.0.0/features.json", add)
    with refused("features_dict.FeaturesDictx'"):
        open_dataset(**photo_settings)


def test_every_feature_that_is_known_exists():
    import tensorflow_datasets as tfds

    for name in prepared.FEATURES:
        module, _, kind = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), kind), tfds.features.FeatureConnector)


def test_no_image_and_label(photo_settings, tmp_path):
    features = tmp_path / "photos/1.0.0/features.json"
    features.write_text(features.read_text().replace('"label"', '"target"'))
    with refused("data.name='photos'", "'image' and 'label'", "target"):
        open_dataset(**photo_settings)


def test_photographs_have_no_mean_image(photo_settings):
    with refused("data.normalize='pixel_mean'", "'channel'"):
        open_dataset(**photo_settings | {"normalize": "pixel_mean"})


@pytest.mark.parametrize("workers", [0, 1])
def test_label_out_of_range(photo_settings, tmp_path, workers):
    def three_classes(content):
        content["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "3"

    rewrite(tmp_path / "photos/1.0.0/features.json", three_classes)
    batches = open_dataset(**photo_settings | {"workers": workers}).train(24, seed=0)
    with refused("data.name='photos'", "record ", "split 'train'", "label ", "its 3 classes"):
        next(batches)
    batches.close()


@pytest.mark.parametrize(("damage", "workers"), [("flip", 0), ("flip", 1), ("truncate", 0), ("delete", 0)])
def test_corrupted_record(photo_settings, tmp_path, damage, workers):
    data = open_dataset(**photo_settings | {"workers": workers})
    [file] = (tmp_path / "photos/1.0.0").glob("photos-train*")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    batches = data.train(8, seed=0)
    with refused("data.name='photos'", "record ", "split 'train'", "prepare the set again"):
        list(itertools.islice(batches, 3))  # one epoch
    batches.close()
    with refused("data.name='photos'", "record ", "split 'train'"):
        list(data.evaluate("train", 8))


def test_a_record_that_is_no_picture_is_named(photo_settings):
    data = open_dataset(**photo_settings)
    records = data._records["train"]
    damage = records.raw[5].replace(b"\xff\xd8\xff", b"\x00\x00\x00").replace(b"PNG", b"GNP")

    class OneBad:
        def __getitems__(self, rows):
            return [damage if row == 5 else records.raw[row] for row in rows]

    damaged = type(records)(records.name, OneBad(), records.features, records.part, None, 5)
    assert len(damaged.read(np.array([4, 6]))[0]) == 2
    with refused("record 5 of split 'train' is corrupted"):
        damaged.read(np.arange(10))


def test_unknown_evaluation_split(settings):
    data = open_dataset(**settings)
    with refused("split 'validation'", "train, test"):
        data.evaluate("validation", 8)
