import json
import os
import subprocess
import sys

import pytest

from resjax.analysis.__main__ import ANALYSES, analyse, main
from resjax.analysis.runs import Options, Run
from resjax.errors import BadInput


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_writes_its_picture_its_numbers_and_tensorboard(residual, tmp_path, name):
    found = analyse(name, {"a": Run.open(residual)}, Options(images=32, draws=1), tmp_path)
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
        (["respones", "--workdir=."], "did you mean responses"),
        (["curves"], "--workdir is missing"),
        (["curves", "--workdir=nowhere"], "nowhere holds no run"),
        (["curves", "--workdirs=x"], "did you mean --workdir"),
        (["lesion", "--workdir=x", "--draws=0"], "--draws=0"),
        (["lesion", "--workdir=x", "--images=-1"], "--images=-1"),
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
