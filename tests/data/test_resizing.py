"""Sizes, filters and JPEGs that are decoded to fewer pixels, against loops that are written out."""

import io
import itertools
import json
import math

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from resjax import experiment
from resjax.cli import load
from resjax.data import jpeg, photo
from resjax.data.augment.boxes import crop_box
from resjax.data.augment.draw import PHOTO_CROPS, Augmentation, draw
from resjax.data.loader import open_dataset
from resjax.data.order import Order, Share, generator
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.evaluation import views
from resjax.train.step import TrainState

SIZE, TRAIN, SHARE = 32, 24, 0.8
SHAPES = [(150, 200), (200, 131), (333, 97), (64, 64), (40, 300), (31, 29)]


def smooth(shape, seed):
    """A photo without high frequencies, which a scaled JPEG lacks."""
    few = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(few).resize(shape[::-1], Image.Resampling.BICUBIC)


def encoded(image, kind="jpeg", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 photos in two classes, every fourth a PNG; 8 to be tested on."""
    root = tmp_path_factory.mktemp("mixed")
    for split, count in (("train", 24), ("val", 8)):
        for i in range(count):
            path = root / split / "ab"[i % 2] / f"{i:02d}.{'png' if i % 4 == 3 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            smooth(SHAPES[i % len(SHAPES)], i).save(path, **({} if path.suffix == ".png" else {"quality": 95}))
    return root


def opened(settings, folder, **changes):
    own = {"name": "folder", "dir": str(folder), "test_split": None, "augment": "resized_crop_flip", "pad": None}
    own |= {"normalize": None, "image_size": SIZE, "train_image_size": TRAIN, "crop_share": SHARE}
    return open_dataset(**settings | own | {"interpolation": "bicubic"} | changes)


def least_scale(shape, least):
    """The pixels at the smallest n/8 at which both sides are long enough, but not at 6/8 or 7/8; all if none is."""
    for n in (1, 2, 3, 4, 5):
        scaled = tuple(math.ceil(side * n / 8) for side in shape)
        if all(side >= wanted for side, wanted in zip(scaled, least, strict=True)):
            return scaled
    return shape


def whole(path):
    return np.asarray(Image.open(path).convert("RGB")) if path.suffix == ".png" else photo.decode(path.read_bytes())


def reduced(path, least):
    """A photo as scaled decoding has it, for a least shape of the whole."""
    pixels = whole(path)
    if path.suffix == ".png":
        return pixels
    height, width = least_scale(pixels.shape[:2], least)
    few = simplejpeg.decode_jpeg(path.read_bytes(), "RGB", min_height=height, min_width=width)
    assert few.shape[:2] == (height, width)
    return few


def resized(pixels, box, size):
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box))


def training_view(path, draws, decode):
    pixels = whole(path)
    height, width = pixels.shape[:2]
    left, top, right, bottom = crop_box((height, width), draws)
    if decode == "scaled":
        # So many pixels of the whole that the part keeps TRAIN of them.
        wanted = math.ceil(TRAIN * height / (bottom - top)), math.ceil(TRAIN * width / (right - left))
        pixels = reduced(path, wanted)
    h, w = pixels.shape[:2]
    return resized(
        pixels, (left * w / width, top * h / height, right * w / width, bottom * h / height), (TRAIN, TRAIN)
    )


def evaluated_view(path, decode):
    pixels = whole(path)
    short = round(SIZE / SHARE)  # 40
    height, width = (round(side * short / min(pixels.shape[:2])) for side in pixels.shape[:2])
    if decode == "scaled":
        pixels = reduced(path, (height, width))
    picture = resized(pixels, (0, 0, pixels.shape[1], pixels.shape[0]), (width, height))
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    return picture[top : top + SIZE, left : left + SIZE]


@pytest.mark.parametrize("decode", ["full", "scaled"])
def test_batches_of_photos_are_their_definition(settings, folder, decode):
    """Of another size in training, bicubic; a part of a scaled JPEG is never enlarged where it need not be."""
    data = opened(settings, folder, decode=decode)
    batches = data.train(12, seed=3)
    order, files = Order(24, 12, 3), data._records["train"].files
    for step, batch in enumerate(itertools.islice(batches, 3)):
        draws = draw(Share.of(12), Augmentation("resized_crop_flip"), (TRAIN, TRAIN), generator(3, step))
        expected = [
            training_view(folder / files[i], own, decode) for i, own in zip(order(step), draws["box"], strict=True)
        ]
        np.testing.assert_array_equal(batch["image"], expected)
        np.testing.assert_array_equal(batch["mirror"], draws["mirror"])
    batches.close()
    [batch] = data.evaluate("test", 8)
    paths = [folder / name for name in data._records["test"].files]
    np.testing.assert_array_equal(batch["image"], [evaluated_view(path, decode) for path in paths])
    # What judges finished runs sees the same.
    labels = np.zeros(8, np.int32)
    [judged] = views.batches(data._records["test"], data.preprocessing, views.Views(), labels, 8, 1, 2)
    np.testing.assert_array_equal(judged.views[:, 0], batch["image"])


@pytest.mark.parametrize("augment", PHOTO_CROPS)
def test_scaled_decoding_changes_little(settings, folder, augment):
    full, scaled = (opened(settings, folder, augment=augment, decode=decode) for decode in ("full", "scaled"))
    for of in (lambda data: next(data.train(24, seed=0)), lambda data: next(data.evaluate("test", 8))):
        a, b = (of(data)["image"].astype(float) for data in (full, scaled))
        assert 0 < np.abs(a - b).mean() < 2


def test_the_smallest_scale_is_chosen():
    """Sides to the left and to the right of every multiple of 8, and more than there is."""
    for height, width in [(375, 500), (64, 9), (17, 23), (8, 8), (1, 30), (481, 333)]:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        data = simplejpeg.encode_jpeg(pixels, colorspace="RGB")
        for h in {1, height // 8, height // 2 + 1, height - 1, height, height + 9} - {0}:
            for w in {1, width // 4, width // 4 + 1, width, width + 1}:
                found = jpeg.decode(data, lambda shape, h=h, w=w: (h, w))
                assert found.shape[:2] == least_scale((height, width), (h, w))


@pytest.mark.parametrize("held", [1, 3, 6, 8])
def test_a_camera_on_its_side(held):
    """The choice is about the upright photo, whose height is the width of what is stored."""
    exif = Image.Exif()
    exif[photo.ORIENTATION] = held
    data = encoded(smooth((160, 80), 0), exif=exif)
    upright = (80, 160) if held > 4 else (160, 80)
    asked = []

    def least(shape):
        asked.append(shape)
        return 20, 35  # of upright pixels: a half of 80 x 160, three eighths of 160 x 80 less one

    found = photo.decode(data, least)
    assert asked == [upright]
    assert found.shape[:2] == least_scale(upright, (20, 35))
    again = np.asarray(Image.fromarray(photo.decode(data)).resize(found.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(again.astype(float) - found).mean() < 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "cubic"}, "data.interpolation='cubic' is unknown; did you mean bicubic?"),
        ({"decode": "half"}, "data.decode='half' is unknown"),
        ({"crop_share": 1.5}, "data.crop_share=1.5: must lie in 0.1 to 1"),
        ({"train_image_size": -1}, "data.train_image_size=-1 is negative"),
        ({"train_image_size": 6}, "data.train_image_size=6, but images of 'digits' are not resized: leave it out"),
        ({"crop_share": 0.9}, "data.crop_share=0.9, but images of 'digits' are not resized"),
        ({"decode": "scaled"}, "data.decode='scaled' is for photos of different sizes"),
    ],
)
def test_mistakes_are_one_line(settings, changes, message):
    with pytest.raises(BadInput) as caught:
        open_dataset(**settings | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_keep_their_resizing(settings, folder):
    trained = opened(settings, folder, decode="scaled").preprocessing
    assert (trained.size, trained.crop_share, trained.interpolation) == (SIZE, SHARE, "bicubic")
    assert (trained.decode, Preprocessing.from_json(json.loads(json.dumps(trained.json())))) == ("scaled", trained)
    older = trained.json()
    del older["decode"]  # of a run from before there was a choice
    assert Preprocessing.from_json(older).decode == "full"
    left_open = {"crop_share": None, "interpolation": None, "decode": "scaled", "preprocessing": trained}
    again = opened(settings, folder, **left_open)
    assert (again.preprocessing, again.crop_share, again.interpolation) == (trained, SHARE, "bicubic")
    for field, value in {"crop_share": 0.9, "interpolation": "bilinear", "decode": "full"}.items():
        with pytest.raises(
            BadInput, match=rf"data\.{field}=.* but the weights were trained with .*: give --config"
        ):
            opened(settings, folder, **left_open | {field: value})


@pytest.mark.usefixtures("quick_compilation")
def test_training_images_of_another_size():
    """Digits at 12 pixels, trained on at 9: one network takes both."""
    flags = ["data.image_size=12", "data.train_image_size=9", "data.normalize=channel", "model.units=1,1"]
    smaller = ["data.image_size=7", *flags[1:3]]
    dense = load(["--config=configs/dense.py", *(f"--config.{flag}" for flag in smaller)])
    with pytest.raises(BadInput, match=r"data\.train_image_size=9: a network of dense layers takes one size"):
        experiment.open(dense)
    flags += ["model.widths=16,16", "batch_size=8", "mesh.data=1", "schedule.warmup=none"]
    config = load(["--config=configs/digits.py", *(f"--config.{flag}" for flag in flags)])
    run = experiment.open(config)
    state, batches = run.program.init(np.uint32(0)), run.batches()
    feed = run.program.take(batches)
    batches.close()
    assert feed.batches["image"].shape == (1, 8, 9, 9, 1)
    state, metrics = run.program.train_step(state, feed, np.uint32(0))
    assert isinstance(state, TrainState)
    assert np.isfinite(metrics["loss"]).all()
    part = next(iter(run.evaluations[-1].batches()))
    assert part.batch["image"].shape == (8, 12, 12, 1)
    assert np.isfinite(run.program.eval_step(state.params, state.batch_stats, part)["loss"])
