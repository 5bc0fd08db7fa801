"""The installed package alone: a wheel is built and used from a folder outside the checkout, by processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resjax
from tests.conftest import ROOT
from tests.weights.conftest import FIXTURES

WEIGHTS = FIXTURES / "transformers"  # five classes
OWN = """
from resjax.config import default
from resjax.models.spec import Spec


def get_config():
    c = default(Spec(units=(1,), widths=(4,), stem_width=4))
    c.name, c.data.name = "own", "digits"
    c.batch_size, c.total_steps, c.log_every_steps = 32, 3, 1
    c.data.train_split = "train[:96]"
    return c
"""
LOAD = """
import sys
import numpy as np
import resjax
images = np.zeros((1, 40, 50, 3), np.uint8)
print(resjax.__file__, len(resjax.load(sys.argv[1]).predict(images)[0]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which the wheel is installed; it is built from a copy, as building leaves folders behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("resjax", "configs", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    done = subprocess.run([*pip, "--no-compile", "--target", target, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def python(installed, tmp_path):
    """Runs Python with the installed package in an empty folder: the finished process."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )

    return run


def test_the_wheel_holds_the_package_and_nothing_else(installed):
    files = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    own = {path for path in files if path.parts[0] == "resjax"}
    assert own == {path.relative_to(ROOT) for path in (*(ROOT / "resjax").rglob("*.py"), ROOT / "resjax/py.typed")}
    assert {path.parts[0] for path in files - own} == {f"resjax-{resjax.__version__}.dist-info"}


def test_weights_are_loaded_and_shown(python, installed):
    done = python("-c", LOAD, WEIGHTS)
    assert (done.stdout.split(), done.returncode) == ([str(installed / "resjax" / "__init__.py"), "5"], 0), done
    done = python("-m", "resjax.weights", "show", WEIGHTS)
    assert done.returncode == 0, done.stderr
    assert "network   depth" in done.stdout


def test_a_config_of_ones_own_is_trained_evaluated_and_asked(python, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    done = python("-m", "resjax.main", "--config=own.py")
    assert done.returncode == 0, done.stderr
    run = Path("runs", "own")
    assert {"summary.json", "curves.png"} <= {path.name for path in (tmp_path / run).iterdir()}
    judged = python("-m", "resjax.evaluate", f"--workdir={run}", "--out=found.json")
    assert judged.returncode == 0, judged.stderr
    assert (tmp_path / "found.json").is_file()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "zero.png")
    asked = python("-m", "resjax.predict", f"--workdir={run}", "zero.png")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("zero.png: ")


def test_recipes_are_in_a_checkout(python):
    done = python("-m", "resjax.main", "--config=configs/photos.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: --config=configs/photos.py: no such file; recipes are in a checkout of the repository: "
        "run it there, or give a file of your own\n"
    )
