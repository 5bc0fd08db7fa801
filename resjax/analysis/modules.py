"""The modules of a network that analyses look at, by their path in the parameter tree."""

from resjax.models.resnet import STEMS
from resjax.models.spec import UNITS, Spec, UnitShape

ModulePath = tuple[str, ...]  # ("stage1", "unit0", "conv1")


def units(spec: Spec) -> list[tuple[ModulePath, UnitShape]]:
    """Every unit from input to output."""
    return [((f"stage{shape.stage}", f"unit{shape.index}"), shape) for shape in spec.unit_shapes()]


def weight_layers(spec: Spec) -> list[tuple[ModulePath, int]]:
    """The weighted layers that depth counts, from input to output, with their kernel sizes (0: fully connected)."""
    stem = [(("stem", f"conv{i}"), kernel) for i, (kernel, _, _) in enumerate(STEMS[spec.stem], 1)]
    branches = [
        ((*unit, f"conv{i}"), kernel)
        for unit, _ in units(spec)
        for i, kernel in enumerate(UNITS[spec.unit].kernels, 1)
    ]
    return [*stem, *branches, (("head",), 0)]


def name(path: ModulePath) -> str:
    """The name of a module in tables and pictures."""
    return "/".join(path)
