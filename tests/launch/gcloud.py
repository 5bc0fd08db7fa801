"""A stand-in for `gcloud compute tpus`, with one queued resource and two workers, whose commands it really runs.

Its state is the folder $GCLOUD:
  calls     every call, one a line, its words in quotes
  state     of the queued resource; no file: there is none
  coming    the states that the next looks will find, one a line; then it stays as it is
  fail      lines `VERB N TEXT`: so many calls of that verb fail with the text
  codes     how the next runs end, one line for all workers: a code each, or
            `hang`, `stop` (75 on SIGTERM), `preempt`
  0, 1      the homes of the workers; there as long as the resource is ACTIVE
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(os.environ["GCLOUD"])
WORKERS = ("0", "1")


def main(argv):
    with (HERE / "calls").open("a") as calls:
        print(json.dumps(argv), file=calls)
    assert argv[:2] == ["compute", "tpus"], argv
    kind, verb, *words = argv[2:]
    flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    names = [word for word in words if not word.startswith("--")]
    fail_if_told_so(verb)
    if kind == "queued-resources":
        {"create": create, "describe": describe, "delete": delete}[verb](names, flags)
    elif read("state") != "ACTIVE":
        sys.exit("ERROR: the TPU is not there")
    elif verb == "scp":
        source, target = names
        for worker in WORKERS:
            shutil.copy(source, HERE / worker / target.partition(":")[2])
    elif verb == "ssh":
        ssh(flags)


def create(names, flags):
    if read("state"):
        sys.exit("ERROR: ALREADY_EXISTS")
    if not {"node-id", "accelerator-type", "runtime-version", "zone"} <= set(flags):
        sys.exit("ERROR: (gcloud) argument missing")
    write("state", "ACCEPTED")
    if not (HERE / "coming").exists():
        write("coming", "WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")


def describe(names, flags):
    if lines := read("coming").splitlines():
        if lines[0] == "gone":
            (HERE / "state").unlink()
        else:
            write("state", lines[0])
        write("coming", "\n".join(lines[1:])) if lines[1:] else (HERE / "coming").unlink()
    state = read("state")
    if not state:
        sys.exit("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found")
    for worker in WORKERS:
        if state == "ACTIVE":
            (HERE / worker).mkdir(exist_ok=True)
        else:
            clear(HERE / worker)
    print(state)


def delete(names, flags):
    if read("state") not in ("FAILED", "SUSPENDED") and "force" not in flags:
        sys.exit("ERROR: FAILED_PRECONDITION")
    (HERE / "state").unlink()
    for worker in WORKERS:
        clear(HERE / worker)


def ssh(flags):
    chosen = WORKERS if flags["worker"] == "all" else (flags["worker"],)
    running = []
    for worker in chosen:
        home = HERE / worker
        environment = os.environ | {"HOME": str(home), "PATH": f"{HERE / 'worker-bin'}:{os.environ['PATH']}"}
        shell = ["bash", "-c", flags["command"]]
        running.append(subprocess.Popen(shell, cwd=home, env=environment, stdin=subprocess.DEVNULL))
    if any([process.wait() for process in running]):
        sys.exit("ERROR: a worker's command failed")


def clear(home):
    """A worker that is taken away, with all that runs there."""
    pid = home / "resjax/pid"
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


def fail_if_told_so(verb):
    lines = read("fail").splitlines()
    for i, line in enumerate(lines):
        name, times, text = line.split(" ", 2)
        if name == verb and int(times):
            lines[i] = f"{name} {int(times) - 1} {text}"
            write("fail", "\n".join(lines))
            sys.exit(text)


def read(name):
    path = HERE / name
    return path.read_text().rstrip("\n") if path.exists() else ""


def write(name, text):
    (HERE / name).write_text(text)


# What is on a worker. The run that uv "installs" notes its command, then ends as `codes` says.
WORKER = {
    "hostname": 'basename "$HOME" | sed s/^/worker-/\n',
    "sudo": 'echo "$@" >> $GCLOUD/sudo\ncat > /dev/null <&0 || true\n',
    "gcsfuse": 'echo "$@" >> $GCLOUD/gcsfuse; touch $HOME/mounted\n',
    "mountpoint": "test -e $HOME/mounted\n",
    "python3": """\
case "$*" in
  *venv*) mkdir -p .venv/bin && cp $GCLOUD/worker-bin/run .venv/bin/python ;;
  *"pip install"*"./source[tpu]"*) test -e source/resjax/main.py -a -e source/pyproject.toml ;;
esac
""",
    "run": """\
me=$(basename "$HOME")
exec 8> $GCLOUD/codes.lock
flock 8
echo "$me $JAX_COORDINATOR_PORT $*" >> $GCLOUD/runs
n=$(grep -c "^$me " $GCLOUD/runs)
exec 8>&-
test -e configs/digits.py || exit 2
code=$(sed -n "${n}p" $GCLOUD/codes | cut -d ' ' -f $((me + 1)))
echo "worker $me, start $n: $code"
case $code in
  stop) trap 'exit 75' TERM; touch $HOME/listens; for _ in {1..600}; do sleep 0.05; done ;;
  hang) while [ ! -e $GCLOUD/enough ]; do sleep 0.05; done; exit 0 ;;
  preempt) printf 'SUSPENDING\\nSUSPENDED\\n' > $GCLOUD/coming; exit 75 ;;
  *) exit $code ;;
esac
""",
}


def install(folder):
    """Makes a stand-in in `folder`; its programs are in `folder`/bin."""
    programs = {"bin/gcloud": f"#!{sys.executable} -IS\n{Path(__file__).read_text()}"}
    programs |= {f"worker-bin/{name}": f"#!/bin/bash\n{text}" for name, text in WORKER.items()}
    for name, text in programs.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


if __name__ == "__main__":
    main(sys.argv[1:])
