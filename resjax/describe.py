"""Prints a network as a table.

    python -m resjax.describe --config=configs/imagenet.py:v1-50

Stem, every stage and head have a line each: output shape, parameters, and multiply-adds for one image.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import json

from absl import flags

from resjax import cli
from resjax.checks import described
from resjax.config import network
from resjax.models import counts
from resjax.models.spec import Spec


def table(spec: Spec) -> str:
    """Stage, output shape, parameters and multiply-adds, with totals."""
    rows = [
        (line.name, " x ".join(map(str, line.output)), f"{line.cost.params:,}", f"{line.cost.macs:,}")
        for line in counts.lines(spec)
    ]
    total = counts.total(spec)
    lines = [
        ("part", "output", "parameters", "multiply-adds"),
        *rows,
        (f"total, depth {spec.depth}", "", f"{total.params:,}", f"{total.macs:,}"),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0])] + [line[i].rjust(widths[i]) for i in (1, 2, 3)]) for line in lines
    )


def main(argv: list[str]) -> None:
    values = cli.parse(
        argv, lambda v: flags.DEFINE_boolean("json", False, "Print the totals as JSON.", flag_values=v)
    )
    spec = network(described(values.config))
    total = counts.total(spec)
    if values.json:
        print(json.dumps({"params": total.params, "macs": total.macs, "depth": spec.depth}))
    else:
        print(table(spec))


if __name__ == "__main__":
    cli.run(main)
