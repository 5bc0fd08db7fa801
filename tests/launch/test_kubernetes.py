"""launch/kubernetes: its manifest against the published schemas and against what the controllers do with it."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

LAUNCHER = Path(__file__).parents[2] / "launch" / "kubernetes"
TPU = ("--tpu=v6e-16", "--image=repo/resjax:1", "--volume=claim")
GPU = ("--gpus=8", "--nodes=2", "--image=repo/resjax:1", "--volume=claim")
RUN = ("--", "--config=configs/digits.py:v1-8")


def call(*flags, **environment):
    """(exit code, stdout, stderr) of the launcher."""
    done = subprocess.run([LAUNCHER, *flags], capture_output=True, text=True, env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


SCRIPT = {"__name__": "kubernetes"}
exec(compile(LAUNCHER.read_text(), LAUNCHER, "exec"), SCRIPT)


def dry(*flags):
    """The same of --dry_run, within this process: a hundred of them take no time."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = SCRIPT["main"](["--dry_run", *flags])
        except SystemExit as left:
            code = left.code
    return code, out.getvalue(), err.getvalue()


def manifest(*flags):
    code, out, err = dry(*flags)
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


def only_job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def only_container(jobset):
    (container,) = only_job(jobset)["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize(
    "flags",
    [
        (*TPU, *RUN),
        (*TPU, "--spot", "--slices=4", "--name=run", "--namespace=team", *RUN),
        ("--tpu=v4-8", "--image=i", "--bucket=b", "--service_account=writer", "--requests=cpu=20,memory=9Gi", *RUN),
        (*GPU, "--spot", "--max_restarts=0", "--node_selector=a.b/c=d", "--node_selector=e=true", *RUN),
        ("--gpus=1", "--image=i", "--volume=c", "--", "--sweep=configs/sweeps/shortcuts.py"),
    ],
)
def test_fits_the_published_schemas(flags):
    made = manifest(*flags)
    assert JobsetV1alpha2JobSet.from_dict(made).to_dict() == made  # a field that is not theirs would be gone
    assert only_job(made)["template"]["spec"]["nodeSelector"].get("e", "true") == "true"  # not a truth value
    names = [volume["name"] for volume in only_job(made)["template"]["spec"]["volumes"]]
    assert names == [mount["name"] for mount in only_container(made)["volumeMounts"]]


@pytest.mark.parametrize(
    ("tpu", "node", "shape", "machines", "chips"),
    [
        ("v6e-1", "tpu-v6e-slice", "1x1", 1, 1),
        ("v6e-8", "tpu-v6e-slice", "2x4", 1, 8),
        ("v6e-16", "tpu-v6e-slice", "4x4", 4, 4),
        ("v5litepod-256", "tpu-v5-lite-podslice", "16x16", 64, 4),
        ("v5p-8", "tpu-v5p-slice", "2x2x1", 1, 4),
        ("v4-32", "tpu-v4-podslice", "2x2x4", 4, 4),
    ],
)
def test_a_slice_gets_the_machines_of_one_node_pool(tpu, node, shape, machines, chips):
    made = manifest(f"--tpu={tpu}", "--image=i", "--volume=c", *RUN)
    job = only_job(made)
    assert job["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": node,
        "cloud.google.com/gke-tpu-topology": shape,
    }
    assert (job["parallelism"], job["completions"]) == (machines, machines)
    assert only_container(made)["resources"]["limits"] == {"google.com/tpu": str(chips)}
    pool = made["metadata"]["annotations"].get("alpha.jobset.sigs.k8s.io/exclusive-topology")
    assert pool == (None if machines == 1 else "cloud.google.com/gke-nodepool")


def test_every_slice_has_as_many_chips_as_its_shape():
    for kind, cores in (("v6e", 1), ("v5litepod", 1), ("v5p", 2), ("v4", 2)):
        _, _, err = dry(f"--tpu={kind}-0", "--image=i", "--volume=c", *RUN)
        for tpu in err.partition("known: ")[2].split(", "):
            job = only_job(made := manifest(f"--tpu={tpu.strip()}", "--image=i", "--volume=c", *RUN))
            shape = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
            chips = eval(shape.replace("x", "*"))
            assert chips * cores == int(tpu.rpartition("-")[2])
            limits = only_container(made)["resources"]["limits"]
            assert job["parallelism"] * int(limits["google.com/tpu"]) == chips


def test_spot_is_selected_and_tolerated():
    pod = only_job(manifest(*TPU, "--spot", *RUN))["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    (taint,) = (taint for taint in pod["tolerations"] if taint["key"] == "cloud.google.com/gke-spot")
    assert taint == {
        "key": "cloud.google.com/gke-spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
    }


def failed_job(policy, code, disrupted):
    """The reason and message of the job's failure, as the job controller gives them for its first lost pod."""
    for i, rule in enumerate(policy["rules"]):
        assert rule["action"] == "FailJob"  # anything else replaces one pod, and its peers wait for it in vain
        if exits := rule.get("onExitCodes"):
            assert exits["operator"] == "In"
            if code in exits["values"]:
                name = exits["containerName"]
                said = f"Container {name} for pod default/digits-v1-8-worker-0-2-x23qz failed with exit code {code}"
                return "PodFailurePolicy", f"{said} matching FailJob rule at index {i}"
        elif disrupted and {"type": "DisruptionTarget", "status": "True"} in rule["onPodConditions"]:
            said = "Pod default/digits-v1-8-worker-0-2-x23qz has condition DisruptionTarget"
            return "PodFailurePolicy", f"{said} matching FailJob rule at index {i}"
    return "BackoffLimitExceeded", "Job has reached the specified backoff limit"


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [
        (75, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (75, False, "RestartJobSetAndIgnoreMaxRestarts"),  # `kubectl delete pod`
        (137, True, "RestartJobSetAndIgnoreMaxRestarts"),  # taken away before it had saved
        (143, True, "RestartJobSetAndIgnoreMaxRestarts"),  # before its handler was there
        (2, False, "FailJobSet"),
        (3, False, "FailJobSet"),
        (69, False, "RestartJobSet"),
        (1, False, "RestartJobSet"),
        (137, False, "RestartJobSet"),  # no memory
    ],
)
def test_what_an_exit_does(code, disrupted, action):
    for flags in (TPU, GPU):
        made = manifest(*flags, "--max_restarts=4", *RUN)
        job, policy = only_job(made), made["spec"]["failurePolicy"]
        reason, message = failed_job(job["podFailurePolicy"], code, disrupted)
        applied = "RestartJobSet"  # of JobSet, where no rule fits; the only one that counts
        for rule in policy["rules"]:
            patterns = rule.get("onJobFailureMessagePatterns", [""])
            if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
                applied = rule["action"]
                break
        assert applied == action
        assert (job["backoffLimit"], policy["maxRestarts"]) == (0, 4)
        assert job["template"]["spec"]["restartPolicy"] == "Never"  # exit codes are read only then
        assert only_container(made)["name"] == job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]


def test_gpu_machines_find_the_first_by_its_name():
    made = manifest(*GPU, *RUN)
    spec = made["spec"]
    first = f"{made['metadata']['name']}-{spec['replicatedJobs'][0]['name']}-0-0.{spec['network']['subdomain']}"
    assert only_container(made)["args"][1:] == [
        "--workdir=/shared/runs/digits-v1-8",
        "--initialization_timeout=21600",
        f"--coordinator={first}:8476",
        "--num_processes=2",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]
    assert only_job(made)["completionMode"] == "Indexed"
    one = manifest("--gpus=8", "--image=i", "--volume=c", *RUN)
    assert only_container(one)["args"][1:] == ["--workdir=/shared/runs/digits-v1-8"]  # nobody to find


def test_slices_are_joined_by_gke():
    made = manifest(*TPU, "--slices=2", *RUN)
    assert made["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert "--coordinator" not in str(only_container(made))


def test_what_the_user_says_about_folder_and_waiting_is_kept():
    own = ("--workdir=/shared/mine", "--initialization_timeout", "60")
    assert only_container(manifest(*TPU, *RUN, *own))["args"] == [*RUN[1:], *own]


def test_odd_arguments_arrive_as_they_are():
    odd = [
        "--config.name=$(HOME) $$x",
        "--x=yes",
        "no",
        "1e3",
        "a: b # c",
        "'\"\\",
        "zwei\nZeilen",
        "ünï 😀",
        "-",
        "~",
        "",
    ]
    made = only_container(manifest(*TPU, *RUN, *odd))["args"]
    # Kubernetes: $$ is a $, and $(NAME) the variable.
    assert [re.sub(r"\$\$", "$", arg) for arg in made][1 : 1 + len(odd)] == odd
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", arg) for arg in made)


def test_a_bucket_is_mounted_for_the_user_of_the_process():
    flags = ("--image=i", "--bucket=photos", "--service_account=writer", *RUN)
    for kind, user in (("--tpu=v6e-8", 0), ("--gpus=1", 1000)):
        template = only_job(manifest(kind, *flags))["template"]
        assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
        assert template["spec"]["volumes"][0]["csi"]["volumeAttributes"] == {
            "bucketName": "photos",
            "mountOptions": "implicit-dirs,file-system:rename-dir-limit:200000,metadata-cache:ttl-secs:0,"
            f"metadata-cache:negative-ttl-secs:0,uid={user},gid={user}",
        }
        assert template["spec"]["securityContext"]["runAsUser"] == user
        assert template["spec"]["serviceAccountName"] == "writer"


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A stand-in that keeps one JobSet in a file, and refuses to make it twice."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys, yaml\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "with (folder / 'calls').open('a') as file: print(*sys.argv[1:], file=file)\n"
        "state = folder / 'jobset.json'\n"
        "if (folder / 'broken').exists(): sys.exit((folder / 'broken').read_text())\n"
        "if sys.argv[1] == 'get' and state.exists(): print(state.read_text())\n"
        "if sys.argv[1] == 'create':\n"
        "    if state.exists(): sys.exit('AlreadyExists')\n"
        "    (folder / 'stdin').write_text(text := sys.stdin.read())\n"
        "    state.write_text(json.dumps(yaml.safe_load(text)))\n"
    )
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_submits_what_the_dry_run_prints_and_only_once(kubectl):
    _, printed, _ = call(*GPU, "--namespace=team", "--dry_run", *RUN)
    assert not (kubectl / "calls").exists()
    code, _, err = call(*GPU, "--namespace=team", *RUN)
    assert code == 0, err
    assert "/shared/runs/digits-v1-8" in err
    command, _, text = printed.partition("\n")
    assert (kubectl / "stdin").read_text().strip() == text.strip()
    assert (kubectl / "calls").read_text().splitlines() == [
        "get --namespace=team --ignore-not-found --output=json jobset/digits-v1-8",
        command.removeprefix("# kubectl "),
    ]

    code, _, err = call(*GPU, "--namespace=team", *RUN)
    assert code == 0
    assert err.startswith("JobSet digits-v1-8 exists: running or waiting, 0 restarts\n")
    assert (kubectl / "calls").read_text().count("create") == 1

    code, _, err = call(*GPU, "--namespace=team", *RUN, "--config.seed=1")
    assert code == 2
    assert "--name=digits-v1-8 exists, started as: launch/kubernetes --gpus=8" in err
    assert err.count("\n") == 1

    state = json.loads((kubectl / "jobset.json").read_text())
    state["status"] = {"terminalState": "Failed", "restarts": 11}
    (kubectl / "jobset.json").write_text(json.dumps(state))
    code, _, err = call(*GPU, "--namespace=team", *RUN)
    assert code == 0
    assert "Failed, 11 restarts\n" in err
    assert "run the same command again after: kubectl --namespace=team delete jobset digits-v1-8\n" in err


def test_a_kubectl_that_fails_is_quoted(kubectl):
    (kubectl / "broken").write_text('error: the server doesn\'t have\na resource type "jobset"')
    code, _, err = call(*GPU, *RUN)
    assert code == 2
    assert err.endswith('error: the server doesn\'t have a resource type "jobset"\n')
    assert err.count("\n") == 1


def test_no_kubectl(tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    code, _, err = call(*GPU, *RUN, PATH=str(tmp_path))
    assert (code, err.partition(":")[0], err.count("\n")) == (2, "error", 1)
    assert "kubectl is not on PATH" in err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (TPU, "after --"),
        ((*TPU, "--"), "after --"),
        (("--image=i", "--volume=c", *RUN), "--tpu=TYPE"),
        ((*TPU, "--gpus=8", *RUN), "--gpus=N"),
        (("--tpu=v5e-16", "--image=i", "--volume=c", *RUN), "v5litepod-N"),
        (("--tpu=v6e-12", "--image=i", "--volume=c", *RUN), "v6e-8, v6e-16"),
        (("--tpu=v6e", "--image=i", "--volume=c", *RUN), "--tpu=v6e is unknown"),
        ((*TPU, "--nodes=2", *RUN), "--nodes=2"),
        ((*GPU, "--gpus=0", *RUN), "--gpus=0"),
        ((*GPU, "--gpus=many", *RUN), "--gpus"),
        ((*GPU, "--slices=2", *RUN), "--slices=2"),
        (("--tpu=v6e-8", "--slices=2", "--image=i", "--volume=c", *RUN), "--slices=2"),
        ((*GPU, "--max_restarts=-1", *RUN), "--max_restarts=-1"),
        (("--tpu=v6e-16", "--volume=c", *RUN), "--image"),
        (("--tpu=v6e-16", "--image=i", *RUN), "--volume=CLAIM"),
        ((*TPU, "--bucket=b", *RUN), "--bucket=NAME"),
        ((*TPU, "--node_selector=gpu", *RUN), "--node_selector=gpu"),
        ((*TPU, "--requests=cpu", *RUN), "--requests=cpu"),
        ((*TPU, "--name=Big_Run", *RUN), "--name=Big_Run"),
        ((*TPU, f"--name={'a' * 41}", *RUN), "at most 40"),
        ((*TPU, *RUN, "--workdir=runs/x"), "--workdir=runs/x: must be in /shared"),
        ((*TPU, *RUN, "--workdir=/shared/../x"), "--workdir=/shared/../x"),
        ((*TPU, "--", "--sweep=configs/sweeps/shortcuts.py"), "--sweep runs on one machine"),
        ((*TPU, "--spott", *RUN), "did you mean --spot?"),
        ((*TPU, "stray", *RUN), "stray"),
    ],
)
def test_bad_input_is_one_line(flags, named):
    code, out, err = dry(*flags)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert named in err
