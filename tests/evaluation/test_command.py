"""`python -m resjax.evaluate`: what it says, writes and refuses."""

import dataclasses
import json
import shutil
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from resjax import evaluate
from resjax.data.augment.device import Normalization, normalize, training_views
from resjax.data.loader import open_dataset
from resjax.member import Member
from resjax.models.resnet import ResNet
from resjax.train.checkpoint import Checkpoints
from tests.evaluation.conftest import TESTED, make_config, save

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def judge(call, tmp_path):
    """Runs the command: what it writes with --out."""

    def of(*flags):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        code, text, err = call(*flags, f"--out={out}", command=evaluate.main)
        assert code == 0, err
        found = json.loads(out.read_text())
        assert f"{100 * found['top1']['accuracy']:.2f} %" in text
        return found

    return of


def test_the_centre_is_what_the_runs_own_evaluation_gives(call, judge, runs):
    for workdir, n in ((runs.first, TESTED), (runs.digits, 360)):
        found = judge(f"--workdir={workdir}", "--devices=8")
        code, out, err = call("--mode=eval", f"--workdir={workdir}")
        assert code == 0, err
        own = json.loads(out)
        assert (found["n"], found["runs"][0]["step"]) == (n, own["step"])
        assert found["top1"]["accuracy"] == pytest.approx(own["test_accuracy"], abs=1e-9)
        assert found["top5"]["accuracy"] == pytest.approx(own["test_accuracy_top5"], abs=1e-9)
        assert found["loss"] == pytest.approx(own["test_loss"], rel=1e-5)


def test_an_ensemble_is_the_mean_of_softmax(judge, runs, stored, softmax):
    workdirs = [f"--workdir={runs.first}", f"--workdir={runs.second}"]
    one, both = judge(workdirs[0]), judge(*workdirs)
    probabilities = []
    for workdir in (runs.first, runs.second):
        member = Member.open(str(workdir), [], "test", "last")
        images = [member.preprocessing.view([image])[0] for image in stored[0]]
        probabilities.append(softmax(member, images))
    for found, mean in ((one, probabilities[0]), (both, (probabilities[0] + probabilities[1]) / 2)):
        own = mean[np.arange(TESTED), stored[1]]
        assert found["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
        assert found["top1"]["accuracy"] == pytest.approx((mean.argmax(1) == stored[1]).mean())
    assert [run["name"] for run in both["runs"]] == ["run", "run"]
    twice = judge(f"--workdir={runs.first},{runs.first}")
    assert twice["loss"] == pytest.approx(one["loss"], rel=1e-12)


def test_which_weights_and_which_images(judge, runs):
    assert judge(f"--workdir={runs.first}")["runs"][0]["step"] == 2
    assert judge(f"--workdir={runs.first}", "--weights=best")["runs"][0]["step"] == 1
    found = judge(f"--workdir={runs.first}", "--split=validation[1:]", "--views=ten")
    assert (found["n"], found["records"], found["views"]["mirrored"]) == (4, "photos validation[1:5]", True)


def test_exact_bn_statistics_of_the_batches_that_training_would_see_next(judge, runs, photos):
    """One batch, and its variance: what the network says with this batch's own statistics."""
    flags = (f"--workdir={runs.first}", "--bn=exact")
    found = judge(*flags, "--bn_batches=1")
    assert found["bn"] == {"statistics": "exact", "definition": "mean_variance", "batches": 1}
    member = Member.open(str(runs.first), [], "test", "last")
    dataset = open_dataset(**member.config.data, preprocessing=member.preprocessing)
    with closing(dataset.train(8, 0, start_step=2)) as batches, closing(Checkpoints(runs.first)) as checkpoints:
        weights, batch = checkpoints.weights(2), next(batches)
    normalization = Normalization.of(member.preprocessing)
    images = training_views(batch, normalization, dataset.pad)["image"]
    model = ResNet(dataclasses.replace(member.spec, bn_momentum=0.0))
    new = model.apply(weights, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    records = member.source.open(member.task.part)
    tested, labels = records.read(np.arange(len(records)))
    logits = model.apply(
        {"params": weights["params"], "batch_stats": new},
        normalize(member.preprocessing.view(tested), normalization),
    )
    expected = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].mean()
    assert found["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert judge(*flags, "--bn_batches=3", "--bn_definition=total_variance")["loss"] != found["loss"]


def test_what_is_written(call, runs, tmp_path):
    before = sorted(runs.first.rglob("*"))
    flags = [f"--workdir={runs.first}", "--views=scales", "--scales=32", f"--confusion={tmp_path / 'c.png'}"]
    code, _, err = call(*flags, f"--out={tmp_path / 'o.json'}", command=evaluate.main)
    assert code == 0, err
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["views"] == {"kind": "scales", "scales": [32], "mirrored": True}
    assert found["runs"][0]["preprocessing"]["size"] == 32
    assert sum(row["n"] for row in found["per_class"]) == found["n"] == TESTED
    assert {"jax", "resjax"} <= found["versions"].keys()
    assert sorted(runs.first.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "o.json"]
    code, _, err = call(*flags, command=evaluate.main)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is there already" in err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--workdir is missing"),
        (["--workdir=no/where"], "--workdir=no/where holds no run; train one there first"),
        (
            ["FIRST", "--config=configs/digits.py"],
            "--config=configs/digits.py: the config of the run or the file itself is taken",
        ),
        (["FIRST", "--views=eleven"], "<centre|ten|scales>"),
        (["FIRST", "--views=scales", "--scales=48,32"], "--scales=48,32: must be ascending"),
        (["FIRST", "--views=scales", "--scales=16"], "--scales=16: must be ascending whole numbers from 32"),
        (["FIRST", "--views=scales", "--scales=32,x"], "--scales=32,x: must be ascending"),
        (["FIRST", "--views=scales", "--scales="], "--scales=: must be ascending"),
        (["FIRST", "--scales=32"], "--scales=32 is for --views=scales"),
        (["FIRST", "--split=holdout"], "--split='holdout': there is no split 'holdout'"),
        (["FIRST", "--split=test[99:]"], "--split='test[99:]'"),
        (["FIRST", "--out=no/where.json"], "--out=no/where.json: there is no such folder"),
        (["FIRST", "--config.model.widths=1"], "this command evaluates the run as it was trained: model.widths"),
        (["FIRST", "--bn=exact", "--bn_batches=0"], "--bn_batches=0: must be at least 1"),
        (["FIRST", "--bn_batches=9"], "--bn_batches=9 is for --bn=exact"),
        (["SECOND", "--weights=best"], "--weights=best: nothing was validated"),
        (["DIGITS", "--views=ten"], "take images as they are stored"),
        (["FIRST", "DIGITS"], "6 and 10 classes"),
    ],
)
def test_bad_input(flags, says, call, runs):
    names = {name.upper(): f"--workdir={path}" for name, path in vars(runs).items()}
    code, out, err = call(*[names.get(flag, flag) for flag in flags], command=evaluate.main)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert says in err


def test_runs_that_make_no_ensemble(call, runs, photos, tmp_path):
    """Other names of the classes, and other records."""
    shutil.copytree(photos, tmp_path / "data")
    names = next((tmp_path / "data").rglob("label.labels.txt"))
    names.write_text(names.read_text().replace("kind1", "kind9"))
    other = save(tmp_path / "other", make_config(folder=tmp_path / "data"))
    config = make_config(folder=photos)
    config.data.test_split = "test[:9]"
    fewer = save(tmp_path / "fewer", config)
    for workdir, says in ((other, "class 1 is 'kind1' and 'kind9'"), (fewer, "test[0:13] and photos test[0:9]")):
        code, out, err = call(f"--workdir={runs.first}", f"--workdir={workdir}", command=evaluate.main)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert says in err


def test_a_damaged_checkpoint(call, runs, tmp_path):
    workdir = shutil.copytree(runs.second, tmp_path / "run")
    [data] = [p for p in (workdir / "checkpoints/0/state").rglob("*") if p.is_file() and p.parent.name == "d"][:1]
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    code, out, err = call(f"--workdir={workdir}", command=evaluate.main)
    assert (code, out) == (2, ""), err
    assert "is damaged" in err.splitlines()[-1]
    assert Path(workdir / "checkpoints/0").is_dir()
