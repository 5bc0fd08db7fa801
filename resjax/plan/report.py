"""A plan as text."""

import math
from typing import Any

PARTS = ("arithmetic", "traffic", "communication", "step")
Rows = list[tuple[str, ...]]


def as_text(found: dict[str, Any]) -> str:
    """What `resjax.plan` prints for people, of what it writes as JSON."""
    mesh, assumed, images = found["mesh"], found["assumed"], found["images"]
    parts = [
        f"{found['network']}: {found['params']:,} parameters, {found['dtype']}\n"
        f"{found['devices']:,} devices, mesh data={mesh['data']} fsdp={mesh['fsdp']}; "
        f"batch {found['batch_size']:,}, {images:,} images a device",
        "Memory of a device",
        table(memory(found)),
        checked(found),
        f"Arithmetic of a device: {found['flop'] / 1e9:,.1f} GFLOP a step; "
        f"the compiler counts {found['compiler']['flop'] / 1e9:,.1f}, a loop's body once",
        "Collectives of a step, as compiled for a CPU, which reduces whole where a TPU would scatter",
        table(collectives(found)),
        f"Estimates at {100 * assumed['efficiency']:.0f} % of published peaks, {100 * assumed['overlap']:.0f} % "
        "overlap: milliseconds, and the most images a device that fit",
        table(estimates(found)),
    ]
    for title, rows in (
        (f"the whole batch of {found['batch_size']:,} (strong)", found["strong_scaling"]),
        (f"{images:,} images a device (weak)", found["weak_scaling"]),
    ):
        parts += [f"Scaling on {found['kind']}, {title}", table(scaling(rows))]
        if any(row["bn_spans"] for row in rows):
            parts.append("  * groups of BN span devices: the latency of many small messages is not in the estimate")
    return "\n".join(part if part.startswith(" ") or not i else f"\n{part}" for i, part in enumerate(parts))


def table(rows: Rows) -> str:
    """Rows of cells, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def memory(found: dict[str, Any]) -> Rows:
    """What a device holds at the peak of a step, by formula."""
    rows: Rows = [(name.replace("_", " "), size(value)) for name, value in found["memory"].items()]
    return [*rows, ("together", size(found["memory_total"]))]


def checked(found: dict[str, Any]) -> str:
    """The formula beside the compiler's own analysis."""
    own, check = found["compiler"], found["compiler_float32"]
    ours, theirs = check["formula_temporaries"], check["temporaries"]
    lines = [
        f"  compiled for a CPU: {size(own['arguments'])} of state and batch (formula "
        f"{size(own['formula_arguments'])}), {size(own['temporaries'])} within the step"
    ]
    if found["dtype"] != "float32":
        lines.append(f"  a CPU keeps float32 copies of {found['dtype']}, so the formula is checked in float32:")
    lines.append(
        f"  float32 within the step: {size(theirs)}, formula {size(ours)} ({100 * (ours / theirs - 1):+.0f} %)"
    )
    return "\n".join(lines)


def collectives(found: dict[str, Any]) -> Rows:
    """Kind and group, how often, and how many bytes in all."""
    lines: dict[tuple[str, int], tuple[int, int]] = {}
    for c in found["collectives"]:
        times, total = lines.get((c["kind"], c["group"]), (0, 0))
        lines[c["kind"], c["group"]] = times + c["times"], total + c["times"] * c["size"]
    rows = [(kind, f"{group:,}", f"{times:,}", size(total)) for (kind, group), (times, total) in lines.items()]
    return [("", "devices", "times", "in all"), *rows] if rows else [("none",)]


def estimates(found: dict[str, Any]) -> Rows:
    """One line for each kind of device."""
    return [
        ("", *PARTS, "images/s", "fits", "most"),
        *(
            (
                name,
                *(ms(e[f"{part}_seconds"]) for part in PARTS),
                f"{e['images_per_second']:,.0f}",
                "yes" if e["fits"] else "no",
                f"{e['largest']:,}",
            )
            for name, e in found["estimates"].items()
        ),
    ]


def scaling(rows: list[dict[str, Any]]) -> Rows:
    """One line for each number of devices."""
    lines: Rows = [("devices", "mesh", "images", "memory", "fits", "step, ms", "images/s", "efficiency")]
    for row in rows:
        e = row["estimate"]
        lines.append(
            (
                f"{row['devices']:,}{' *' if row['bn_spans'] else ''}",
                f"{row['data']} x {row['fsdp']}",
                f"{row['images']:,}",
                size(e["memory_bytes"]),
                "yes" if e["fits"] else "no",
                ms(e["step_seconds"]),
                f"{e['images_per_second']:,.0f}",
                f"{100 * row['efficiency']:.0f} %",
            )
        )
    return lines


def size(value: float) -> str:
    """Bytes to three digits."""
    power = min(4, int(math.log(max(1.0, value / 999.5), 1000) + 1))
    return f"{value / 1000**power:.3g} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f}"
