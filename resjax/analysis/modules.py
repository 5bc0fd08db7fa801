"""The modules of a network that analyses look at, by their path in the parameter tree."""

from resjax.models import layout
from resjax.models.spec import Spec, UnitShape

ModulePath = tuple[str, ...]  # ("stage1", "unit0", "conv1")


def units(spec: Spec) -> list[tuple[ModulePath, UnitShape]]:
    """Every unit from input to output."""
    return [(shape.path, shape) for shape in spec.unit_shapes()]


def weight_layers(spec: Spec) -> list[ModulePath]:
    """The weighted layers that depth counts, from input to output."""
    return [path for path, _ in layout.weight_layers(spec)]


def name(path: ModulePath) -> str:
    """A module's name in tables and pictures, such as `stage1/unit0/conv1`."""
    return "/".join(path)
