"""Pictures as a network sees them, each with the classes that it takes for likeliest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resjax.analysis import figure

MOST, COLUMNS = 48, 6  # pictures on a sheet
CLASSES = 3
LONGEST = 28  # characters of a name


def draw(answers: Sequence[tuple[str, Any]], path: Path) -> None:
    """Writes the PNG of named answers, each with `view` uint8 [S, S, C] and `classes`, the likeliest first."""
    shown = answers[:MOST]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    caption = f"the first {len(shown)} of {len(answers):,} images" if len(shown) < len(answers) else ""
    with figure.panels(path, rows, columns, (2.2 * columns, 3.0 * rows), caption) as axes:
        for one in axes.flat:
            one.axis("off")
        for one, (name, answer) in zip(axes.flat, shown, strict=False):
            # Grey values need not reach 255: those of the digits end at 16.
            one.imshow(np.squeeze(answer.view, -1) if answer.view.shape[-1] == 1 else answer.view, cmap="gray")
            said = [f"{short(c.name)} {100 * c.probability:.1f} %" for c in answer.classes[:CLASSES]]
            one.set_title("\n".join([short(Path(name).name), *said]), fontsize=7, parse_math=False)


def short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
