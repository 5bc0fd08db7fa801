"""What training minimises, from targets that share an image between the classes."""

import dataclasses

import jax
import optax
from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of every image: logits [N, K], targets [N, K] -> [N]. Training minimises their mean.

    Attributes:
      name: `softmax`, the cross-entropy of one distribution over the classes; or `binary`, that of a yes or no for
        each class, its mean over the K classes: timm's BinaryCrossEntropy with `reduction="mean"`, which was all
        that it had when "ResNet strikes back" (arXiv 2110.00476) chose its rates.
      label_smoothing: eps; targets t become (1 - eps) t + eps / K first, with either loss, as in timm and PyTorch.
        Of mixed images too, where timm smooths both labels before it mixes them, which is the same.
      threshold: of `binary`: smoothed targets above it become 1 and the others 0; 0: they stay as they are.
    """

    name: str = "softmax"
    label_smoothing: float = 0.0
    threshold: float = 0.0

    @classmethod
    def of(cls, config: ConfigDict) -> "Loss":
        """The loss of a config."""
        return cls(config.loss.name, config.optimizer.label_smoothing, config.loss.threshold)

    def __call__(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        asked = self.asked(targets)
        if self.name == "softmax":
            return optax.softmax_cross_entropy(logits, asked)
        return optax.sigmoid_binary_cross_entropy(logits, asked).mean(-1)

    def asked(self, targets: jax.Array) -> jax.Array:
        """The targets [N, K] smoothed, and cut at the threshold."""
        targets = optax.smooth_labels(targets, self.label_smoothing)
        return (targets > self.threshold).astype(targets.dtype) if self.threshold else targets

    def least(self, targets: jax.Array) -> jax.Array:
        """The least that the loss of every image can be, [N]: 0 only where each target is 0 or 1."""
        entropy, asked = jax.scipy.special.entr, self.asked(targets)
        return entropy(asked).sum(-1) if self.name == "softmax" else (entropy(asked) + entropy(1 - asked)).mean(-1)


SOFTMAX = Loss()
