"""Batch normalisation (arXiv 1502.03167) that is explicit about its batch, exact, and has its own gradient."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalises each channel over groups of `group` consecutive images.

    Under `jit` a sharded batch is one array, so without a group the statistics come from the global batch.
    In the papers they come from the images of one GPU: 64 (CIFAR) or 32 (ImageNet). Grouping by images rather
    than by devices gives the same numbers on any number of devices. The running statistics average the mean and
    the biased variance over the groups.

    Attributes:
      group: images normalised together; 0 = the whole batch. Must divide the batch in training.
      momentum: share of the running statistics that a step keeps.
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
        """[N, ..., C] in any float type -> the same; statistics and arithmetic are at least float32."""
        channels = x.shape[-1]
        gamma_init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        gamma = self.param("scale", gamma_init, (channels,))
        beta = self.param("bias", nn.initializers.constant(self.shift), (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))

        if not train:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            scale = along(gamma * jax.lax.rsqrt(running_var.value + self.epsilon), x)
            return ((wide - along(running_mean.value, x)) * scale + along(beta, x)).astype(x.dtype)

        groups = x.reshape(-1, self.group, *x.shape[1:]) if self.group else x  # [G, N/G, ..., C] or [N, ..., C]
        axes = tuple(range(1 if self.group else 0, groups.ndim - 1))
        y, mean, var = normalize(groups, along(gamma, groups), along(beta, groups), axes, self.epsilon)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                new = jax.lax.stop_gradient(new).reshape(-1, channels).mean(0).astype(jnp.float32)
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y.reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, axes: tuple[int, ...], epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises `x` by its statistics over `axes`: images, then rows and columns if there are any.

        xhat = (x - mean) rstd,    rstd = 1 / sqrt(var + epsilon),    y = gamma xhat + beta

    E[x^2] - E[x]^2 is a difference of large numbers where the mean is far from 0. Here a first guess of the mean,
    that of the middle pixel of every image, is subtracted from x before anything is squared. As a pixel is one of
    H W, its mean is at most sqrt(H W) standard deviations off, and mostly far below one: var is exact to at most
    about H W roundings, whatever the mean.

    The gradient g = dL/dy reaches x directly, through the mean and through rstd. With means over the n values that
    share their statistics:

        dL/dbeta = n mean(g),    dL/dgamma = n mean(g xhat),    dL/dx = gamma rstd (g - mean(g) - xhat mean(g xhat))

    That takes two sums and one pass. The only array of x's size that is kept is x itself, in its own type.

    Args:
      x: [G, N/G, ..., C] or [N, ..., C] in any float type.
      gamma, beta: [1, ..., 1, C].
      axes: those that the statistics are taken over: all but the last and, where there are groups, the first.
      epsilon: added to the variance.

    Returns:
      y as x; mean and biased variance, of size 1 along `axes`, in float32 (float64 for float64), without gradients.
    """
    return _forward(x, gamma, beta, axes, epsilon)[0]


Saved = tuple[jax.Array, ...]


def _forward(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, axes: tuple[int, ...], epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Saved]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    sample = wide
    for axis in axes[1:]:
        middle = x.shape[axis] // 2
        sample = jax.lax.slice_in_dim(sample, middle, middle + 1, axis=axis)
    guess = sample.mean(axes, keepdims=True)
    z = wide - guess
    rest = z.mean(axes, keepdims=True)  # the mean is guess + rest: two numbers, as one would lose digits
    var = jnp.maximum(jnp.square(z).mean(axes, keepdims=True) - jnp.square(rest), 0)
    rstd = jax.lax.rsqrt(var + epsilon)
    scale = gamma * rstd
    y = z * scale + (beta - rest * scale)
    return (y.astype(x.dtype), guess + rest, var), (x, gamma, beta, guess, rest, rstd)


def _backward(
    axes: tuple[int, ...], epsilon: float, saved: Saved, gradients: Saved
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, gamma, beta, guess, rest, rstd = saved
    wide, g = x.astype(rstd.dtype), gradients[0].astype(rstd.dtype)
    mean_g = g.mean(axes, keepdims=True)
    # The sum over g x, not g (x - guess): XLA would keep that difference, as large as x, from the forward pass on,
    # a third of the memory of a CIFAR step. Its rounding is about that of the mean in float32.
    cov = (g * wide).mean(axes, keepdims=True) - (guess + rest) * mean_g  # of g and x; rstd cov = mean(g xhat)
    a = gamma * rstd
    c = a * jnp.square(rstd) * cov
    dx = a * (g - mean_g) - c * ((wide - guess) - rest)
    n = x.size // rstd.size
    groups = tuple(range(x.ndim - 1))
    # Multiplied last: n mean(g) is a sum again, and summing that over the groups another pass over all of g.
    dgamma, dbeta = (n * mean.sum(groups, keepdims=True) for mean in (rstd * cov, mean_g))
    return dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(beta.dtype)


normalize.defvjp(_forward, _backward)


def along(values: jax.Array, x: jax.Array) -> jax.Array:
    """[C] -> [1, ..., 1, C], of the rank of x."""
    return values.reshape((1,) * (x.ndim - 1) + (-1,))
