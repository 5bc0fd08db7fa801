"""Prints a network as a table, or beside VGG and v1's residual networks.

    python -m resjax.describe --config=configs/imagenet.py:v1-50
    python -m resjax.describe --compare=vgg-16,vgg-19 --plot=costs.png

Stem, every stage and head have a line each: output shape, parameters, and multiply-adds for one image. `--compare`
prints parameters and multiply-adds of VGG and of the residual networks of v1 Table 1, with what v1 says, and the
arithmetic of the bottleneck; with `--config` that network's besides. `--plot` draws the costs.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from resjax import cli, files
from resjax.checks import described
from resjax.config import network
from resjax.errors import BadInput, unknown
from resjax.models import counts, layout, vgg
from resjax.models.layout import Layer
from resjax.models.published import imagenet
from resjax.models.spec import Spec

VGG = {f"vgg-{depth}": depth for depth in vgg.BLOCKS}
# Network -> 10^9 multiply-adds in v1: Table 1, and section 4.1 for VGG. Shallow ones have option A, as in Table 2.
PRINTED = {"VGG-16": 15.3, "VGG-19": 19.6}
PRINTED |= {"ResNet-18 A": 1.8, "ResNet-34 A": 3.6, "ResNet-50": 3.8, "ResNet-101": 7.6, "ResNet-152": 11.3}
PRINTED_NOTE = """\
VGG and ResNets: for one image of 224 x 224 pixels. ResNet-18 and 34 have option A, as in v1 Table 2.
v1's 15.3 is what the convolutions of VGG-16 alone need, its 19.6 what all of VGG-19 needs."""
# The unit that v1 section 4.1 proposes, and pairs of 3x3 layers: a network and the stage of it that has them.
UNITS = {
    "bottleneck, 256 channels": ("v1-50", 1),
    "two 3x3 layers, 256 channels": ("v1-34", 3),
    "two 3x3 layers, 64 channels (v1 Fig. 5)": ("v1-34", 1),
}


def table(spec: Spec) -> str:
    """Stage, output shape, parameters and multiply-adds, with totals."""
    rows = [
        (line.name, " x ".join(map(str, line.output)), f"{line.cost.params:,}", f"{line.cost.macs:,}")
        for line in counts.lines(spec)
    ]
    total = counts.total(spec)
    last = (f"total, depth {spec.depth}", "", f"{total.params:,}", f"{total.macs:,}")
    return aligned([("part", "output", "parameters", "multiply-adds"), *rows, last])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) for first, *rest in lines
    )


def compared(depths: Sequence[int], other: dict[str, Spec]) -> dict[str, dict[str, Any]]:
    """Costs of VGGs, of `other` networks and of v1 Table 1's, each by its layers, with what v1 prints."""
    rows: dict[str, Sequence[Layer]] = {f"VGG-{depth}": vgg.layers(depth) for depth in depths}
    specs = dict(other)
    for label in PRINTED:
        kind, depth, *option = label.replace(" ", "-").split("-")
        if kind == "ResNet":
            spec = imagenet(f"v1-{depth}")
            specs[label] = dataclasses.replace(spec, shortcut=option[0]) if option else spec
    for label, spec in specs.items():
        rows[label] = [layer for _, row in layout.parts(spec) for layer in row]
    found = {}
    for label, layers in rows.items():
        convolutions = counts.added(layer for layer in layers if layer.kind == "conv")
        found[label] = {
            **counts.added(layers)._asdict(),
            **{f"convolution_{kind}": number for kind, number in convolutions._asdict().items()},
            "v1_billions": PRINTED.get(label),
        }
    return found


def unit_weights(name: str, stage: int) -> list[tuple[int, int, int]]:
    """Kernel, width before and width after of each convolution of a unit that keeps its input's shape."""
    spec = imagenet(name)
    shape = next(shape for shape in spec.unit_shapes() if shape.stage == stage and not shape.changes)
    convolutions = [layer for layer in layout.unit(spec, shape).branch if layer.kind == "conv"]
    return [(layer.kernel, layer.in_width, layer.width) for layer in convolutions]


def comparison(costs: dict[str, dict[str, Any]], units: dict[str, list[tuple[int, int, int]]]) -> str:
    """Both as text: a table of networks, and a line for each unit with its number of weights."""
    head = ("network", "parameters", "multiply-adds", "of convolutions", "10^9 in v1")
    rows = [
        (label, f"{c['params']:,}", f"{c['macs']:,}", f"{c['convolution_macs']:,}", str(c["v1_billions"] or ""))
        for label, c in costs.items()
    ]
    counted = {label: sum(k * k * a * b for k, a, b in layers) for label, layers in units.items()}
    least = next(iter(counted.values()))
    lines = [
        (
            label,
            " + ".join(f"{k}x{k}x{a}x{b}" for k, a, b in layers),
            f"{counted[label]:,}",
            f"{counted[label] / least:.2f}",
        )
        for label, layers in units.items()
    ]
    head_of_units = ("unit", "weights of its convolutions", "in all", "x the bottleneck")
    return "\n".join([aligned([head, *rows]), "", PRINTED_NOTE, "", aligned([head_of_units, *lines])])


def draw(costs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws what `compared` found.

    Raises:
      BadInput: for a file that cannot be written.
    """
    from resjax.analysis import costs as drawing  # matplotlib takes a second to import

    try:
        drawing.draw(costs, path)
    except OSError as error:
        raise BadInput(f"--plot={path} could not be written ({error.strerror}); give another file") from error


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("json", False, "Print the totals as JSON.", flag_values=values)
    flags.DEFINE_list("compare", None, f"Print these beside v1's networks: {', '.join(VGG)}.", flag_values=values)
    flags.DEFINE_string("plot", None, "With --compare: draw the costs into this new PNG.", flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, define, config="optional")
    if not values.config and (values.compare is None or cli.overrides(argv)):
        raise BadInput("--config is missing: give a file, such as --config=configs/digits.py")
    if values.plot is not None and values.compare is None:
        raise BadInput(f"--plot={values.plot} is for --compare: leave it out, or add --compare=vgg-16,vgg-19")
    config = described(values.config) if values.config else None
    if values.compare is not None:
        for name in values.compare or [""]:
            if name not in VGG:
                raise BadInput(unknown("--compare", name, list(VGG)))
        plot = files.new("--plot", values.plot) if values.plot is not None else None
        own = {config.name: network(config)} if config else {}
        costs = compared([VGG[name] for name in values.compare], own)
        units = {label: unit_weights(*of) for label, of in UNITS.items()}
        print(json.dumps({"networks": costs, "units": units}) if values.json else comparison(costs, units))
        if plot:
            draw(costs, plot)
        return
    spec = network(config)
    total = counts.total(spec)
    if values.json:
        print(json.dumps({"params": total.params, "macs": total.macs, "depth": spec.depth}))
    else:
        print(table(spec))


if __name__ == "__main__":
    cli.run(main)
