"""Batch normalisation (arXiv 1502.03167) that is explicit about its batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalises each channel over groups of `group` consecutive images.

    Under `jit` a sharded batch is one array, so without a group the statistics come from the global batch.
    The papers' came from what one GPU held: 64 images (CIFAR) or 32 (ImageNet). Grouping by images rather than
    by devices gives the same numbers on any number of devices. The running statistics are the mean over the
    groups; the running variance is the biased one.

    Attributes:
      group: images normalised together; 0 = the whole batch. Must divide the batch in training.
      momentum: share of the running statistics that survives a step.
      epsilon: added to the variance.
      zero_scale: start gamma at 0 instead of 1.
      shift: the starting value of beta.
    """

    group: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    zero_scale: bool = False
    shift: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, ..., C] in any float type -> the same; statistics and arithmetic are float32."""
        channels = x.shape[-1]
        gamma_init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        gamma = self.param("scale", gamma_init, (channels,))
        beta = self.param("bias", nn.initializers.constant(self.shift), (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))

        if not train:
            mean, var = running_mean.value, running_var.value
            scale = gamma * jax.lax.rsqrt(var + self.epsilon)
            y = x.astype(jnp.float32) * along(scale, x) + along(beta - mean * scale, x)
            return y.astype(x.dtype)

        size = self.group or x.shape[0]
        y = x.astype(jnp.float32).reshape(-1, size, *x.shape[1:])  # [G, N/G, ..., C]
        axes = tuple(range(1, y.ndim - 1))
        mean = y.mean(axes, keepdims=True)  # [G, 1, ..., C]
        # E[x^2] - E[x]^2 reads the activations once; rounding may push it below zero.
        var = jnp.maximum(jnp.square(y).mean(axes, keepdims=True) - jnp.square(mean), 0.0)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                new = new.reshape(-1, channels).mean(0)
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        y = (y - mean) * (jax.lax.rsqrt(var + self.epsilon) * along(gamma, y)) + along(beta, y)
        return y.reshape(x.shape).astype(x.dtype)


def along(values: jax.Array, x: jax.Array) -> jax.Array:
    """[C] -> [1, ..., 1, C], of the rank of x."""
    return values.reshape((1,) * (x.ndim - 1) + (-1,))
