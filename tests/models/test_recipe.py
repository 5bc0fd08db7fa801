"""The README's recipes for a new shortcut, followed in a copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import resjax

# One line: an average pool instead of every other pixel, then zeros for the new channels.
ONE_LINE = {"models/spec.py": [('    "A": ShortcutKind("sz"),\n', '    "D": ShortcutKind("az"),\n')]}
# A step that did not exist: its line in the table of steps, and what it computes.
NEW_STEP = {
    "models/spec.py": [
        ('    "A": ShortcutKind("sz"),\n', '    "D": ShortcutKind("mz"),\n'),
        ('    "s": ShortcutStep(', '    "m": ShortcutStep("largest", size=True),\n'),
    ],
    "models/layers.py": [
        (
            '    "subsample": subsample,\n',
            '    "largest": lambda spec, layer, x, train: nn.max_pool(x, (2, 2), (2, 2), "SAME"),\n',
        )
    ],
}
USE = """
import dataclasses
import importlib.util
import sys

import jax
import numpy as np

from resjax.errors import BadInput
from resjax.models import counts
from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import SHORTCUTS, Spec

assert "D" in SHORTCUTS
spec = Spec(units=(2, 2), widths=(4, 8), stem_width=4, input_size=9, shortcut="D")
variables = jax.jit(lambda: init_variables(spec, 0))()
assert counts.total(spec).params == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
assert counts.total(spec) == counts.total(dataclasses.replace(spec, shortcut="A"))
images = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype(np.float32)
logits, a = (jax.jit(ResNet(dataclasses.replace(spec, shortcut=s)).apply)(variables, images) for s in "DA")
assert logits.shape == (2, 10)
assert np.isfinite(logits).all() and not np.allclose(logits, a)
for fields in ({"shortcut": "none", "branch_scale": 0.5}, {"shortcut": "D", "widths": (8, 4)}):
    try:
        dataclasses.replace(spec, **fields)
    except BadInput as error:
        assert "\\n" not in str(error)
    else:
        raise AssertionError(fields)
dataclasses.replace(spec, shortcut="none")

if importlib.util.find_spec("torch"):
    import torch
    from resjax.benchmark import torch_twin
    from resjax.config import default

    reasons = torch_twin.missing(spec, default())
    assert reasons == (["largest layers"] if sys.argv[1] == "new step" else []), reasons
    if not reasons:
        twin = torch_twin.Twin(spec).eval()
        torch_twin.copy(variables, twin)
        with torch.no_grad():
            other = twin(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(other, logits, atol=1e-4)
print(f"resjax from {sys.modules['resjax'].__file__}")
"""


@pytest.mark.parametrize(("name", "recipe"), [("one line", ONE_LINE), ("new step", NEW_STEP)])
def test_a_shortcut_is_added_by_the_recipe(name: str, recipe: dict, tmp_path: Path) -> None:
    package = Path(resjax.__file__).parent
    shutil.copytree(package, tmp_path / "resjax", ignore=shutil.ignore_patterns("__pycache__"))
    for file, additions in recipe.items():
        path = tmp_path / "resjax" / file
        text = path.read_text()
        for before, line in additions:
            assert text.count(before) == 1, before
            text = text.replace(before, line + before)
        path.write_text(text)
    rest = os.environ.get("PYTHONPATH", "")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), rest]).strip(os.pathsep)}
    command = [sys.executable, "-c", USE, name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
