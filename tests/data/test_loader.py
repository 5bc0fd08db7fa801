"""Order and augmentation are functions of (seed, step); evaluation sees every image once."""

import io
import itertools
import multiprocessing
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from resjax.data.augment import device
from resjax.data.augment.device import Normalization
from resjax.data.loader import open_dataset
from resjax.data.order import Order
from resjax.errors import BadInput


def take(iterator, count):
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_equal(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert x[key].dtype == y[key].dtype
            np.testing.assert_array_equal(x[key], y[key])


def views(data, batch):
    """What the network sees of a batch of the host."""
    return jax.device_get(device.training_views(batch, Normalization.of(data.preprocessing), data.pad))


def photos(settings, photos_dir, **changes):
    return open_dataset(
        **settings
        | {"name": "photos", "dir": str(photos_dir), "augment": "resized_crop_flip", "normalize": "channel"}
        | {"image_size": 16}
        | changes
    )


def test_photos_are_given_as_they_are_stored(settings, photos_dir):
    """From JPEGs in several colour spaces and PNGs: what Pillow makes of them is what is read, to rounding."""
    records = photos(settings, photos_dir, train_split="train[4:]").training(4, 0).records
    positions = np.array([3, 0, 9])
    images, _ = records.read(positions)
    for image, stored in zip(images, records.encoded(positions), strict=True):
        expected = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).astype(int)
        assert np.abs(expected - image).mean() < 2


def test_order_gives_every_record_once_an_epoch():
    order = Order(size=10, batch_size=4, seed=5)
    stream = np.concatenate([order(step) for step in range(25)]).reshape(10, 10)
    for epoch in stream:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in stream}) == 10


def test_order_with_batches_of_several_epochs():
    positions = Order(size=3, batch_size=8, seed=0)(1)
    assert positions.shape == (8,)
    stream = np.concatenate([Order(3, 8, 0)(step) for step in range(3)]).reshape(8, 3)
    assert all(sorted(epoch) == [0, 1, 2] for epoch in stream)


@pytest.mark.parametrize(("size", "batch_size", "repeats"), [(12, 6, 3), (10, 4, 2), (7, 5, 3)])
def test_repeats_are_those_of_ranks_that_deal_them_out_in_turn(size, batch_size, repeats):
    """As DeiT's sampler: permute, repeat, and each rank takes every w-th; here with a rank for every copy."""
    epochs = np.concatenate([Order(size, size, 9)(epoch) for epoch in range(batch_size)])
    rows = []
    for epoch in epochs.reshape(batch_size, size):
        rows += [record for record in epoch for _ in range(repeats)][:size]  # steps an epoch stay as they are
    order = Order(size, batch_size, 9, repeats)
    for step in range(size):
        batch = rows[step * batch_size : (step + 1) * batch_size]
        ranks = [batch[rank::repeats] for rank in range(repeats)]
        assert order(step).tolist() == [record for rank in ranks for record in rank]
        if size == 12:
            assert all(len(set(rank)) == batch_size // repeats for rank in ranks)


def test_repeats_are_different_views(settings):
    data = open_dataset(**settings | {"repeats": 4, "pad": 4})
    [batch] = take(data.train(64, seed=3), 1)
    batch = views(data, batch)
    [plain] = take(open_dataset(**settings | {"pad": 4}).train(64, seed=3), 1)
    for copy in batch["label"].reshape(4, 16):
        np.testing.assert_array_equal(copy, plain["label"][:16])  # the images of which one batch has 64
    assert len({view.tobytes() for view in batch["image"].reshape(4, 16, -1)[:, 0]}) > 1


def test_training_sees_every_image_once_an_epoch(settings):
    data = open_dataset(**settings | {"augment": "none"})
    batches = take(data.train(479, seed=1), 6)  # 3 batches of 479 are one epoch of 1,437
    stored = data._records["train"]
    expected = np.sort(stored.images.reshape(1437, -1).sum(axis=1))
    for epoch in (batches[:3], batches[3:]):
        seen = np.concatenate([batch["image"] for batch in epoch]).reshape(1437, -1)
        np.testing.assert_array_equal(np.sort(seen.sum(axis=1)), expected)
        assert (
            np.bincount(np.concatenate([b["label"] for b in epoch])).tolist() == np.bincount(stored.labels).tolist()
        )


def test_batches_are_arrays_of_the_promised_shapes(settings):
    data = open_dataset(**settings)
    [batch] = take(data.train(13, seed=0), 1)
    assert batch.keys() == {"image", "label", "offset", "mirror"}
    assert (batch["image"].shape, batch["image"].dtype) == ((13, *data.image_shape), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((13,), np.int32)
    assert (data.train_size, data.validation_size, data.test_size) == (1437, 0, 360)
    assert data.class_names == tuple("0123456789")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["memory", "streaming"])
def test_a_batch_depends_on_seed_and_step_alone(settings, photos_dir, kind, workers):
    if kind == "memory":
        reference = open_dataset(**settings)
        data = open_dataset(**settings | {"workers": workers})
    else:
        reference = photos(settings, photos_dir)
        data = photos(settings, photos_dir, workers=workers)
    whole = take(reference.train(10, seed=3), 9)
    assert_equal(take(data.train(10, seed=3, start_step=4), 5), whole[4:])
    assert not np.array_equal(whole[0]["image"], whole[1]["image"])


def written_out(stored, data, seed, step, batch_size):
    """A batch of 'crop_flip' by its definition: nothing but the seed and the step decides."""
    positions = [
        np.random.default_rng((seed, index // len(stored))).permutation(len(stored))[index % len(stored)]
        for index in range(step * batch_size, (step + 1) * batch_size)
    ]
    # Grain's generator for one element, whose place is the step.
    key = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint32)[0]
    rng = np.random.Generator(np.random.Philox(key))
    state = rng.bit_generator.state
    state["state"]["counter"] = np.array([0, 0, 0, step], np.uint64)
    rng.bit_generator.state = state
    offsets = rng.integers(0, 2 * data.pad + 1, (batch_size, 2))
    mirrored = rng.random(batch_size) < 0.5
    mean, scale = data.preprocessing.mean, 1 / data.preprocessing.std
    images = []
    for position, (y, x), mirror in zip(positions, offsets, mirrored, strict=True):
        image = np.pad(
            (stored.images[position].astype(np.float32) - mean) * scale, [(data.pad,) * 2] * 2 + [(0, 0)]
        )
        image = image[y : y + 8, x : x + 8]
        images.append(image[:, ::-1] if mirror else image)
    return {"image": np.stack(images), "label": stored.labels[positions]}


@pytest.mark.parametrize("normalize", ["pixel_mean", "channel"])
def test_a_batch_is_its_definition(settings, normalize):
    data = open_dataset(**settings | {"normalize": normalize})
    stored = data.source.load(data.parts["train"])
    for seed, first in ((3, 0), (7, 30)):
        batches = [views(data, batch) for batch in take(data.train(50, seed=seed, start_step=first), 3)]
        assert_equal(batches, [written_out(stored, data, seed, first + i, 50) for i in range(3)])


def test_seeds_differ_in_order_and_in_augmentation(settings):
    one = open_dataset(**settings | {"train_split": "train[:1]", "normalize": "channel"})
    order = open_dataset(**settings | {"augment": "none"})
    for data, key in ((one, "image"), (order, "label")):  # of one record, only the augmentation is left
        batches = [views(data, take(data.train(64, seed), 1)[0])[key] for seed in range(4)]
        assert len({batch.tobytes() for batch in batches}) == 4


@pytest.mark.parametrize(("split", "size"), [("train", 1000), ("validation", 437), ("test", 360)])
def test_evaluation_sees_every_image_once(settings, split, size):
    data = open_dataset(**settings | {"train_split": "train[:1000]", "validation_split": "train[1000:]"})
    assert (data.train_size, data.validation_size, data.test_size) == (1000, 437, 360)
    batches = list(data.evaluate(split, 64))
    assert len(batches) == -(-size // 64)
    assert all(b["image"].shape == (64, 8, 8, 1) and b["mask"].dtype == np.float32 for b in batches)
    mask = np.concatenate([b["mask"] for b in batches])
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < size)
    images = np.concatenate([b["image"] for b in batches])
    stored = data._records[split]
    np.testing.assert_array_equal(images[:size], stored.images)
    assert not images[size:].any()
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches])[:size], stored.labels)


def test_evaluation_with_a_batch_larger_than_the_split(settings):
    [batch] = open_dataset(**settings | {"test_split": "test[:5]"}).evaluate("test", 32)
    assert batch["mask"].sum() == 5
    assert batch["image"].shape[0] == 32


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_of_photographs(settings, photos_dir, workers):
    data = photos(settings, photos_dir, workers=workers)
    assert (data.image_shape, data.num_classes, data.class_names) == ((16, 16, 3), 5, ())
    batches = list(data.evaluate("test", 3))
    assert [b["mask"].tolist() for b in batches] == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    images, labels = data._records["test"].read(np.arange(7))
    np.testing.assert_array_equal(
        np.concatenate([b["image"] for b in batches])[:7], data.preprocessing.view(images)
    )
    assert sorted(labels.tolist()) == sorted(i % 5 for i in range(7))


def test_mean_comes_from_the_training_slice(settings):
    data = open_dataset(**settings | {"train_split": "train[:100]", "validation_split": "train[100:]"})
    normalization = Normalization.of(data.preprocessing)
    batches = [device.evaluation_views(batch, normalization) for batch in data.evaluate("train", 32)]
    seen = np.concatenate([b["image"][b["mask"] > 0] for b in batches])
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(), 1, atol=1e-5)


def test_images_of_another_size_are_resized(settings):
    data = open_dataset(**settings | {"image_size": 12, "normalize": "channel"})
    [batch] = take(data.train(4, seed=0), 1)
    assert data.image_shape == batch["image"].shape[1:] == (12, 12, 1)


def test_close_ends_threads_and_can_be_repeated(settings):
    data = open_dataset(**settings)
    before = set(threading.enumerate())
    iterator = data.train(8, seed=0)
    next(iterator)
    started = set(threading.enumerate()) - before
    assert started
    iterator.close()
    iterator.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_worker_that_dies_is_reported(settings):
    iterator = open_dataset(**settings | {"workers": 1}).train(8, seed=0)
    next(iterator)
    [process] = multiprocessing.active_children()
    process.kill()
    with pytest.raises(
        BadInput, match=r"data\.workers=1: Worker process was terminated unexpectedly with exit code -9; "
    ):
        list(itertools.islice(iterator, 100))
    iterator.close()


SCRIPT = """
import sys
from resjax.data.loader import open_dataset
heavy = {"grain", "tensorflow_datasets", "sklearn", "simplejpeg", "jax"} & set(sys.modules)
assert not heavy, heavy
if __name__ == "__main__":
    data = open_dataset(name="digits", dir="", train_split="train", validation_split="", test_split="test",
                        augment="crop_flip", pad=1, normalize="pixel_mean", image_size=0, workers=int(sys.argv[1]))
    kept, iterator = [], data.train(64, seed=0)
    for _ in range(5):
        kept.append(next(iterator))
    total = sum(batch["image"].sum() for batch in kept)
    assert "tensorflow" not in sys.modules
    assert "sklearn" not in sys.modules
    print("done")
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_that_forgets_to_close_ends_in_silence(tmp_path, workers):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "-W", "error", script, str(workers)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
