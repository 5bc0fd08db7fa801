"""The losses against loops over images and classes."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from resjax.train.loss import Loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)) * 3
SOFT = RNG.dirichlet(np.ones(5), 6)
HARD = np.eye(5)[RNG.integers(0, 5, 6)]


def by_hand(name, smoothing, threshold, logits, targets):
    """Of every image, as PyTorch's cross_entropy and timm's BinaryCrossEntropy define it for soft targets."""
    losses = []
    for scores, shares in zip(logits, targets, strict=True):
        total = math.log(sum(math.exp(s) for s in scores))
        loss = 0.0
        for score, share in zip(scores, shares, strict=True):
            share = (1 - smoothing) * share + smoothing / len(scores)
            if name == "softmax":
                loss += share * (total - score)
                continue
            if threshold:
                share = float(share > threshold)
            p = 1 / (1 + math.exp(-score))
            loss -= (share * math.log(p) + (1 - share) * math.log(1 - p)) / len(scores)
        losses.append(loss)
    return losses


@pytest.mark.parametrize("targets", [SOFT, HARD], ids=["soft", "hard"])
@pytest.mark.parametrize(
    ("name", "smoothing", "threshold"),
    [("softmax", 0.0, 0), ("softmax", 0.1, 0), ("binary", 0.0, 0), ("binary", 0.1, 0), ("binary", 0.1, 0.2)],
)
def test_loss(name, smoothing, threshold, targets):
    found = Loss(name, smoothing, threshold)(jnp.asarray(LOGITS), jnp.asarray(targets))
    assert found.shape == (6,)
    np.testing.assert_allclose(found, by_hand(name, smoothing, threshold, LOGITS, targets), rtol=1e-5)


def test_a_target_at_the_threshold_is_not_above_it():
    targets = jnp.array([[0.25, 0.75, 0.0]])
    found = Loss("binary", threshold=0.25)(jnp.zeros((1, 3)).at[0, 0].set(2.0), targets)
    np.testing.assert_allclose(found, [(math.log(1 + math.exp(2)) + 2 * math.log(2)) / 3], rtol=1e-6)


def test_large_logits_do_not_overflow():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(Loss("binary")(logits, jnp.array([[1.0, 0.0, 1.0]])), [math.log(2) / 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "binary"])
def test_the_least_that_a_loss_can_be(name):
    """That of logits which say the targets: log t for a softmax, log t - log (1 - t) for a yes or no."""
    smoothed = 0.9 * SOFT + 0.1 / 5
    best = np.log(smoothed) - (0 if name == "softmax" else np.log(1 - smoothed))
    least = Loss(name, 0.1).least(jnp.asarray(SOFT))
    np.testing.assert_allclose(least, by_hand(name, 0.1, 0, best, SOFT), rtol=1e-5)
    np.testing.assert_allclose(Loss("binary", 0.1, 0.2).least(jnp.asarray(HARD)), np.zeros(6))
