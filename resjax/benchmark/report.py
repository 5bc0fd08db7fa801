"""What a suite found, as text."""

import sys
from typing import Any

from resjax import markdown

COLUMNS = [
    *("", "images/s", "step, ms", "compile, s", "warm, s", "memory, MB", "TFLOP/s (of matmul)", "GB/s (of copy)"),
    "all steps, s",
]


def table(result: dict[str, Any]) -> str:
    """One table of all rows, what the device can do at best, what failed, and how to go on."""
    rows = result["rows"]
    best: dict[str, Any] = next((row for row in rows if "copy_bytes_per_second" in row), {})
    parts = [markdown.table(COLUMNS, [cells(row, best) for row in rows if "step_seconds" in row])]
    if best:
        matmul = ", ".join(
            f"{dtype} {best[f'matmul_{dtype}_flop_per_second'] / 1e12:,.1f}" for dtype in ("float32", "bfloat16")
        )
        parts.append(
            f"{best['device']}, jax {best['versions']['jax']}: a large matmul {matmul} TFLOP/s, "
            f"a large copy {best['copy_bytes_per_second'] / 1e9:,.0f} GB/s"
        )
    parts += [*ratios(rows), *dict.fromkeys(row["how"] for row in rows if "how" in row)]
    parts += [line(row) for row in rows if row["status"] not in ("done", "left out")]
    if missing := [row["name"] for row in rows if row["status"] == "left out"]:
        parts.append(f"left out, as there was no time for them: {'; '.join(missing)}")
    return "\n\n".join(parts)


def ratios(rows: list[dict[str, Any]]) -> list[str]:
    """The fastest of resjax beside the fastest of PyTorch and of stock Flax, for every network and type."""
    lines = []
    cases = dict.fromkeys((row["network"], row["dtype"]) for row in rows if "step_seconds" in row)
    for case in cases:
        own = [row for row in rows if "step_seconds" in row and (row["network"], row["dtype"]) == case]
        times = {
            name: min((row["step_seconds"] for row in own if row["kind"].startswith(kind)), default=None)
            for name, kind in {"resjax": "step", "PyTorch": "pytorch", "stock Flax": "flax"}.items()
        }
        if fastest := times.pop("resjax"):
            found = [f"{seconds / fastest:.2f} x {name}" for name, seconds in times.items() if seconds]
            lines += [f"{' '.join(case)}: {', '.join(found)}"] if found else []
    return lines


def cells(row: dict[str, Any], best: dict[str, Any]) -> list[str]:
    """A row of the table; what was not measured is empty."""

    def number(key: str, scale: float, form: str) -> str:
        return form.format(row[key] * scale) if key in row else ""

    def share(key: str, scale: float, ceiling: str) -> str:
        of = f" ({100 * row[key] / best[ceiling]:.0f} %)" if key in row and ceiling in best else ""
        return number(key, scale, "{:,.2f}") + of

    return [
        row["name"],
        number("images_per_second", 1, "{:,.0f}"),
        number("step_seconds", 1e3, "{:,.3f}"),
        number("compile_seconds", 1, "{:,.1f}"),
        number("compile_warm_seconds", 1, "{:,.1f}"),
        number("peak_memory_bytes", 1e-6, "{:,.0f}"),
        share("flop_per_second", 1e-12, f"matmul_{row['dtype']}_flop_per_second"),
        share("bytes_per_second", 1e-9, "copy_bytes_per_second"),
        number("projected_seconds", 1, "{:,.0f}"),
    ]


def line(row: dict[str, Any]) -> str:
    """A row in a few words."""
    if row["status"] != "done":
        return f"{row['name']}: {row['status']}, {row['why']}"
    if "step_seconds" not in row:
        return f"{row['name']}: done in {row['seconds']:.0f} s"
    return f"{row['name']}: {1e3 * row['step_seconds']:,.3f} ms a step, {row['images_per_second']:,.0f} images/s"


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
