"""Which parts of a network training changes: all, or those behind its frozen ones."""

from typing import Any


def split(tree: dict[str, Any], frozen: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters or statistics by part -> those that are trained, and those of the `frozen` parts.

    Gradients, the norm that clips them, decay and the optimizer's state are of the trained ones alone: what is
    frozen costs a forward pass, and no memory beyond its weights.
    """
    held = {name: part for name, part in tree.items() if name in frozen}
    return {name: part for name, part in tree.items() if name not in frozen}, held
