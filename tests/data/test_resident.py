"""A set in device memory gives the batches of the host."""

import functools
import itertools

import grain
import jax
import numpy as np
import pytest

from resjax.data import resident
from resjax.data.loader import open_dataset
from resjax.data.order import generator
from resjax.data.resident import Resident
from resjax.errors import BadInput


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)


def resident_of(data, split):
    return jax.device_put(Resident.of(data.stored(split)))


SHAPES = {"digits": {}, "synthetic": {"image_size": 9, "train_split": "train[:300]", "test_split": "test[:70]"}}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("normalize", ["pixel_mean", "channel"])
@pytest.mark.parametrize(("augment", "pad"), [("none", 0), ("crop", 1), ("crop_flip", 0), ("crop_flip", 3)])
def test_training_batches(settings, name, augment, pad, normalize):
    """8 x 8 of one channel and 9 x 9 of three; whole batches, and two processes' rows of them."""
    changes = SHAPES[name] | {"name": name, "augment": augment, "pad": pad, "normalize": normalize}
    data = open_dataset(**settings | changes)
    own, make = resident_of(data, "train"), jax.jit(resident.training_batch)
    for rows in (None, np.array([0, 1, 6, 7]), np.array([2, 3, 4, 5])):
        size = 53 if rows is None else 8
        host, draws = data.train(size, 5, 40, rows), data.draws(size, 5, 40, rows)
        for expected, drawn in itertools.islice(zip(host, draws, strict=True), 3):
            assert sum(x.nbytes for x in drawn.values()) <= 13 * len(expected["label"])
            assert_equal(make(own, drawn), expected)
        host.close()
        draws.close()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_evaluation_batches(settings, name, batch_size):
    """Each image once, and the last batch filled up as the host does; also where images are split into parts."""
    data = open_dataset(**settings | SHAPES[name] | {"name": name, "test_split": "test[:69]"})
    make = jax.jit(functools.partial(resident.evaluation_batch, batch_size=batch_size))
    for parts in (1, 8):
        own = Resident.of(data.stored("test"), parts)
        assert len(own.images) == len(own.labels) == (72 if parts == 8 else 69)
        batches = list(data.evaluate("test", batch_size))
        for number, expected in enumerate(batches):
            assert_equal(make(own, np.int32(number)), expected)


def test_draws_go_on_at_any_step_and_end(settings):
    data = open_dataset(**settings)
    whole, part = data.draws(32, 3), data.draws(32, 3, start_step=130)  # more than are drawn ahead
    for expected, found in zip(list(itertools.islice(whole, 133))[130:], part, strict=False):
        assert_equal(found, expected)
    for draws in (whole, part):
        draws.close()
        draws.close()


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (7, 3), (2**32 - 1, 2**20)])
def test_random_numbers_are_those_of_grain(seed, step):
    """So were they in 0.1.0, whose runs go on."""
    steps = grain.MapDataset.range(2**30).seed(seed).random_map(lambda i, rng: (i, rng.random(5), rng.integers(99)))
    at, uniform, integer = steps[step]
    own = generator(seed, step)
    assert at == step
    np.testing.assert_array_equal(own.random(5), uniform)
    assert own.integers(99) == integer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": "resized_crop_flip"}, "'digits' is .* resized .* use data.placement='host'"),
        ({"image_size": 12}, "resized"),
        ({"workers": 2}, r"data\.workers=2 beside data\.placement='device'"),
    ],
)
def test_what_cannot_lie_on_the_device(settings, changes, message):
    changes = {"normalize": "channel", "placement": "device"} | changes
    with pytest.raises(BadInput, match=message):
        open_dataset(**settings | changes)
    open_dataset(**settings | changes | {"placement": "auto"})
