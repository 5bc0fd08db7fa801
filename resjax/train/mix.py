"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899): two images become one, and so do their labels."""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from resjax.evaluation.evaluate import Batch

NUMBER = 2**32 - 1  # what the draws of a step are numbered by; microbatches, which draw too, count from 0


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixes every image x of a batch with its partner p: lambda x + (1 - lambda) p, and their labels alike.

    Mixup draws lambda from Beta(mixup, mixup). CutMix draws it from Beta(cutmix, cutmix), pastes a box of p into x
    and takes what is left of x as lambda. The box has the sides 2 floor(sqrt(1 - lambda) S / 2), S that of the
    image, and its centre lies anywhere in the image, which cuts it: in timm and torchvision alike.

    Both draw for the batch of one GPU, and mix within it: here for `group` images in succession, whatever devices
    and microbatches the batch of a step is split into.

    Attributes:
      mixup, cutmix: the parameters of Beta; 0: off. If both are on, each batch takes one of them, with probability
        1/2, as timm's `switch_prob` and torchvision's `RandomChoice` have it.
      definition: `timm`: image i of a group of n has the partner n - 1 - i; `torchvision`: i - 1.
      group: images that share lambda and box; 0: the whole batch.
    """

    mixup: float
    cutmix: float
    definition: str = "timm"
    group: int = 0

    @classmethod
    def of(cls, config: ConfigDict) -> "Mix | None":
        """What a config mixes; None if nothing."""
        mix = config.mix
        return cls(mix.mixup, mix.cutmix, mix.definition, mix.group) if mix.mixup or mix.cutmix else None

    def __call__(self, batch: Batch, classes: int, rng: jax.Array) -> Batch:
        """The batch mixed.

        Args:
          batch: image [N, H, W, C], label [N].
          classes: K.
          rng: of the step.

        Returns:
          image [N, H, W, C], target [N, K], and label [N], the one that has the larger part: training accuracies
          count it, as those of torchvision's reference code do; timm states none.
        """
        size = len(batch["label"])
        groups = size // (self.group or size)
        parts = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)  # [G, n, ...]
        rngs = jax.random.split(jax.random.fold_in(rng, NUMBER), groups)
        mixed = jax.vmap(lambda part, rng: self._group(part, classes, rng))(parts, rngs)
        return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), mixed)

    def _group(self, batch: Batch, classes: int, rng: jax.Array) -> Batch:
        images, labels = batch["image"], batch["label"]
        which, share, centre = jax.random.split(rng, 3)
        cut = jax.random.bernoulli(which) if self.mixup and self.cutmix else jnp.bool_(self.cutmix > 0)
        alpha = jnp.where(cut, self.cutmix, self.mixup)
        drawn = jax.random.beta(share, alpha, alpha)
        outside = ~box(drawn, (images.shape[1], images.shape[2]), centre)  # [H, W]
        own = jnp.where(cut, outside.astype(images.dtype), drawn)  # how much of each pixel stays
        lam = jnp.where(cut, outside.mean(), drawn)
        others = jax.tree.map(self.partners, {"image": images, "label": labels})
        targets = lam * jax.nn.one_hot(labels, classes) + (1 - lam) * jax.nn.one_hot(others["label"], classes)
        own = own[None, :, :, None]
        return {
            "image": own * images + (1 - own) * others["image"],
            "target": targets,
            "label": jnp.where(lam >= 0.5, labels, others["label"]),
        }

    def partners(self, x: jax.Array) -> jax.Array:
        """The partner of every image or label [N, ...]."""
        return jnp.flip(x, 0) if self.definition == "timm" else jnp.roll(x, 1, 0)


def box(lam: jax.Array, size: tuple[int, int], rng: jax.Array) -> jax.Array:
    """CutMix's box for a lambda, in an image of `size` (H, W): bool [H, W]."""
    inside = []
    for side, key in zip(size, jax.random.split(rng), strict=True):
        half = jnp.floor(0.5 * jnp.sqrt(1 - lam) * side).astype(jnp.int32)
        centre, at = jax.random.randint(key, (), 0, side), jnp.arange(side)
        inside.append((at >= centre - half) & (at < centre + half))
    return inside[0][:, None] & inside[1][None, :]
