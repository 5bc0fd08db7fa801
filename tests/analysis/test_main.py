import json
import os
import shutil
import subprocess
import sys

import pytest

from resjax.analysis.__main__ import ANALYSES, analyse, main
from resjax.analysis.runs import OpenedRun, Options
from resjax.errors import BadInput
from resjax.files import write_json


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_writes_its_picture_its_numbers_and_tensorboard(residual, tmp_path, name):
    found = analyse(name, {"a": OpenedRun.open(residual)}, Options(images=32, draws=1), tmp_path)
    assert json.loads((tmp_path / f"{name}.json").read_text()) == found
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    events = list((residual / "tensorboard" / "analysis").glob("events*"))
    assert any(f"analysis/{name}".encode() in path.read_bytes() for path in events)


def test_the_command_itself(residual, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (again / name).write_text((residual / name).read_text())
    command = [sys.executable, "-m", "resjax.analysis", "curves", f"--workdir={residual},{again}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((residual / "analysis" / "curves.json").read_text())) == {"residual", "again"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "NAME is missing"),
        (["respones", "--workdir=."], r"did you mean responses\? \(known: responses, gradients, "),
        (["curves"], "--workdir is missing"),
        (["curves", "--workdir=nowhere"], "nowhere holds no run"),
        (["curves", "--workdirs=x"], "did you mean --workdir"),
        (["lesion", "--workdir=x", "--draws=0"], "--draws=0"),
        (["lesion", "--workdir=x", "--images=-1"], "--images=-1"),
        (["curves", "--workdir=x", "--step=4"], "--step=4: curves does not take it"),
        (["branches", "--workdir=x", "--draws=4"], "--draws=4: branches does not take it"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(BadInput, match=message) as error:
        main(argv)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written(residual, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        main(["curves", f"--workdir={residual}", f"--out={tmp_path / 'file'}"])


@pytest.mark.parametrize("name", [name for name in ANALYSES if name != "curves"])
def test_no_analysis_ignores_the_step(residual, tmp_path, name):
    """And of several runs, all are looked at before the first is measured."""
    for step in ("3", "many"):
        with pytest.raises(BadInput, match=f"--step={step}: not saved .* one of 0, 2, 4") as error:
            main([name, f"--workdir={residual}", f"--step={step}", f"--out={tmp_path}"])
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_only_curves_and_lesion_take_a_whole_sweep(residual, tmp_path):
    write_json(tmp_path / "sweep.json", {"seeds": [0, 1], "runs": {"a": {}}})
    for seed in (0, 1):
        shutil.copytree(residual, tmp_path / "runs" / "a" / f"seed{seed}")
    with pytest.raises(BadInput, match=r"give one, such as --workdir=.*runs/a/seed0$"):
        main(["responses", f"--workdir={tmp_path}"])
    for name, few in {"curves": [], "lesion": ["--images=32", "--draws=1"]}.items():
        main([name, f"--workdir={tmp_path}", *few])
        found = json.loads((tmp_path / "analysis" / f"{name}.json").read_text())
        assert {label: run["seeds"] for label, run in found.items()} == {"a": 2}
