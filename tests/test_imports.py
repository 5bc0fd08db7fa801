"""The order of the house: a room imports from those below it, never from those above or beside it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

RESJAX = Path(__file__).resolve().parents[1] / "resjax"

# From the ground up; what stands on one line does not import from each other.
FLOORS = (
    ("resjax", "resjax.errors"),
    (
        *("resjax.allocation", "resjax.files", "resjax.interrupt", "resjax.machine", "resjax.markdown"),
        *("resjax.paths", "resjax.pickles", "resjax.tie"),
    ),
    ("resjax.models", "resjax.data"),
    ("resjax.config",),
    ("resjax.checks",),
    ("resjax.evaluation", "resjax.weights"),
    ("resjax.train",),
    ("resjax.experiment",),
    ("resjax.cli",),
    ("resjax.member",),
    ("resjax.analysis",),
    ("resjax.predictor",),
    (
        "resjax.main",
        "resjax.benchmark",
        "resjax.describe",
        "resjax.evaluate",
        "resjax.export",
        "resjax.plan",
        "resjax.predict",
        "resjax.weights.__main__",
    ),
    ("resjax.sweep",),
    ("resjax.drill",),
    ("resjax.papers",),
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

# Besides the commands themselves: what all of them share, and what sweeps and papers share.
KNOW_FLAGS = ("resjax.cli", "resjax.sweep.conduct")
# Grain hands its own flags to its worker processes, and they must have been parsed for that.
GRAIN = "resjax.data.ahead"

FILES = {
    ".".join(path.relative_to(RESJAX.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(RESJAX.rglob("*.py"))
}


def imported(path):
    """Every module that a file imports, also within its functions and for type checking alone."""
    return imports(ast.parse(path.read_text()))


def imports(tree):
    """Every module that is imported in a tree, and every name from it, which may be one, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module):
    """The longest name of FLOOR that holds a module of resjax: its folder, or the file itself."""
    parts = module.split(".")
    return next(name for n in (3, 2, 1) if (name := ".".join(parts[:n])) in FLOOR)


@pytest.mark.parametrize("module", sorted(FILES.keys() - {"resjax"}))  # which is the door to all of it
def test_imports_go_down(module):
    own = room(module)
    for name in imported(FILES[module]):
        if name in FILES:  # else another package, or something within a module
            other = room(name)
            assert other == own or FLOOR[other] < FLOOR[own], f"{module} imports {name}, which is not below it"


def test_every_file_has_its_room():
    assert {module for module in FILES if room(module) == "resjax"} == {"resjax"}


def test_the_door_opens_at_once():
    """`import resjax` loads nothing that takes time, also where it knows `load`."""
    code = (
        "import sys, resjax; assert resjax.load; print(*[n for n in ('jax', 'numpy', 'absl') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=RESJAX.parent, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_flags_are_for_commands():
    for module, path in FILES.items():
        command = 'if __name__ == "__main__":' in path.read_text()
        if any(name.startswith("absl.flags") for name in imported(path)):
            assert command or module in (*KNOW_FLAGS, GRAIN), f"{module} knows flags"


def test_what_draws_is_imported_late():
    """Matplotlib takes a second to import, and nothing that trains, lists or plans needs it."""
    for module, path in FILES.items():
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        if room(module) != "resjax.analysis":
            assert not any(n.startswith(("matplotlib", "resjax.analysis")) for n in imports(tree)), module
