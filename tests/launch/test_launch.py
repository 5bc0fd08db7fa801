"""What holds for every launcher, and for the files beside them: they run anywhere, and name what exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resjax import cli
from resjax.main import define

ROOT = Path(__file__).parents[2]
LAUNCHERS = sorted(path for path in (ROOT / "launch").iterdir() if path.is_file() and not path.suffix)
LAUNCHERS.remove(ROOT / "launch" / "Dockerfile")
README = (ROOT / "launch" / "README.md").read_text()


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.name)
def test_runs_without_resjax_and_jax(launcher):
    assert os.access(launcher, os.X_OK)
    text = launcher.read_text()
    assert text.startswith('#!/usr/bin/env python3\n"""')
    # -S: nothing that was installed can be imported.
    done = subprocess.run([sys.executable, "-IS", launcher, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(text.split('"""')[1].splitlines()[0])
    for flag in re.findall(r'add_argument\(\s*"(--\w+)"', text):
        assert flag in done.stdout


def commands():
    """Every command of the README that begins with a launcher."""
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            program = line.split()[0]
            if program.startswith("launch/") and (ROOT / program).exists():
                yield line


@pytest.mark.parametrize("command", list(commands()))
def test_what_the_readme_says_can_be_said(command):
    words = shlex.split(command)
    own = words.index("--") if "--" in words else len(words)
    command = [ROOT / words[0], *words[1:own], "--dry_run", *words[own:]]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_names_every_launcher_and_links_to_its_own_sections():
    for launcher in LAUNCHERS:
        assert f"`launch/{launcher.name}`" in README
    titles = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", README, re.MULTILINE)}
    assert {anchor for anchor in re.findall(r"\]\(#(.*?)\)", README)} <= titles


def test_the_dockerfile_copies_what_exists_and_knows_the_extras():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    assert {"resjax", "configs", "pyproject.toml", "README.md"} <= set(copied)
    extras = re.search(
        r"^\[project.optional-dependencies\]\n(.*?)\n\n",
        (ROOT / "pyproject.toml").read_text(),
        re.DOTALL | re.MULTILINE,
    )[1]
    for extra in ("tpu", "cuda"):
        assert f"{extra} = [" in extras
        assert extra in text
    assert text.index("\nUSER 1000\n") < text.index("\nENTRYPOINT ")


def test_the_example_for_skypilot_has_its_fields_and_starts_one_process_a_machine():
    task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    assert set(task) == {"name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run"}
    assert set(task["resources"]) == {"accelerators", "use_spot", "job_recovery"}
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).returncode == 0
    config = task["envs"]["FLAGS"].partition("=")[2]
    assert (ROOT / config).exists()
    # With a stand-in for the program at its end, as two machines would run it.
    script = "nvidia-smi() { :; }\n" + task["run"].replace(".venv/bin/python", "echo")
    environment = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    environment |= {name: value or "bucket" for name, value in task["envs"].items()}
    done = subprocess.run(["bash", "-euc", script], env=os.environ | environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == (
        "-m resjax.main --config=configs/digits.py --workdir=/shared/runs/big "
        "--coordinator=10.0.0.1:8476 --num_processes=2 --process_id=1"
    )


def test_what_is_added_to_the_flags_of_a_run_is_known_to_it():
    """Of launch/local and launch/slurm real runs show it."""
    kubernetes = [ROOT / "launch" / "kubernetes", "--image=i", "--volume=c", "--dry_run", "--gpus=8", "--nodes=2"]
    printed = subprocess.run(
        [*kubernetes, "--", "--config=configs/digits.py"], capture_output=True, text=True
    ).stdout
    (job,) = yaml.safe_load(printed)["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    flags = cli.parse([arg.replace("$(JOB_COMPLETION_INDEX)", "1") for arg in container["args"]], define)
    assert (flags.coordinator, flags.num_processes) == ("digits-worker-0-0.digits:8476", 2)
    assert (flags.process_id, flags.initialization_timeout) == (1, 21600)
    assert flags.workdir == "/shared/runs/digits"
