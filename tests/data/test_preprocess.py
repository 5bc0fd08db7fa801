"""Preprocessing: one fixed view, and a form that JSON keeps to the last bit."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from resjax.data.loader import open_dataset
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput


def make(**changes):
    """As ImageNet's, with numbers that have no short decimal form."""
    mean, std = np.array([1 / 3, 123.456, 7e-30], np.float32), np.array([0.1, 58.4, 3], np.float32)
    return Preprocessing(**{"mean": mean, "std": std, "size": 224, "class_names": ("cat", "dög")} | changes)


def mean_image(side=32):
    rng = np.random.default_rng(0)
    mean = rng.normal(100, 50, (side, side, 3)).astype(np.float32)
    return make(mean=mean, std=np.array(1 / 7, np.float32), size=0)


@pytest.mark.parametrize("preprocessing", [make(), mean_image(), make(interpolation="bicubic", crop_share=1.0)])
def test_json_is_exact(preprocessing):
    read = Preprocessing.from_json(json.loads(json.dumps(preprocessing.json())))
    assert read == preprocessing
    for field in dataclasses.fields(preprocessing):
        before, after = getattr(preprocessing, field.name), getattr(read, field.name)
        assert type(before) is type(after)
        if isinstance(before, np.ndarray):
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
            assert before.tobytes() == after.tobytes()
        else:
            assert before == after


def test_a_mean_image_takes_few_bytes():
    assert len(json.dumps(mean_image().json(), indent=2)) < 17_000


def test_equal_means_every_bit():
    other = make()
    other.mean[0] = np.nextafter(other.mean[0], np.float32(1))
    assert make() == make()
    assert other != make()
    assert make(class_names=()) != make()
    assert make() != 1


def changed(field, value):
    return make().json() | {field: value}


IMAGE = mean_image().json()["mean"]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([], "it is a list, not a dictionary"),
        ({}, "class_names is missing"),
        ({k: v for k, v in make().json().items() if k != "std"}, "std is missing"),
        (changed("gamma", 1), "gamma is unknown"),
        (changed("mean", [1, "2", 3]), "not a number"),
        (changed("mean", [[1, 2, 3]]), "not a number"),
        (changed("mean", []), "mean is float32 [0]"),
        (changed("mean", 3.0), "mean is float32 []"),
        (changed("mean", [float("nan"), 1, 1]), "not finite"),
        (changed("mean", [1e60, 1, 1]), "not finite"),
        (changed("mean", None), "not a number"),
        (changed("mean", IMAGE | {"float32": IMAGE["float32"][:-4]}), "cut or changed"),
        (changed("mean", IMAGE | {"float32": "!" + IMAGE["float32"][1:]}), "cut or changed"),
        (changed("mean", IMAGE | {"shape": [32, 32]}), "cut or changed"),
        (changed("mean", IMAGE | {"shape": 3}), "cut or changed"),
        (changed("mean", {"shape": [32, 32, 3]}), "shape and float32"),
        (changed("mean", IMAGE), "size=224"),
        (changed("std", [1.0, 1.0]), "std is float32 [2]"),
        (changed("std", [1.0, 0.0, 1.0]), "positive"),
        (changed("std", [1.0, -2.0, 1.0]), "positive"),
        (changed("size", -1), "size=-1"),
        (changed("size", 2.0), "size=2.0"),
        (changed("size", True), "size=True"),
        (changed("crop_share", 0.0), "crop_share=0.0"),
        (changed("crop_share", 1.5), "crop_share=1.5"),
        (changed("crop_share", "1"), "crop_share='1'"),
        (changed("interpolation", "cubic"), "interpolation='cubic' is not bilinear or bicubic"),
        (changed("interpolation", []), "interpolation"),
        (changed("class_names", "ab"), "class_names"),
        (changed("class_names", [1]), "class_names"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_damage_is_one_line(saved, message):
    with pytest.raises(BadInput, match=r"^runs/a/meta\.json cannot be used \(") as error:
        Preprocessing.from_json(saved, "runs/a/meta.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_view_is_resize_and_centre():
    x = np.random.default_rng(0).integers(0, 256, (2, 50, 80, 3), np.uint8)
    y = make(size=20, crop_share=0.5, interpolation="bicubic").view(x)
    for image, view in zip(x, y, strict=True):
        whole = np.asarray(Image.fromarray(image).resize((64, 40), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(view, whole[10:30, 22:42])


@pytest.mark.parametrize("size", [8, 32, 64, 112, 224, 299])
def test_usual_crop_share_resizes_the_short_side_to_256_for_224(size):
    x = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    side = round(256 / 224 * size)
    height = round(50 * (side / 40))
    whole = np.asarray(Image.fromarray(x).resize((side, height), Image.Resampling.BILINEAR))
    top, left = (height - size) // 2, (side - size) // 2
    np.testing.assert_array_equal(make(size=size).view([x])[0], whole[top : top + size, left : left + size])


def gradient(height, width):
    """Every pixel tells its row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (7, 8), (8, 7), (8, 8), (7, 12), (13, 8), (9, 10)])
@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_the_centre_is_rounded_up_and_left(height, width, size):
    """The short side is kept, so that nothing but the crop moves; odd margins are larger below and right."""
    share = size / min(height, width)
    view = make(size=size, crop_share=share).view([gradient(height, width)])[0]
    top, left = (height - size) // 2, (width - size) // 2
    np.testing.assert_array_equal(view[:, 0, 0], np.arange(top, top + size))
    np.testing.assert_array_equal(view[0, :, 1], np.arange(left, left + size))


@pytest.mark.parametrize("shape", [(512, 256, 3), (256, 512, 3), (256, 256, 1)])
def test_centre_of_photographs(shape):
    x = np.zeros(shape, np.uint8)
    y, z = shape[0] // 2, shape[1] // 2
    x[y - 112 : y + 112, z - 112 : z + 112] = 255
    mean = np.zeros(shape[2], np.float32)
    view = make(mean=mean, std=np.array(1, np.float32)).view([x])[0]
    assert view.shape == (224, 224, shape[2])
    assert (view == 255).all()


def test_small_images_are_enlarged():
    assert make(size=64).view([np.full((20, 33, 3), 9, np.uint8)]).shape == (1, 64, 64, 3)


def test_given_preprocessing_is_used_and_nothing_is_recomputed(settings):
    trained = open_dataset(**settings | {"train_split": "train[:100]"})
    again = open_dataset(**settings | {"train_split": "train[100:]"}, preprocessing=trained.preprocessing)
    assert again.preprocessing is trained.preprocessing
    [a], [b] = trained.evaluate("test", 360), again.evaluate("test", 360)
    np.testing.assert_array_equal(a["image"], b["image"])
    recomputed = open_dataset(**settings | {"train_split": "train[100:]"})
    assert recomputed.preprocessing != trained.preprocessing


def test_given_preprocessing_decides_what_is_left_open(settings):
    open_fields = {"augment": None, "pad": None, "normalize": None}
    by_pixel = open_dataset(**settings).preprocessing
    assert open_dataset(**settings | open_fields).normalize == "channel"
    assert open_dataset(**settings | open_fields, preprocessing=by_pixel).normalize == "pixel_mean"
    resized = open_dataset(**settings | {"image_size": 12, "normalize": "channel"}).preprocessing
    assert open_dataset(**settings | open_fields, preprocessing=resized).image_shape == (12, 12, 1)


def grey(size=0, channels=1, **fields):
    return Preprocessing(np.full(channels, 8, np.float32), np.full(channels, 8, np.float32), size, **fields)


DIGITS = tuple("0123456789")
LARGER = Preprocessing(np.zeros((9, 8, 1), np.float32), np.ones(1, np.float32))


@pytest.mark.parametrize(
    ("changes", "preprocessing", "message"),
    [
        ({}, grey(channels=3), "has images of 1 channels, the weights take 3"),
        ({}, LARGER, "8 x 8 x 1, the weights' mean image has 9 x 8 x 1"),
        ({}, grey(class_names=DIGITS[:9]), "10 classes, the weights have 9"),
        ({}, grey(class_names=(*DIGITS[:3], "x", *DIGITS[4:])), "class 3 is '3', the weights' is 'x'"),
        ({"image_size": 16}, grey(12), "data.image_size=16, but the weights take 12"),
        ({"image_size": 16}, grey(), "resized (data.image_size=16, data.augment='crop_flip')"),
        ({"augment": "resized_crop_flip"}, grey(), "data.augment='resized_crop_flip'"),
        ({"normalize": "pixel_mean"}, grey(), "data.normalize='pixel_mean', but the weights"),
    ],
)
def test_preprocessing_that_does_not_fit(settings, changes, preprocessing, message):
    with pytest.raises(BadInput, match=r"^data\.") as error:
        open_dataset(**settings | {"normalize": None} | changes, preprocessing=preprocessing)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_preprocessing_and_photographs(settings, photos_dir):
    photos = settings | {"name": "photos", "dir": str(photos_dir), "augment": None, "normalize": None}
    kept = make(size=16, class_names=())
    data = open_dataset(**photos, preprocessing=kept)
    assert (data.image_shape, data.preprocessing) == ((16, 16, 3), kept)
    with pytest.raises(BadInput, match=r"would be resized .* take images as they are stored"):
        open_dataset(**photos, preprocessing=make(size=0, class_names=()))
