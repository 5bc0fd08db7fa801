"""Tables in Markdown."""

import statistics
from collections.abc import Sequence


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    cells = [columns, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation as a cell of three and two digits; the mean alone of one value."""
    mean = f"{statistics.fmean(values):.3g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean
