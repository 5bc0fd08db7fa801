"""Stem, stages, head: the one network."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models import layout
from resjax.models.layers import Part, run
from resjax.models.spec import Spec, UnitShape
from resjax.models.units import Unit


class Stage(nn.Module):
    """Units of one width on one map size; only the first may change either."""

    spec: Spec
    shapes: tuple[UnitShape, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C_in] -> [N, H/stride, W/stride, C_out]."""
        unit = nn.remat(Unit, static_argnums=(2,)) if self.spec.remat else Unit
        if not self.spec.scan:
            for shape in self.shapes:
                x = unit(self.spec, shape, name=shape.path[-1])(x, train, shape.survival)
            return x
        first, *rest = self.shapes
        x = unit(self.spec, first, name="unit0")(x, train, first.survival)
        if rest:
            # The units after the first are alike: one body, their variables stacked along a leading axis.
            x, _ = nn.scan(
                lambda body, x, survival: (body(x, train, survival), None),
                variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=len(rest),
            )(unit(self.spec, rest[0], name="units"), x, jnp.array([shape.survival for shape in rest]))
        return x


class ResNet(nn.Module):
    """The network that a `Spec` describes.

    Names in the parameter tree are stable: `stem/conv1`, `stage1/unit0/{conv1,norm1,shortcut,gate,excitation}`,
    `norm`, `head`. Dropout and stochastic depth draw from the rng stream `dropout`.

    Attributes:
      frozen: the first of `spec.parts`, which do in training what they do in evaluation, and pass no gradient on.
    """

    spec: Spec
    frozen: tuple[str, ...] = ()

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] images -> logits [N, K], float32 or wider. `train` uses and updates batch statistics."""
        return self._forward(x, train, head=True)[1]

    def features(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """[N, H, W, C] float images -> the map after every stage, [N, H/stride, W/stride, C'] of the spec's dtype.

        For detectors and the like: `ResNet(spec).apply(variables, x, method="features")`. Names, widths and strides
        are those of `layout.features(spec)`: C2 to C5 on ImageNet. The head is not run, nor need the variables hold
        it; it makes the logits from the last map. A map is what the next stage takes: of pre-activation networks
        the sum itself, before any BN and activation, as timm's `features_only` returns it. What follows belongs to
        the next stage's first unit, or to the head.
        """
        return self._forward(x, train, head=False)[0]

    @nn.compact
    def _forward(self, x: jax.Array, train: bool, head: bool) -> tuple[dict[str, jax.Array], Any]:
        """The maps, and the logits where the head is run: one method holds all modules."""
        spec, maps = self.spec, {}
        trains = dict.fromkeys(spec.parts, train) | dict.fromkeys(self.frozen, False)
        x = Part(spec, layout.stem(spec), name="stem")(x.astype(spec.dtype), trains["stem"])
        x = jax.lax.stop_gradient(x) if "stem" in self.frozen else x
        shapes = list(spec.unit_shapes())
        for stage, name in enumerate(layout.features(spec), 1):
            part = f"stage{stage}"
            x = Stage(spec, tuple(s for s in shapes if s.stage == stage), name=part)(x, trains[part])
            x = jax.lax.stop_gradient(x) if part in self.frozen else x
            maps[name] = x
        return maps, run(spec, layout.head(spec), x, train) if head else None


def init_variables(spec: Spec, seed: int | jax.Array) -> dict[str, Any]:
    """Fresh `params` and `batch_stats` of a network; a pure function of the seed.

    Raises:
      BadInput: for a spec that leaves a field to the data set.
    """
    spec.check_complete()
    image = jnp.zeros((1, spec.input_size, spec.input_size, spec.input_channels))
    variables = ResNet(spec).init(jax.random.key(seed), image, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
