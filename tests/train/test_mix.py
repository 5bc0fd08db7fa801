"""Mixup and CutMix against loops over pixels, written from timm's and torchvision's definitions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.train import sharding
from resjax.train.loss import Loss
from resjax.train.mix import NUMBER, Mix
from resjax.train.step import init_state, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

N, H, W, K = 8, 12, 10, 5
RNG = np.random.default_rng(0)
BATCH = {"image": RNG.normal(size=(N, H, W, 2)).astype("float32"), "label": RNG.integers(0, K, N, "int32")}
ORDER = {"timm": lambda x: x[::-1], "torchvision": lambda x: np.concatenate([x[-1:], x[:-1]])}


@functools.cache
def jitted(mix):
    return jax.jit(lambda batch, key: mix(batch, K, key))


def mixed(mix, seed):
    return jax.device_get(jitted(mix)(BATCH, jax.random.key(seed)))


def drawn(mix, rng):
    """What is drawn for a group: whether it is CutMix, lambda, and the centre of the box."""
    which, share, centre = jax.random.split(rng, 3)
    cut = bool(jax.random.bernoulli(which)) if mix.mixup and mix.cutmix else mix.cutmix > 0
    alpha = mix.cutmix if cut else mix.mixup
    at = [int(jax.random.randint(k, (), 0, side)) for k, side in zip(jax.random.split(centre), (H, W), strict=True)]
    return cut, float(jax.random.beta(share, alpha, alpha)), at


def timm_box(lam, at):
    """timm's rand_bbox: whole sides first, half of them to either side of the centre, then cut by the image."""
    ratio = math.sqrt(1 - lam)
    sides = int(H * ratio), int(W * ratio)
    return [
        (max(0, c - side // 2), min(size, c + side // 2)) for c, side, size in zip(at, sides, (H, W), strict=True)
    ]


def torchvision_box(lam, at):
    """torchvision's CutMix: half sides from half the ratio."""
    r = 0.5 * math.sqrt(1.0 - lam)
    halves = int(r * H), int(r * W)
    return [(max(0, c - half), min(size, c + half)) for c, half, size in zip(at, halves, (H, W), strict=True)]


def by_hand(mix, seed, box):
    """Group by group, as if each were the batch of a GPU."""
    size = mix.group or N
    rngs = jax.random.split(jax.random.fold_in(jax.random.key(seed), NUMBER), N // size)
    images, labels, targets = BATCH["image"].copy(), BATCH["label"].copy(), np.zeros((N, K))
    for first, rng in zip(range(0, N, size), rngs, strict=True):
        cut, lam, at = drawn(mix, rng)
        partner = first + ORDER[mix.definition](np.arange(size))
        own = range(first, first + size)
        if cut:
            (top, bottom), (left, right) = box(lam, at)
            for i, j in zip(own, partner, strict=True):
                images[i, top:bottom, left:right] = BATCH["image"][j, top:bottom, left:right]
            lam = 1 - (bottom - top) * (right - left) / (H * W)
        for i, j in zip(own, partner, strict=True):
            if not cut:
                images[i] = lam * BATCH["image"][i] + (1 - lam) * BATCH["image"][j]
            targets[i, BATCH["label"][i]] += lam
            targets[i, BATCH["label"][j]] += 1 - lam
            labels[i] = BATCH["label"][i if lam >= 0.5 else j]
    return {"image": images, "target": targets, "label": labels}


MIXES = [Mix(0.4, 0.0), Mix(0.1, 1.0), Mix(0.2, 1.0, "torchvision", 4)]


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_a_batch_is_mixed_as_defined(mix):
    box = timm_box if mix.definition == "timm" else torchvision_box
    for seed in range(8):
        found, expected = mixed(mix, seed), by_hand(mix, seed, box)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{name} of seed {seed}")


def test_what_is_drawn_has_its_distribution():
    """Half of the batches are cut; lambda of a blend has the variance of Beta(a, a), 1 / (4 (2 a + 1))."""
    small = {"image": jnp.zeros((2, 1, 1, 1)), "label": jnp.array([0, 1])}
    share = jax.jit(jax.vmap(lambda key: Mix(2.0, 1.0)(small, 2, key)["target"][0, 0]))
    shares = np.asarray(share(jax.random.split(jax.random.key(1), 2000)))
    cut = shares == 1.0  # of an image of one pixel no box takes anything; of a blend something is taken
    assert cut.mean() == pytest.approx(0.5, abs=0.04)
    assert shares[~cut].mean() == pytest.approx(0.5, abs=0.03)
    assert shares[~cut].var() == pytest.approx(1 / (4 * 5), rel=0.12)


DENSE = {"unit": "dense", "stem": "none", "norm": "none"}  # compiles in no time
SPEC = Spec(units=(1,), widths=(64,), input_size=8, input_channels=1, **DENSE)


def test_a_step_trains_on_the_mixed_batch_however_it_is_cut():
    """Mixed before it is split over microbatches and devices; drawn from seed and step; the targets are soft."""
    mix, tx, seed = Mix(0.4, 1.0), optax.sgd(0.1), jnp.uint32(3)
    batch = {"image": jnp.asarray(RNG.normal(size=(16, 8, 8, 1)), jnp.float32), "label": jnp.arange(16) % 10}
    state = init_state(SPEC, tx, 0).replace(step=jnp.int32(5))

    def step(accumulate, batch):
        made = make_train_step(
            ResNet(SPEC), tx, optax.constant_schedule(0.1), loss=Loss("binary"), accumulate=accumulate, mix=mix
        )
        return jax.device_get(jax.jit(made)(state, batch, seed))

    mixed = jax.jit(lambda step: mix(batch, 10, jax.random.fold_in(jax.random.key(seed), step)))
    ready = mixed(5)
    logits = np.asarray(ResNet(SPEC).apply({"params": state.params}, ready["image"]), np.float64)
    p, t = 1 / (1 + np.exp(-logits)), np.asarray(ready["target"])
    loss = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    right = (logits.argmax(1) == ready["label"]).mean()
    mesh = sharding.make_mesh(4, 1)
    for accumulate, given in ((1, batch), (2, sharding.place_rows(mesh, batch))):
        after, metrics = step(accumulate, given)
        assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
        assert metrics["accuracy"] == right
        if accumulate == 1:
            whole = after.params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.params, whole)
    assert not np.array_equal(mixed(6)["target"], t)
