"""Views, and what a network says over them, against loops that are written out."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from resjax.data.sources import InMemory
from resjax.evaluation import views
from resjax.evaluation.views import Views
from resjax.member import Member
from resjax.train import sharding
from resjax.train.checkpoint import Checkpoints
from tests.evaluation.conftest import SIZE, TESTED

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def member(runs):
    return Member.open(str(runs.first), [], "test", "last")


def judged(member, chosen, devices=1):
    return member.judge(chosen, sharding.make_mesh(devices, 1))


def resized(image, short):
    height, width = image.shape[:2]
    h, w = round(height * short / min(height, width)), round(width * short / min(height, width))
    return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))


def test_ten_crops_are_those_of_a_written_out_loop(member, stored, softmax):
    found, labels = judged(member, Views("ten"))
    images, expected = stored
    assert labels.tolist() == expected.tolist()
    taken = []
    for image in images:
        large = resized(image, 37)  # 32 / 0.875, rounded
        down, right = large.shape[0] - SIZE, large.shape[1] - SIZE
        for top, left in [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]:
            crop = large[top : top + SIZE, left : left + SIZE]
            taken += [crop, crop[:, ::-1]]
    mean = softmax(member, taken).reshape(len(images), 10, -1).mean(1)
    np.testing.assert_allclose(np.exp(found), mean, rtol=2e-4)


def test_whole_images_at_two_scales_are_those_of_a_written_out_loop(member, stored, softmax):
    found, _ = judged(member, Views("scales", (32, 48)))
    for image, own in zip(stored[0], found, strict=True):
        total = np.zeros(6)
        for scale in (32, 48):
            large = resized(image, scale)
            h, w = (max(scale, side - side % 32) for side in large.shape[:2])
            top, left = (large.shape[0] - h) // 2, (large.shape[1] - w) // 2
            whole = large[top : top + h, left : left + w]
            total += softmax(member, [whole, whole[:, ::-1]]).sum(0)
        np.testing.assert_allclose(np.exp(own), total / 4, rtol=2e-4)


def test_a_square_image_at_the_networks_size_is_its_centre_view(member, stored):
    """Without a margin around the crop; the mean is over the image and its mirror image."""
    whole = replace(member.preprocessing, crop_share=1.0)
    square = np.stack([image[:32, :32] for image in stored[0]])

    def says(images, chosen):
        records, place = InMemory(images, stored[1]), lambda x: x
        options = {"batch_size": 8, "devices": 1, "threads": 1}
        return np.exp(views.scores(member.spec, weights, whole, records, chosen, place, **options)[0])

    with closing(Checkpoints(Path(member.opened.name))) as checkpoints:
        weights = checkpoints.weights(member.opened.step)
    centre = (says(square, Views()) + says(square[:, :, ::-1], Views())) / 2
    np.testing.assert_allclose(says(square, Views("scales", (32,))), centre, rtol=1e-5)


@pytest.mark.parametrize("chosen", [Views(), Views("scales", (32, 48))], ids=lambda views: views.kind)
def test_every_image_counts_once_on_eight_devices(member, chosen, stored):
    """13 images are no multiple of 8, and of most shapes there is one."""
    assert jax.device_count() == 8
    one, labels = judged(member, chosen)
    eight, same = judged(member, chosen, 8)
    np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-5)
    assert labels.tolist() == same.tolist() == stored[1].tolist()
    records = member.source.open(member.task.part)
    batches = views.batches(records, member.preprocessing, chosen, np.zeros(TESTED, np.int32), 8, 8, 2)
    rows = []
    for batch in batches:
        assert len(batch.views) == 8
        assert not batch.views[len(batch.rows) :].any()
        rows += batch.rows.tolist()
    assert sorted(rows) == sorted(list(range(TESTED)) * max(1, len(chosen.scales)))


def test_larger_views_come_in_smaller_batches(member):
    """So that a device holds no more than in the network's own evaluation."""
    chosen, records = Views("scales", (32, 64)), member.source.open(member.task.part)
    batches = list(views.batches(records, member.preprocessing, chosen, np.zeros(TESTED, np.int32), 32, 1, 2))
    assert max(2 * batch.views[..., 0].size for batch in batches) <= 32 * SIZE * SIZE
    assert {len(batch.views) for batch in batches if batch.views.shape[2:4] == (64, 64)} == {4}
