"""A network's size by formula: parameters and multiply-adds, in milliseconds at any depth."""

from collections.abc import Iterable
from typing import NamedTuple

from resjax.models import layout
from resjax.models.layout import Layer
from resjax.models.spec import Spec


class Cost(NamedTuple):
    """Trainable parameters, and the multiply-adds of one image's forward pass (convolution and dense only)."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self.params + other.params, self.macs + other.macs)


def cost(layer: Layer) -> Cost:
    """Cost of one layer: every weight is used once per output pixel, and padding counts as work.

    Running statistics are not parameters.
    """
    if layer.kind in layout.WEIGHTS:
        weights = layer.kernel**2 * (layer.in_width // layer.groups) * layer.width
        return Cost(weights + (layer.width if layer.bias is not None else 0), weights * layer.out_size**2)
    if layer.kind == "norm":
        return Cost(2 * layer.width)
    if layer.name:
        raise NotImplementedError(f"a {layer.kind} layer has parameters, but no cost in {__name__}")
    return Cost()


def added(layers: Iterable[Layer]) -> Cost:
    """Cost of several layers."""
    return sum(map(cost, layers), Cost())


class Line(NamedTuple):
    """One line of the table: a part of the network, its output shape (H, W, C) or (C,), and its cost."""

    name: str
    output: tuple[int, ...]
    cost: Cost


def lines(spec: Spec) -> list[Line]:
    """Stem, stages and head with the costs of everything inside them.

    Raises:
      BadInput: for a spec that leaves a field to the data set.
    """

    def shape(size: int, width: int) -> tuple[int, ...]:
        return (width,) if spec.dense else (size, size, width)

    inside: dict[str, Cost] = {}
    for path, layers in layout.parts(spec):
        part = path[0] if path else "head"
        inside[part] = inside.get(part, Cost()) + added(layers)
    outputs = {s.stage: shape(s.out_size, s.width) for s in spec.unit_shapes()}
    return [
        Line("stem", shape(spec.stem_out_size, spec.stem_out), inside["stem"]),
        *(
            Line(f"stage{stage}: {n} x {spec.unit}", outputs[stage], inside[f"stage{stage}"])
            for stage, n in enumerate(spec.units, 1)
        ),
        Line("head", (spec.num_classes,), inside["head"]),
    ]


def total(spec: Spec) -> Cost:
    """Trainable parameters and multiply-adds of the whole network.

    Raises:
      BadInput: for a spec that leaves a field to the data set.
    """
    return sum((line.cost for line in lines(spec)), Cost())
