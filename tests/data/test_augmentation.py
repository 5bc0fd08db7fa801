"""All augmentations together: their order, whoever makes the batches, and what cannot be."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from resjax.data import resident
from resjax.data.augment import boxes, colour, device, policies
from resjax.data.augment.draw import PHOTO_CROPS, Augmentation, draw
from resjax.data.augment.host import cut
from resjax.data.loader import open_dataset
from resjax.data.order import Share
from resjax.data.preprocess import Preprocessing
from resjax.data.resident import Resident
from resjax.errors import BadInput

COLOURS = {"jitter": 0.4, "lighting": 0.1}
EVERYTHING = COLOURS | {"policy": "rand-m7-mstd0.5-inc1", "erase": 0.5}
SMALL = {"name": "synthetic", "image_size": 9, "train_split": "train[:300]", "test_split": "test[:9]"}


@pytest.fixture
def photos(settings, photos_dir):
    given = {
        "name": "photos",
        "dir": str(photos_dir),
        "normalize": "channel",
        "image_size": 20,
        "train_image_size": 16,
    }
    return settings | given | {"augment": "resized_crop_flip", "pad": None} | EVERYTHING


def taken(iterator, count):
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def finished(data, batch):
    return np.asarray(device.training_views(batch, device.Normalization.of(data.preprocessing), data.pad)["image"])


def coloured(images, drawn):
    """Jitter and light, in float64; tests/data/test_colour.py has what they are."""
    for k in range(3):
        kind, alpha = (drawn[key][:, k, None, None, None] for key in ("jitter_kind", "jitter"))
        grey = images @ np.array([[0.299], [0.587], [0.114]])
        mean = grey.mean((1, 2), keepdims=True)
        other = np.select([kind == colour.SATURATION, kind == colour.CONTRAST], [grey, mean], 0)
        images = alpha * images + (1 - alpha) * other
    return images + drawn["light"][:, None, None]


def blank(images, drawn):
    for image, (left, top, right, bottom) in zip(images, drawn["erased"], strict=True):
        image[top:bottom, left:right] = 0
    return images


def test_photos_in_order(photos):
    """Crop, flip, policy on the host; colours, normalisation, erasing on the device."""
    data = open_dataset(**photos)
    [batch], [drawn] = taken(data.train(20, 3, 5), 1), taken(data.draws(20, 3, 5), 1)
    stored, _ = data._records["train"].read(drawn["index"])
    chosen = policies.policy(data.policy)
    for i, image in enumerate(stored):
        box = boxes.crop_box(image.shape[:2], drawn["box"][i])
        view = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR, box))
        view = view[:, ::-1] if drawn["mirror_first"][i] else view
        rows = (drawn[f"policy_{name}"][i] for name in ("op", "level", "filter"))
        np.testing.assert_array_equal(batch["image"][i], policies.apply(view, chosen, *rows))
    assert batch["image"].dtype == np.uint8
    assert batch.keys() == {"image", "label", "jitter", "jitter_kind", "light", "erased"}
    assert drawn["erased"].max() <= 16
    mean, std = data.preprocessing.mean, data.preprocessing.std
    expected = blank((coloured(batch["image"].astype(float), drawn) - mean) / std, drawn)
    np.testing.assert_allclose(finished(data, batch), expected, rtol=0, atol=1e-4)


def test_whoever_makes_them(photos):
    """Threads, two processes that work for this one, and two processes that share the batches."""
    whole = taken(open_dataset(**photos).train(6, 1, 2), 4)
    by_workers = taken(open_dataset(**photos | {"workers": 2}).train(6, 1, 2), 4)
    rows = np.array([1, 4])
    own = taken(open_dataset(**photos).train(6, 1, 2, rows), 4)
    for expected, worked, part in zip(whole, by_workers, own, strict=True):
        assert expected.keys() == worked.keys() == part.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(worked[key], value)
            np.testing.assert_array_equal(part[key], value[rows])


def test_small_pictures_in_order_from_either_memory(settings):
    """Colours, normalisation, crop, flip, erasing; batches of the host and of a set on the device are equal."""
    small = {"augment": "crop_flip", "pad": 2, "normalize": "pixel_mean", "erase": 0.5}
    data = open_dataset(**settings | SMALL | small | COLOURS)
    [batch], [drawn] = taken(data.train(24, 3, 5), 1), taken(data.draws(24, 3, 5), 1)
    normalization, stored = device.Normalization.of(data.preprocessing), Resident.of(data.stored("train"))

    def of_host(batch):
        return device.training_views(batch, normalization, data.pad)

    def of_device(stored, drawn):
        return device.training_views(resident.training_batch(stored, drawn), normalization, data.pad)

    ours = jax.jit(of_host)(batch)
    for key, value in jax.jit(of_device)(stored, drawn).items():
        np.testing.assert_array_equal(value, ours[key])
    images = coloured(stored.images[drawn["index"]].astype(float), drawn)
    images = (images - data.preprocessing.mean) / data.preprocessing.std
    for i, (y, x) in enumerate(drawn["offset"]):
        images[i] = np.pad(images[i], [(2, 2), (2, 2), (0, 0)])[y : y + 9, x : x + 9]
        images[i] = images[i, :, ::-1] if drawn["mirror"][i] else images[i]
    np.testing.assert_allclose(ours["image"], blank(images, drawn), rtol=0, atol=1e-4)


def test_policies_on_small_pictures_come_before_their_crop(settings):
    data = open_dataset(**settings | SMALL | {"augment": "crop_flip", "policy": "trivial-wide"})
    [batch], [drawn] = taken(data.train(24, 3), 1), taken(data.draws(24, 3), 1)
    assert batch.keys() == {"image", "label", "offset"}
    for i, index in enumerate(drawn["index"]):
        image = data.stored("train").images[index]
        image = image[:, ::-1] if drawn["mirror_first"][i] else image
        rows = (drawn[f"policy_{name}"][i] for name in ("op", "level", "filter"))
        expected = policies.apply(image, policies.policy("trivial-wide"), *rows)
        np.testing.assert_array_equal(batch["image"][i], expected)


@pytest.mark.parametrize("augment", ["crop", "crop_flip", "resized_crop_flip"])
def test_older_draws_keep_their_numbers(augment):
    """Whatever else is switched on."""
    plain = draw(Share.of(32), Augmentation(augment, 3), (8, 8), np.random.default_rng(0))
    more = draw(Share.of(32), Augmentation(augment, 3, **EVERYTHING), (8, 8), np.random.default_rng(0))
    for key, value in plain.items():
        np.testing.assert_array_equal(more["mirror_first" if key == "mirror" else key], value)


@pytest.mark.parametrize("augment", ["crop_flip", *PHOTO_CROPS])
def test_a_row_does_not_depend_on_who_draws_it(augment):
    rows, shape, asked = np.array([3, 5, 6]), (8, 8), Augmentation(augment, 3, **EVERYTHING)
    whole = draw(Share.of(32), asked, shape, np.random.default_rng(0))
    for key, value in draw(Share.of(32, rows), asked, shape, np.random.default_rng(0)).items():
        np.testing.assert_array_equal(value, whole[key][rows])


def picture(height, width):
    coarse = np.random.default_rng(height).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_scaled_crops_are_crops_of_the_whole_image_resized():
    size, images = 24, [picture(*shape) for shape in ((50, 70), (90, 40), (33, 33), (64, 30))] * 8
    preprocessing = Preprocessing(np.zeros(3, np.float32), np.float32(1), size=size)
    drawn = draw(Share.of(len(images)), Augmentation("scale_crop_flip"), (size, size), np.random.default_rng(2))
    found = cut(images, drawn, preprocessing)
    for view, image, (side, y, x) in zip(found, images, drawn["scale_box"], strict=True):
        height, width = image.shape[:2]
        short = round((256 + int(225 * side)) * size / 224)
        h, w = round(height * short / min(height, width)), round(width * short / min(height, width))
        whole = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
        top, left = int(y * (h - size + 1)), int(x * (w - size + 1))
        expected = whole[top : top + size, left : left + size]
        off = np.abs(view.astype(int) - expected)
        assert off.max() <= 2  # a half is rounded the other way, once for rows and once for columns
        assert off.mean() < 0.3  # of 6 from one pixel to the next


def test_crops_of_fb_resnet():
    size, images = 24, [picture(*shape) for shape in ((50, 70), (90, 40), (20, 300))] * 8
    preprocessing = Preprocessing(np.zeros(3, np.float32), np.float32(1), size=size, interpolation="bicubic")
    drawn = draw(Share.of(len(images)), Augmentation("fb_crop_flip"), (size, size), np.random.default_rng(2))
    for view, image, own in zip(cut(images, drawn, preprocessing), images, drawn["fb_box"], strict=True):
        box = boxes.fb_crop_box(image.shape[:2], own)
        expected = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box)
        np.testing.assert_array_equal(view, np.asarray(expected))
    assert 0.3 < drawn["mirror"].mean() < 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "rand"}, r"^data\.policy='rand' is none that is known: give one such as rand-m7"),
        (
            {"policy": "trivial-wide"},
            r"^data\.policy='trivial-wide' is for images of 3 channels, and those of 'digits' have 1: set "
            r"data\.policy=''$",
        ),
        ({"jitter": 0.4}, r"^data\.jitter=0\.4 is for images of 3 channels, .*: set data\.jitter=0$"),
        ({"lighting": 0.1}, r"^data\.lighting=0\.1 is for images of 3 channels"),
        ({"jitter": 1.5}, r"^data\.jitter=1\.5: must lie in \[0, 1\]; 0 switches it off$"),
        ({"lighting": -0.1}, r"^data\.lighting=-0\.1: must lie in \[0, 1\]"),
        ({"erase": float("nan")}, r"^data\.erase=nan: must lie in \[0, 1\]"),
        (
            SMALL | {"policy": "trivial-wide", "placement": "device"},
            r"^data\.policy='trivial-wide' beside data\.placement='device', but the host .*: use "
            r"data\.placement='host'$",
        ),
    ],
)
def test_what_cannot_be(settings, changes, message):
    with pytest.raises(BadInput, match=message):
        open_dataset(**settings | changes)
