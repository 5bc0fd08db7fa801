"""What other libraries do to images before a network sees them."""

import math

import numpy as np
import pytest

from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.weights import preprocessing

TIMM = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
TRANSFORMERS = {
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.25, 0.5],
}


def timm(**changes):
    return preprocessing.of_timm({"pretrained_cfg": TIMM | changes}, "config.json")


def transformers(**changes):
    return preprocessing.of_transformers(TRANSFORMERS | changes, ("a", "b"), "preprocessor_config.json")


def test_pixels_count_from_0_to_255():
    own = timm()
    np.testing.assert_array_equal(own.mean, np.float32([123.675, 116.28, 103.53]))
    np.testing.assert_array_equal(own.std, np.float32([58.395, 57.12, 57.375]))
    assert (own.size, own.interpolation, own.class_names, own.decode) == (224, "bicubic", (), "full")
    own = transformers()
    np.testing.assert_array_equal(own.std, np.float32([127.5, 63.75, 127.5]))
    assert (own.size, own.crop_share, own.interpolation, own.class_names) == (224, 0.875, "bicubic", ("a", "b"))


@pytest.mark.parametrize("size", [32, 160, 224, 299])
@pytest.mark.parametrize("crop", [0.8, 0.875, 0.9, 0.95, 0.965, 1.0])
def test_the_short_side_is_that_of_both_libraries(size, crop):
    """timm resizes to math.floor(size / crop_pct), transformers to int(size / crop_pct), resjax rounds."""
    for own in (timm(crop_pct=crop, input_size=[3, size, size]), transformers(crop_pct=crop, size=size)):
        assert round(own.size / own.crop_share) == math.floor(size / crop)
        for out, field in (
            (preprocessing.to_timm(own, 7), "crop_pct"),
            (preprocessing.to_transformers(own, 7), "crop_pct"),
        ):
            assert math.floor(size / out[field]) == math.floor(size / crop)


@pytest.mark.parametrize("share", [224 / 256, 0.9, 0.81, 2 / 3, 1.0])
def test_ours_go_out_and_in_to_the_last_bit(share):
    rng = np.random.default_rng(0)
    mean, std = rng.uniform(1, 255, (2, 3)).astype(np.float32)
    own = Preprocessing(mean, std, 224, share, "bilinear", class_names=("a", "b"))
    config = {"pretrained_cfg": preprocessing.to_timm(own, 224), "label_names": ["a", "b"]}
    files = (
        preprocessing.of_timm(config, "config.json"),
        preprocessing.of_transformers(preprocessing.to_transformers(own, 224), ("a", "b"), "config.json"),
    )
    for back in files:
        assert (back.mean.tobytes(), back.std.tobytes()) == (mean.tobytes(), std.tobytes())
        assert round(back.size / back.crop_share) == round(own.size / own.crop_share)
        assert (back.interpolation, back.class_names) == ("bilinear", ("a", "b"))
        if math.floor(224 / share) == round(224 / share):
            assert back == own


def test_every_side_goes_out_as_it_is():
    """Also those that are rounded up here, and a floor would take one from."""
    one = np.float32([1, 2, 3])
    for size in range(8, 384, 5):
        for share in np.linspace(0.5, 1, 23).tolist():
            out = preprocessing.to_timm(Preprocessing(one, one, size, share), 1)
            assert math.floor(size / out["crop_pct"]) == round(size / share)


def test_decimals_are_as_people_write_them():
    out = preprocessing.to_timm(timm(crop_pct=0.875), 224)
    assert {field: out[field] for field in TIMM} == TIMM | {"crop_pct": 0.875}


def test_images_as_they_are_stored_are_whole_images_elsewhere():
    own = Preprocessing(np.float32([120, 130, 140]), np.float32(60))
    out = preprocessing.to_timm(own, 32)
    assert (out["input_size"], out["crop_pct"]) == ([3, 32, 32], 1.0)
    np.testing.assert_array_equal(np.float32(np.array(out["std"]) * 255), np.float32([60] * 3))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: timm(crop_mode="squash"), "crop_mode='squash' is not done here"),
        (lambda: timm(input_size=[3, 224, 320]), "is not square"),
        (lambda: timm(input_size=[3, "x", 1]), "input_size=.* must be 3 numbers"),
        (lambda: timm(mean=[0.5]), r"mean='\[0.5\]': must be 3 numbers"),
        (lambda: timm(std=[0.0, 1, 1]), "cannot be used"),
        (lambda: timm(crop_pct=0), "cannot be used"),
        (lambda: timm(crop_pct=1e-320), "cannot be used"),
        (lambda: timm(interpolation="lanczos"), "interpolation='lanczos'"),
        (lambda: preprocessing.of_timm({}, "config.json"), "has no pretrained_cfg"),
        (lambda: transformers(size={"height": 1}), "must be the short side"),
        (lambda: transformers(size=384), "below 384"),
        (lambda: transformers(do_normalize=False), "do_normalize is off"),
        (lambda: transformers(rescale_factor=1), "rescale_factor='1'"),
        (lambda: transformers(rescale_factor="x"), "rescale_factor"),
        (lambda: transformers(resample=0), "interpolation"),
        (lambda: transformers(resample=[]), "interpolation"),
        (lambda: transformers(image_mean=None), "image_mean"),
        (lambda: preprocessing.to_transformers(Preprocessing(np.float32([1]), np.float32(1), 400), 1), "squashes"),
        (
            lambda: preprocessing.to_timm(Preprocessing(np.zeros((2, 2, 3), np.float32), np.float32(1)), 2),
            "mean image",
        ),
    ],
)
def test_what_cannot_be_done_here_is_refused(make, says):
    with pytest.raises(BadInput, match=says):
        make()


def test_labels_in_the_order_of_their_numbers():
    assert preprocessing.labels({"id2label": {"1": "b", "0": "a"}}) == ("a", "b")
    for odd in ({"0": "LABEL_0", "1": "LABEL_1"}, {"0": 3}, {"7": "a"}, [], None):
        assert preprocessing.labels({"id2label": odd}) == ()
