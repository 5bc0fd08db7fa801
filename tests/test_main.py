"""What a person sees of a run: the terminal, the files it leaves, and the modes of the command."""

import fcntl
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from resjax.evaluation.evaluate import add, means
from resjax.files import read_lines
from resjax.train.log import RunLog

KEYS = "test_accuracy test_loss train_loss steps seconds images_per_second params state_digest"


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def test_summary(whole, read_records):
    summary = json.loads((whole / "summary.json").read_text())
    assert {*KEYS.split(), "train_accuracy", "validation_accuracy"} <= summary.keys()
    assert all(isinstance(v, str) or math.isfinite(v) for v in summary.values())
    assert (summary["steps"], summary["params"]) == (90, 2518)
    assert summary["state_digest"].startswith("v2:")
    [*_, test] = read_records(whole, "test")
    assert summary["test_accuracy"] == test["accuracy"]
    assert summary["test_loss"] == test["loss"]
    # The training loss is that of the interval since the evaluation before: 30 steps of 32 images.
    train = [record["loss"] for record in read_records(whole, "train")][-30:]
    assert summary["train_loss"] == pytest.approx(sum(train) / 30, rel=1e-6)


def test_metrics(whole, read_records):
    steps = [record["step"] for record in read_records(whole, "train")]
    assert steps == list(range(1, 91))
    for split in ("validation", "test"):
        assert [record["step"] for record in read_records(whole, split)] == [30, 60, 90]
    for record in read_lines(whole / "metrics.jsonl"):
        assert {"step", "split", "loss", "accuracy", "accuracy_top5"} <= record.keys()
        assert 0 <= record["accuracy"] <= record["accuracy_top5"] <= 1
        if record["split"] == "train" and record["step"] > 1:
            assert record["images_per_second"] > 0
            assert 0 <= record["input_wait"] <= 1


def events(folder):
    """(tag, step) -> value of TensorBoard event files, read without TensorFlow."""
    from tensorboardX import proto
    from tensorboardX.record_writer import RecordWriter

    assert RecordWriter
    found = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length uint64, its checksum uint32, the record, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = proto.event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard(whole, read_records):
    found = events(whole / "tensorboard")
    for record in read_records(whole):
        for name in ("loss", "accuracy"):
            assert found[f"{record['split']}/{name}", record["step"]] == pytest.approx(record[name], rel=1e-6)


def test_files(whole):
    names = {path.name for path in whole.iterdir()}
    logs = {"metrics.jsonl", "tensorboard", "curves.png"}
    assert names == {"checkpoints", "config.json", "lock", "summary.json"} | logs
    assert (whole / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    config = json.loads((whole / "config.json").read_text())
    assert (config["batch_size"], config["model"]["units"]) == (32, [1, 2])


def test_what_is_said(whole):
    """Piped: plain lines."""
    err = (whole.parent / "stderr").read_text()
    summary = json.loads((whole / "summary.json").read_text())
    for part in (
        "device    1 x cpu",
        "mesh data=1 fsdp=1",
        "network   digits-v1-20: depth 8, 2,518 parameters, ",
        " multiply-adds per image, float32",
        "data      digits: 1,300 training, 137 validation, 360 test images of 8 x 8 x 1 in 10 classes",
        "          augment=crop pad=1 normalize=channel",
        "training  90 steps of 32 images, 2.2 epochs",
        f"logs      {whole}",
        "compiling the first step",
        "step     60/90  loss ",
        " s left",
        "step     60  validation loss",
        "step     90  test loss",
        f"digest    {summary['state_digest']}",
        f"done      test accuracy {100 * summary['test_accuracy']:.2f} %, 90 steps",
    ):
        assert part in err
    assert "\r" not in err
    assert "Warning" not in err


def test_progress_bar_on_a_terminal(tiny, tmp_path):
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))  # rows and columns
    command = [sys.executable, "-m", "resjax.main", *tiny, f"--workdir={tmp_path}/run", "--config.total_steps=5"]
    with subprocess.Popen(command, stderr=theirs, stdout=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(mine, 4096)
            except OSError:  # the other end is closed
                break
    os.close(mine)
    text = seen.decode()
    assert process.returncode == 0, text
    bar = [part for part in text.replace("\n", "\r").split("\r") if "5/5 [" in part][-1]
    for part in ("100%", "loss", "accuracy", "images/s", "step"):
        assert part in bar
    assert "test loss" in text


def test_evaluation(call, rich, whole):
    """--mode=eval says on stdout what the summary says, and writes nothing."""
    before, summary = snapshot(whole), json.loads((whole / "summary.json").read_text())
    code, out, err = call(*rich, f"--workdir={whole}", "--mode=eval", "--config.mesh.data=1")
    assert code == 0
    [line] = err.splitlines()
    assert line.startswith("evaluating step 90")
    result = json.loads(out)
    assert result["step"] == 90
    for name in ("test_accuracy", "validation_accuracy"):
        assert result[name] == summary[name]
    assert result["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-6)
    # On other devices, in the scanned form, and with another batch size that does not divide the split.
    changes = ("--config.model.scan=true", "--config.mesh.fsdp=4", "--config.batch_size=112")
    code, out, err = call(*rich, f"--workdir={whole}", "--mode=eval", *changes)
    assert code == 0, err
    assert json.loads(out)["test_accuracy"] == summary["test_accuracy"]
    for step, expected in (("75", 0), ("76", 2), ("nonsense", 2)):
        code, out, err = call(*rich, f"--workdir={whole}", "--mode=eval", f"--step={step}", "--config.mesh.data=1")
        assert code == expected
    assert "here are [90, 75" in err
    assert snapshot(whole) == before


def test_evaluation_of_the_training_split(call, whole):
    """It is what the same images give as a test split: every one once, as it is, in evaluation mode."""
    flags = (f"--workdir={whole}", "--mode=eval", "--config.mesh.data=1")
    code, out, err = call(*flags, "--config.eval_train=true")
    assert code == 0, err
    found = json.loads(out)
    splits = ("train_split=train[1300:]", "validation_split=test[:9]", "test_split=train[:1300]")
    code, out, err = call(*flags, *(f"--config.data.{split}" for split in splits))
    assert code == 0, err
    expected = json.loads(out)
    assert 0 < found["train_clean_accuracy"] < 1
    for key in ("accuracy", "accuracy_top5", "loss"):
        assert found[f"train_clean_{key}"] == expected[f"test_{key}"]
    assert found["test_loss"] != expected["test_loss"]


def test_the_training_split_is_evaluated_with_the_others(call, tiny, tmp_path, read_records):
    flags = [f"--config.{f}" for f in ("total_steps=6", "eval_every_steps=3", "eval_train=true", "mesh.data=1")]
    code, _, err = call(*tiny, *flags, f"--workdir={tmp_path}/run")
    assert code == 0, err
    records, summary = (
        read_records(tmp_path / "run", "train_clean"),
        json.loads((tmp_path / "run/summary.json").read_text()),
    )
    assert [record["step"] for record in records] == [3, 6]
    assert summary["train_clean_loss"] == records[-1]["loss"]
    assert summary["train_loss"] != summary["train_clean_loss"]  # of the steps before, beside it


def test_a_workdir_alone_is_enough_to_evaluate(call, whole):
    summary = json.loads((whole / "summary.json").read_text())
    code, out, err = call(f"--workdir={whole}", "--mode=eval")
    assert code == 0, err
    assert json.loads(out)["test_accuracy"] == summary["test_accuracy"]
    # What a file says otherwise does not count, and stderr names it.
    code, out, err = call("--config=configs/digits.py", "--config.mesh.data=1", f"--workdir={whole}", "--mode=eval")
    assert (code, "holds another network: model." in err) == (2, True)


def test_a_checkpoint_is_evaluated_with_its_own_preprocessing(call, whole):
    """Means are not found anew in other data, and no field may change them."""
    flags = (f"--workdir={whole}", "--mode=eval", "--config.mesh.data=1")
    code, out, err = call(*flags)
    assert code == 0, err
    for field in ("data.normalize=pixel_mean", "data.augment=crop_flip", "model.bn_epsilon=0.1", "seed=1"):
        code, _, err = call(*flags, f"--config.{field}")
        assert code == 2
        assert f"evaluates the run as it was trained: {field.partition('=')[0]}: " in err
    # Of these ten images the mean would be another; the test split, and so the result, are the same.
    code, other, err = call(*flags, "--config.data.train_split=train[:10]")
    assert code == 0, err
    assert other == out
    code, other, _ = call(*flags, "--config.data.test_split=test[:100]")
    assert code == 0
    assert json.loads(other)["test_loss"] != json.loads(out)["test_loss"]


def test_evaluation_without_a_checkpoint(call, rich, whole, tmp_path):
    (tmp_path / "config.json").write_text((whole / "config.json").read_text())
    code, out, err = call(*rich, f"--workdir={tmp_path}", "--mode=eval")
    assert (code, out) == (2, "")
    assert "no such checkpoint" in err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "recipe",
    [
        "cifar10.py:v1-8",
        "cifar10.py:v2-11",
        pytest.param("imagenet.py:v1.5-18-d", marks=pytest.mark.long),
        "dense.py:v2-5",
    ],
)
def test_any_recipe_on_any_set(call, tmp_path, recipe):
    """One override; the network's input, classes, augmentation and normalisation come with the set."""
    durations = ("total_steps=1", "schedule.warmup=none", "schedule.drop_steps=()", "batch_size=64", "mesh.data=1")
    widths = "model.widths=8,8,8,8" if "imagenet" in recipe else "model.widths=8,8,8"
    small = () if "dense" in recipe else (widths, "model.stem_width=8")
    flags = [f"--config.{field}" for field in (*durations, *small, "data.name=digits")]
    code, _, err = call(f"--config=configs/{recipe}", *flags, f"--workdir={tmp_path}/run")
    assert code == 0, err
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [saved["model"][key] for key in ("input_size", "input_channels", "num_classes")] == [8, 1, 10]
    assert [saved["data"][key] for key in ("augment", "pad", "normalize", "image_size")] == [
        "crop",
        1,
        "channel",
        8,
    ]


@pytest.mark.parametrize("every", [1, 10], ids=["evaluated and saved each step", "at the end"])
def test_non_finite_loss(call, tiny, tmp_path, every):
    """Stops, names the step, and saves nothing that could not be gone on from."""
    flags = (*tiny, f"--workdir={tmp_path}/run", "--config.total_steps=10", "--config.optimizer.learning_rate=1e30")
    changes = ("--config.schedule.warmup=none", f"--config.eval_every_steps={every}", "--config.mesh.data=1")
    code, _, err = call(*flags, *changes, "--config.log_every_steps=5")
    assert code == 3, err
    assert "Traceback" not in err
    error = err.splitlines()[-1]
    assert re.match(r"error: the [a-z ]* is (nan|inf) at step [123]: lower optimizer\.learning_rate", error)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    for record in read_lines(tmp_path / "run" / "metrics.jsonl"):
        assert math.isfinite(record["loss"])


def test_weights_that_overflow_are_not_saved(call, tiny, tmp_path):
    """The loss of the step that is to be saved is still finite."""
    flags = (*tiny, f"--workdir={tmp_path}/run", "--config.total_steps=10", "--config.optimizer.learning_rate=1e30")
    changes = ("--config.schedule.warmup=none", "--config.checkpoint_every_steps=1", "--config.mesh.data=1")
    code, _, err = call(*flags, *changes)
    assert code == 3, err
    assert "error: the norm of the weights is inf at step 1" in err
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("total", [1, 2])
def test_shortest_runs(call, tiny, tmp_path, total):
    """The first step can be the last, with an evaluation and a save."""
    flags = (*tiny, f"--workdir={tmp_path}/run", f"--config.total_steps={total}", "--config.schedule.warmup=none")
    code, _, err = call(*flags, "--config.mesh.data=1")
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == total
    assert (summary["images_per_second"] > 0) == (total > 1)
    found = read_lines(tmp_path / "run" / "metrics.jsonl")
    steps = [record["step"] for record in found if record["split"] == "train"]
    assert steps == list(range(1, total + 1))


def test_default_workdir_and_cache(run, tiny, tmp_path):
    """runs/NAME under the current folder; the compilation cache is on where nobody has set one."""
    import shlex

    flags = [f"--config={Path(tiny[0].partition('=')[2]).absolute()}", *tiny[1:], "--config.total_steps=2"]
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "resjax.main", *flags, "--config.name=mine", "--config.schedule.warmup=none"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, shlex.join(command) + done.stderr
    assert (tmp_path / "runs" / "mine" / "summary.json").is_file()
    assert any((tmp_path / "cache" / "resjax" / "xla").iterdir())


def test_help(call):
    code, out, _ = call("--help")
    assert code == 0
    for flag in ("--config", "--workdir", "--mode", "--step", "--devices"):
        assert flag in out


EVERYTHING = """
import importlib, pkgutil, sys
import resjax
for module in pkgutil.walk_packages(resjax.__path__, "resjax."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name == "torch", error  # what compares with PyTorch needs it, and nothing else does
from resjax.main import main
code = main(sys.argv[1:])
assert code == 0, code
assert "tensorflow" not in sys.modules
print(len(sys.modules))
"""


def test_no_tensorflow(tiny, tmp_path):
    """Neither to import any module nor to train."""
    flags = (*tiny, f"--workdir={tmp_path}/run", "--config.total_steps=2", "--config.schedule.warmup=none")
    done = subprocess.run([sys.executable, "-c", EVERYTHING, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_log_of_a_resume_drops_what_will_be_trained_again(tmp_path, capfd):
    """Records after the checkpoint go, also a last line that a kill cut short."""
    lines = [json.dumps({"step": step, "split": "train"}) + "\n" for step in (1, 2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 5, "spl')
    log = RunLog(tmp_path, start=2, total=5)
    log.write(3, "test", {"loss": 1.0, "accuracy": 0.5})
    log.close()
    assert [(r["step"], r["split"]) for r in read_lines(tmp_path / "metrics.jsonl")] == [
        (1, "train"),
        (2, "train"),
        (3, "test"),
    ]


def test_sums_and_means():
    one = {"loss": 1.0, "correct": 1, "correct5": 2, "count": 2}
    other = {"loss": 3, "correct": 0, "correct5": 1, "count": 2}
    assert add([]) == dict.fromkeys(one, 0.0)
    parts = [one, {}, other]
    assert means(add(parts)) == {"loss": 1.0, "accuracy": 0.25, "accuracy_top5": 0.75}
