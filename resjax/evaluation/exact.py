"""Exact BN statistics: those of many training batches under the weights as they are, not a trace of earlier ones.

    batches = itertools.islice(run.dataset.train(256, seed=0), 200)
    images = (training_views(b, run.program.normalization, run.dataset.pad)["image"] for b in batches)
    batch_stats = exact.statistics(run.spec, state.params, state.batch_stats, images, "mean_variance")

Two definitions are published. With m and v the mean and the variance of a batch, and E over the batches:

mean_variance    E[m] and E[v]: Algorithm 2 of arXiv 1502.03167, fvcore's `update_bn_stats`, and pycls's
                 `compute_precise_bn_stats` as it is now
total_variance   E[m] and E[v + m^2] - E[m]^2, the variance of all images together: `compute_precise_bn_stats` as
                 pycls first had it

They differ by the variance of the means, so the second is never smaller. v is the biased variance here, as in
`resjax.models.norm`, whose running statistics it replaces; all of those multiply it by n / (n - 1), where a channel
has n values in a batch.
"""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.errors import BadInput, unknown
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

DEFINITIONS = ("mean_variance", "total_variance")


class Moments(NamedTuple):
    """Of the statistics of `number` batches: their mean and their variance, each a tree like `batch_stats`."""

    number: jax.Array
    mean: Any
    variance: Any


def statistics(
    spec: Spec,
    params: Any,
    batch_stats: Any,
    batches: Iterable[jax.Array],
    definition: str = "mean_variance",
    seed: int = 0,
) -> Any:
    """The batch statistics that take the place of a network's running ones; {} for a network without BN.

    Every batch goes through the network as in training, so that what a BN sees has been normalised by the same
    batch's statistics before. Where BN normalises groups of `spec.bn_group` images, a group is a batch. Nothing
    comes back to the host: parameters and images may lie on any number of devices and processes.

    Args:
      params, batch_stats: the network's, in the form that `spec.scan` says; no value of `batch_stats` is used.
      batches: images [N, H, W, C] as the training step sees them. Each batch, or group, counts the same.
      definition: one of DEFINITIONS.
      seed: of dropout and stochastic depth, which are as in training.

    Raises:
      BadInput: for another definition, no batch, or one that does not consist of whole groups.
    """
    if definition not in DEFINITIONS:
        raise BadInput(unknown("definition of exact BN statistics", definition, DEFINITIONS))
    found = None
    for index, images in enumerate(batches):
        if spec.bn_group and len(images) % spec.bn_group:
            raise BadInput(f"model.bn_group={spec.bn_group}: a batch of {len(images)} images has no such groups")
        new = moments(spec, params, batch_stats, images, np.uint32(seed), np.uint32(index))
        found = new if found is None else merge(found, new)
    if found is None:
        raise BadInput("exact BN statistics need at least one batch of training images, and there is none")
    return found.mean if definition == "mean_variance" else total(found)


@partial(jax.jit, static_argnums=0)
def moments(
    spec: Spec, params: Any, batch_stats: Any, images: jax.Array, seed: jax.Array, index: jax.Array
) -> Moments:
    """Those of one batch, or of all groups in it."""
    # What BN keeps of its running statistics is then nothing: the new ones are the batch's own.
    model = ResNet(dataclasses.replace(spec, bn_momentum=0.0, bn_group=0))
    none = jax.tree.map(jnp.zeros_like, batch_stats)  # 0 times a diverged network's would not be 0
    groups = images.reshape(-1, spec.bn_group or len(images), *images.shape[1:])  # [G, N/G, H, W, C]

    def of_a_group(images: jax.Array, rng: jax.Array) -> Any:
        variables, rngs = {"params": params, "batch_stats": none}, {"dropout": rng}
        _, new = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return new.get("batch_stats", {})

    rng = jax.random.fold_in(jax.random.key(seed), index)
    own = jax.vmap(of_a_group)(groups, jax.random.split(rng, len(groups)))  # leaves [G, ...]
    mean, variance = (jax.tree.map(f, own) for f in (lambda x: x.mean(0), lambda x: x.var(0)))
    return Moments(jnp.float32(len(groups)), mean, variance)


@jax.jit
def merge(a: Moments, b: Moments) -> Moments:
    """Those of both sets of batches, without a difference of large numbers."""
    number = a.number + b.number
    share = b.number / number

    def mean(a: jax.Array, b: jax.Array) -> jax.Array:
        return a + share * (b - a)

    def variance(a: jax.Array, b: jax.Array, mean_a: jax.Array, mean_b: jax.Array) -> jax.Array:
        return mean(a, b) + share * (1 - share) * jnp.square(mean_b - mean_a)  # within both, and between them

    return Moments(
        number,
        jax.tree.map(mean, a.mean, b.mean),
        jax.tree.map(variance, a.variance, b.variance, a.mean, b.mean),
    )


def total(moments: Moments) -> Any:
    """The statistics of all images together: E[v + m^2] - E[m]^2 is E[v] and the variance of m."""

    def is_norm(node: Any) -> bool:
        return isinstance(node, dict) and "var" in node

    def of_a_norm(mean: Any, variance: Any) -> Any:
        return {"mean": mean["mean"], "var": mean["var"] + variance["mean"]}

    return jax.tree.map(of_a_norm, moments.mean, moments.variance, is_leaf=is_norm)
