"""A network's size by formula: parameters and multiply-adds, in milliseconds at any depth."""

from typing import NamedTuple

from resjax.models.layers import Cost
from resjax.models.resnet import head_cost, stem_cost
from resjax.models.spec import Spec
from resjax.models.units import unit_cost


class Row(NamedTuple):
    """One line of the table: a part of the network, its output shape (H, W, C) or (C,), and its cost."""

    name: str
    output: tuple[int, ...]
    cost: Cost


def rows(spec: Spec) -> list[Row]:
    """Stem, stages and head with the costs of everything inside them."""

    def shape(size: int, width: int) -> tuple[int, ...]:
        return (width,) if spec.dense else (size, size, width)

    table = [Row("stem", shape(spec.stem_out_size, spec.stem_out), stem_cost(spec))]
    for stage, (n, width) in enumerate(zip(spec.units, spec.widths, strict=True), 1):
        shapes = [s for s in spec.unit_shapes() if s.stage == stage]
        cost = sum((unit_cost(spec, s) for s in shapes), Cost())
        table.append(Row(f"stage{stage}: {n} x {spec.unit}", shape(shapes[-1].out_size, width), cost))
    return [*table, Row("head", (spec.num_classes,), head_cost(spec))]


def total(spec: Spec) -> Cost:
    """Trainable parameters and multiply-adds of the whole network."""
    return sum((row.cost for row in rows(spec)), Cost())
