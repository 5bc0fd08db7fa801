"""Every mistake is one line on stderr, exit code 2, and nothing written."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resjax.analysis import __main__ as analysis
from resjax.analysis import curves
from resjax.data.prepare import cifar as published

DIGITS = "--config=configs/digits.py"
NORMALIZED = "--config.data.normalize=channel"


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*")}


def refused(code, out, err, *parts):
    """Asserts that a command said what is wrong in one line of stderr, with all `parts` in it."""
    assert code == 2, err
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        # The command line.
        ([], ["--config is missing", "configs/digits.py"]),
        (["--config"], ["--config"]),
        (["--config="], ["--config is missing"]),
        (["--config=configs/digit.py"], ["no such file; did you mean configs/digits.py?"]),
        (["--config=configs"], ["--config=configs: is a folder", "did you mean configs/"]),
        (["--confg=configs/digits.py"], ["--confg is unknown", "did you mean --config?"]),
        ([DIGITS, "--wrkdir=x"], ["--wrkdir is unknown", "did you mean --workdir?"]),
        ([DIGITS, "train"], ["'train' is not a flag"]),
        ([DIGITS, "--mode=test"], ["--mode=test", "train|eval"]),
        ([DIGITS, "--devices=x"], ["--devices=x"]),
        ([DIGITS, "--devices=0"], ["--devices=0: must be at least 1"]),
        # Fields.
        ([DIGITS, "--config.batchsize=3"], ["--config.batchsize is unknown; did you mean --config.batch_size?"]),
        ([DIGITS, "--config.optimizer.lerning_rate=3"], ["did you mean --config.optimizer.learning_rate?"]),
        ([DIGITS, "--config.batch_size=big"], ["--config.batch_size='big'", "must be a whole number"]),
        ([DIGITS, "--config.batch_size=1e3"], ["must be a whole number"]),
        ([DIGITS, "--config.optimizer.nesterov=2"], ["must be true or false"]),
        ([DIGITS, "--config.model.dtype=float64"], ["model.dtype=float64", "JAX_ENABLE_X64=1"]),
        ([DIGITS, "--config.batch_size=0"], ["batch_size=0: must be positive"]),
        ([DIGITS, "--config.optimizer.learning_rate=-1"], ["optimizer.learning_rate=-1.0: must be positive"]),
        (
            [DIGITS, "--config.optimizer.learning_rate=nan"],
            ["optimizer.learning_rate=nan: must be a finite number"],
        ),
        ([DIGITS, "--config.optimizer.momentum=1"], ["optimizer.momentum=1.0: must lie in [0, 1)"]),
        ([DIGITS, "--config.optimizer.weight_decay=-1"], ["optimizer.weight_decay=-1.0: must not be negative"]),
        (
            [DIGITS, "--config.optimizer.freeze=stage1"],
            ["optimizer.freeze: 'stage1' stands where stem belongs", "from the input on, at most stem to stage3"],
        ),
        (
            [DIGITS, "--config.optimizer.freeze=stem,stage1,stage2,stage3,head"],
            ["optimizer.freeze: 'head' stands where nothing more belongs"],
        ),
        ([DIGITS, "--config.optimizer.layer_decay=0"], ["optimizer.layer_decay=0.0: must lie in (0, 1]"]),
        ([DIGITS, "--config.optimizer.layer_decay=1.1"], ["optimizer.layer_decay=1.1: must lie in (0, 1]"]),
        ([DIGITS, "--config.optimizer.head_multiplier=0"], ["optimizer.head_multiplier=0.0: must be positive"]),
        ([DIGITS, "--config.loss.name=binry"], ["loss.name='binry'", "did you mean binary?"]),
        ([DIGITS, "--config.loss.threshold=0.2"], ["loss.threshold=0.2 is for loss.name=binary, not softmax"]),
        ([DIGITS, "--config.loss.threshold=1"], ["loss.threshold=1.0: must lie in [0, 1)"]),
        ([DIGITS, "--config.mix.mixup=-0.2"], ["mix.mixup=-0.2: must not be negative"]),
        ([DIGITS, "--config.mix.definition=tim"], ["mix.definition='tim'", "did you mean timm?"]),
        ([DIGITS, "--config.mix.group=48"], ["batch_size=128 is not divisible by mix.group=48"]),
        ([DIGITS, "--config.ema.decay=1"], ["ema.decay=1.0: must lie in [0, 1)"]),
        ([DIGITS, "--config.ema.every_steps=4294967296"], ["ema.every_steps=4294967296: must be below 2**31"]),
        ([DIGITS, "--config.ema.every_steps=0"], ["ema.every_steps=0: must be positive"]),
        ([DIGITS, "--config.optimizer.reference_batch=-1"], ["optimizer.reference_batch=-1: must not be negative"]),
        (
            [DIGITS, "--config.schedule.name=constant", "--config.schedule.final_rate=1e-6"],
            ["schedule.final_rate=1e-06 is for schedule.name=cosine, not constant"],
        ),
        ([DIGITS, "--config.optimizer.name=sdg"], ["optimizer.name='sdg'", "did you mean sgd?"]),
        ([DIGITS, "--config.schedule.name=cosin"], ["schedule.name='cosin'", "did you mean cosine?"]),
        ([DIGITS, "--config.seed=-1"], ["seed=-1: must lie in [0, 2**32)"]),
        ([DIGITS, "--config.seed=4294967296"], ["seed=4294967296"]),
        # Networks.
        (["--config=configs/digits.py:v1-21"], ["'v1-21'", "6n+2", "v1-20"]),
        (["--config=configs/cifar10.py:v2-163"], ["'v2-163'", "9n+2"]),
        (["--config=configs/imagenet.py:v1-51"], ["'v1-51'", "nearest: v1-50"]),
        (["--config=configs/digits.py:v3-20"], ["v3", "did you mean v"]),
        (["--config=configs/digits.py:20"], ["FAMILY-DEPTH"]),
        ([DIGITS, "--config.model.units=3,3"], ["model.units=(3, 3)", "model.widths"]),
        ([DIGITS, "--config.model.shortcut=D"], ["model.shortcut='D' is unknown"]),
        # Batches and devices; eight devices are here.
        ([DIGITS, "--config.batch_size=36"], ["batch_size=36", "mesh of 8 x 1 devices: use a multiple of 8"]),
        ([DIGITS, "--config.batch_size=40", "--config.optimizer.accumulate=3"], ["optimizer.accumulate=3"]),
        ([DIGITS, "--config.batch_size=40", "--config.optimizer.accumulate=2"], ["use a multiple of 16"]),
        ([DIGITS, "--config.batch_size=40", "--config.model.bn_group=16"], ["model.bn_group=16", "multiple of 16"]),
        ([DIGITS, "--config.model.bn_group=-1"], ["model.bn_group=-1"]),
        ([DIGITS, "--config.mesh.data=9"], ["needs 9 devices, but there are 8", "--devices=9"]),
        ([DIGITS, "--config.mesh.fsdp=16"], ["needs 16 devices, but there are 8"]),
        ([DIGITS, "--config.mesh.fsdp=-1"], ["only one of them can be -1"]),
        # Durations.
        ([DIGITS, "--config.total_steps=5", "--config.total_epochs=1"], ["total_steps=5 and total_epochs=1.0"]),
        ([DIGITS, "--config.total_epochs=None"], ["total_steps and total_epochs are both None"]),
        ([DIGITS, "--config.total_steps=0"], ["total_steps=0"]),
        (
            [DIGITS, "--config.total_steps=9", "--config.schedule.warmup_steps=9"],
            ["schedule.warmup_steps=9: the warm-up takes 9 steps and training 9; set schedule.warmup_steps below"],
        ),
        ([DIGITS, "--config.eval_every_steps=0"], ["eval_every_steps=0"]),
        ([DIGITS, "--config.log_every_steps=0"], ["log_every_steps=0: must be positive"]),
        ([DIGITS, "--config.checkpoint_keep=0"], ["checkpoint_keep=0: must be positive"]),
        # Data.
        ([DIGITS, "--config.data.name=cifer10"], ["data.name='cifer10'", "did you mean 'cifar10'?"]),
        (["--config=configs/cifar10.py", "--config.data.dir={tmp}"], ["data.prepare cifar10 --source", "{tmp}"]),
        (
            ["--config=configs/imagenet.py", "--config.data.dir={tmp}"],
            ["data.prepare imagenet2012 --source", "{tmp}"],
        ),
        ([DIGITS, "--config.data.validation_split=train[:10]"], ["data.validation_split", "overlap"]),
        ([DIGITS, "--config.data.train_split=trian"], ["data.train_split='trian'"]),
        ([DIGITS, "--config.data.augment=flop"], ["data.augment='flop'"]),
        ([DIGITS, "--config.data.workers=-1"], ["data.workers=-1"]),
        ([DIGITS, "--config.data.repeats=0"], ["data.repeats=0: must be at least 1"]),
        ([DIGITS, "--config.data.repeats=512"], ["data.repeats=512 is more than batch_size="]),
        # The network and its data.
        ([DIGITS, "--config.model.input_size=32"], ["model.input_size=32", "set model.input_size=8"]),
        ([DIGITS, "--config.model.input_channels=3"], ["model.input_channels=3", "set model.input_channels=1"]),
        ([DIGITS, "--config.model.num_classes=100"], ["model.num_classes=100", "set model.num_classes=10"]),
        # What is far beyond this machine, or any.
        ([DIGITS, "--config.batch_size=100000000000"], ["batch_size=100000000000: a batch would take 25,600 GB"]),
        ([DIGITS, "--config.model.widths=16,32,1000000000"], ["model.widths=", "at most 10000000"]),
        ([DIGITS, "--config.model.widths=16,32,1000000"], ["parameters would take", "use a smaller network"]),
        ([DIGITS, "--config.model.stem_width=1000000000"], ["model.stem_width=1000000000: must be at most"]),
        ([DIGITS, "--config.model.units=1,1,100000"], ["model.units=(1, 1, 100000): at most 20000 in all"]),
        ([DIGITS, "--config.data.image_size=1000000", NORMALIZED], ["model.input_size=1000000: must be at most"]),
        ([DIGITS, "--config.data.image_size=99999", NORMALIZED], ["a batch would take", "smaller batch or images"]),
        ([DIGITS, "--config.data.name=synthetic", "--config.data.image_size=1000000"], ["at most 1024"]),
        (["--config=configs/digits.py:v1-999999992"], ["network 'v1-999999992'"]),
        ([DIGITS, "--devices=100000"], ["--devices=100000: must be at least 1 and at most 4096"]),
        # Paths and names.
        ([DIGITS, "--workdir=" + "x" * 5000], ["--workdir='xxx", "is too long"]),
        ([DIGITS, "--workdir=" + "x/" * 5000], ["--workdir='x/x/", "is too long"]),
        ([DIGITS, "--config.data.dir=" + "x" * 5000], ["data.dir='xxx", "is too long"]),
        ([DIGITS, "--config.init_from=" + "x" * 5000], ["init_from='xxx", "is too long"]),
        (["--config=" + "x" * 5000], ["--config='xxx", "is too long"]),
        (["--config=" + "1," * 2000], ["--config='1,1,", "is too long"]),
        (["--config=configs/digits.py:v1-" + "9" * 5000], ["--config='configs/digits.py:v1-999", "is too long"]),
        (
            [DIGITS, "--config.data.validation_split=train[:" + "9" * 5000 + "]"],
            ["data.validation_split='train[:9"],
        ),
        ([DIGITS, "--config.data.validation_split=train[" + "9" * 190 + ":]"], ["is not a split"]),
        ([DIGITS, "--config.batch_size=" + "9" * 5000], ["--config.batch_size='999", " ... "]),
        ([DIGITS, "--config.name=" + "x" * 5000], ["name='xxx", "is too long"]),
        *(
            ([DIGITS, f"--config.name={name}"], [f"name={name!r} cannot be a folder's name"])
            for name in ("", ".", "..", "../../x", "/etc", "a/b")
        ),
        (
            [DIGITS, "--workdir=x\n#SBATCH --wrap=ls"],
            ["--workdir='x\\n#SBATCH --wrap=ls' holds the control character"],
        ),
        ([DIGITS, "--workdir=x\0y"], ["--workdir='x\\x00y' holds the control character '\\x00'"]),
        ([DIGITS, "--config.data.dir=x\x1b[2J"], ["--config.data.dir='x\\x1b[2J' holds the control character"]),
        ([DIGITS, "--config.name=a\u2028b"], ["--config.name='a\\u2028b' holds the line end"]),
        ([DIGITS, "--config.name=\udcff"], ["holds the byte '\\udcff'"]),
        ([DIGITS, "--step=latest\n"], ["--step='latest\\n' holds the control character"]),
        (
            ["--config=configs/cifar10.py", "--config.data.dir=~nobody-here"],
            ["data.dir='~nobody-here': there is no"],
        ),
        # absl would read flags from a file, or wait for a pipe.
        (["--flagfile=/etc/passwd"], ["'--flagfile' is unknown"]),
        ([DIGITS, "--undefok=speed", "--speed=9"], ["'--undefok' is unknown"]),
        # Other runs.
        ([DIGITS, "--config.init_from={tmp}"], ["init_from={tmp}: holds no checkpoint"]),
        ([DIGITS, "--mode=eval"], ["holds no run; train one there first"]),
    ],
    ids=lambda value: ascii(" ".join(value))[1:90] if value and value[0].startswith("--") else "",
)
def test_refused(call, tmp_path, flags, parts):
    def here(texts):
        return [text.replace("{tmp}", str(tmp_path)) for text in texts]

    refused(*call(f"--workdir={tmp_path}/run", *here(flags)), *here(parts))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sweep", "papers", "analysis", "describe", "benchmark", "papers.measured"])
def test_every_command_refuses_control_characters(call, tmp_path, name):
    """A path with a line end would write its own lines into a batch script."""
    module = name if name in ("describe", "papers.measured") else f"{name}.__main__"
    command = importlib.import_module(f"resjax.{module}").main
    first = {"papers": ["v1-table6"], "analysis": ["curves"]}.get(name, [])
    for text in (f"{tmp_path}/a\nb", f"{tmp_path}/a\0b", f"{tmp_path}/\x85"):
        refused(*call(*first, f"--workdir={text}", command=command), "holds the control character")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_config_is_checked_too(call, copy):
    """It may have been edited."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"total_epochs": float("inf"), "total_steps": None}))
    refused(*call("--mode=eval", f"--workdir={copy}"), "total_epochs=inf: must be a finite number")


def test_a_name_of_an_old_run_may_have_been_a_path(call, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"name": "mine/first"}))
    code, _, err = call("--mode=eval", f"--workdir={copy}")
    assert code == 0, err


@pytest.mark.parametrize(
    "flags",
    [
        ["--config=configs/digits.py:v1-21"],
        [DIGITS, "--config.optimizer.lerning_rate=1"],
        [DIGITS, "--config.mesh.data=3", "--devices=2"],
        ["--config=configs/cifar10.py", "--config.data.dir={tmp}"],
    ],
    ids=["depth", "field", "mesh", "data"],
)
def test_refused_in_a_process_of_its_own(run, tmp_path, flags):
    done = run(*(flag.replace("{tmp}", str(tmp_path)) for flag in flags), f"--workdir={tmp_path}/run")
    refused(done.returncode, done.stdout, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_workdir_of_another_run(call, rich, copy):
    """All differences are listed at once."""
    before = snapshot(copy)
    code, out, err = call(*rich, f"--workdir={copy}", "--config.seed=5", "--config.batch_size=64")
    refused(code, out, err, "holds another run", "seed: 0 there, 5 here", "batch_size: 32 there, 64 here")
    code, out, err = call(*rich, f"--workdir={copy}", "--config.model.widths=8,16", "--mode=eval")
    refused(
        code,
        out,
        err,
        "--mode=eval evaluates the run as it was trained",
        "model.widths: [4, 8] there, [8, 16] here",
    )
    assert snapshot(copy) == before


def test_workdir_with_other_things(call, tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    refused(*call(DIGITS, f"--workdir={tmp_path}"), "is not a resjax run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    refused(*call(DIGITS, f"--workdir={tmp_path}/thesis.tex"), "is not a resjax run")
    refused(*call(DIGITS, f"--workdir={tmp_path}/thesis.tex/run"), "is not writable")
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


DAMAGED = (b"", b"{", b"null", b"{}", b"[]", b"5", b'"text"', b"\xff\xfe", b"[" * 10**5)


def test_damaged_config(call, rich, copy):
    """Whether it is trained on, evaluated or drawn."""
    config = json.loads((copy / "config.json").read_text())
    wrong = [{**config, "model": 5}, {**config, "batch_size": None}, {**config, "seed": "0"}]
    for content in (*DAMAGED, *(json.dumps(value).encode() for value in wrong)):
        (copy / "config.json").write_bytes(content)
        before = snapshot(copy)
        refused(*call(*rich, f"--workdir={copy}"), "config.json")
        refused(*call(f"--workdir={copy}", "--mode=eval"), "config.json")
        refused(*call("curves", f"--workdir={copy}", command=analysis.main), "config.json")
        assert snapshot(copy) == before


def test_a_damaged_summary_is_written_again(call, rich, copy, whole):
    """The state is in the checkpoints."""
    sound = json.loads((whole / "summary.json").read_text())
    wrong = [{**sound, "steps": "90"}, {**sound, "seconds": None}, {**sound, "state_digest": 1}, {"steps": 90}]
    for content in (*DAMAGED, *(json.dumps(value).encode() for value in wrong)):
        (copy / "summary.json").write_bytes(content)
        code, _, err = call(*rich, f"--workdir={copy}", "--config.mesh.data=1")
        assert code == 0, err
        assert "resumed  from step 90\n" in err
        again = json.loads((copy / "summary.json").read_text())
        same = [key for key in sound if "second" not in key and key != "device"]
        assert {key: again[key] for key in same} == {key: sound[key] for key in same}


def test_missing_curves_are_drawn_again(call, rich, copy, whole):
    shutil.copy(whole / "summary.json", copy)
    flags = (*rich, f"--workdir={copy}", "--config.mesh.data=1")
    for content in (None, b""):
        (copy / "curves.png").unlink()
        if content is not None:
            (copy / "curves.png").write_bytes(content)
        code, _, err = call(*flags)
        assert (code, f"{copy} is finished: 90 steps" in err) == (0, True)
        assert (copy / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    before = snapshot(copy)
    assert call(*flags)[0] == 0
    assert snapshot(copy) == before


def test_damaged_lines_in_the_metrics(call, rich, copy, whole):
    """What is good stays, whatever stands beside it; what is not a run's own stays too, to the byte."""
    path = copy / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    strange = [
        b"\n",
        b"\0" * 100 + b"\n",
        b"\xff\xfegarbage\n",
        b"5\n",
        b"[1]\n",
        b"{}\n",
        b'{"note": "by hand"}\n',
        b'{"step": "x", "split": "train", "loss": 0}\n',
        b'{"step": 7, "split": "own"}\n',
        b'{"step": 300, "gpu": 0.5}\n',
        b'{"step": 8, "split": "test", "accuracy": "?"}\n',
    ]
    content = b"".join([lines[0], *strange[:6], *lines[1:20], *strange[6:], *lines[20:]])
    path.write_bytes(content + b'{"step": 90, "spl')
    code, _, err = call(*rich, f"--workdir={copy}", "--config.mesh.data=1")
    assert code == 0, err
    assert err.count(f"{path}: 4 damaged lines are skipped\n") == 2  # by the run, and by its curves
    assert path.read_bytes() == content
    found, expected = (curves.read(workdir) for workdir in (copy, whole))
    assert found == expected
    # Steps that are trained again are written again, once.
    shutil.rmtree(copy / "checkpoints" / "90")
    (copy / "summary.json").unlink()
    code, _, err = call(*rich, f"--workdir={copy}", "--config.mesh.data=1")
    assert code == 0, err
    left = path.read_bytes().splitlines(keepends=True)
    assert left[: 20 + len(strange)] == content.splitlines(keepends=True)[: 20 + len(strange)]
    assert len(left) == len(content.splitlines())
    assert curves.read(copy) == expected


def test_workdir_that_cannot_be_made(call):
    if sys.platform == "linux":
        code, out, err = call(DIGITS, "--workdir=/proc/run", "--config.total_steps=100")
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith("error: workdir=/proc/run is not writable")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (0o555, " is not writable: no permission to write in {folder}"),
        (0o700, ": no permission to look into it; choose another --workdir"),
    ],
)
def test_workdir_of_somebody_else(tmp_path, mode, message):
    """Permissions do not stop root, so another user asks."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=mode)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    program = (
        "import os, sys, pathlib, ml_collections; from resjax import config, main, cli\n"
        "os.setuid(65534)\n"
        "try: main.check_workdir(pathlib.Path(sys.argv[1]), config.default())\n"
        "except ValueError as error: sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, folder / "run"], capture_output=True, text=True)
    assert f"workdir={folder / 'run'}{message.format(folder=folder)}" in done.stderr
    assert done.returncode == 1
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def tiny_cifar(tmp_path_factory):
    """A CIFAR-10 of 64 training images in the published layout, prepared."""
    folder, data = tmp_path_factory.mktemp("source") / "cifar-10-batches-bin", tmp_path_factory.mktemp("data")
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"class{i}" for i in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names))
    for file in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(0, 256, (16, 1 + published.PIXELS), np.uint8)
        records[:, 0] = np.arange(16) % 10
        (folder / file).write_bytes(records.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        small = dataclasses.replace(published.PUBLISHED["cifar10"], records={"train": 16, "test": 16})
        patch.setitem(published.PUBLISHED, "cifar10", small)
        published.prepare("cifar10", folder, data)
    return data


@pytest.fixture
def cifar(tiny_cifar, tmp_path):
    """A copy of it that the test may damage, and the flags that train on it."""
    shutil.copytree(tiny_cifar, tmp_path / "data")
    fields = "model.units=1 model.widths=4 model.stem_width=4 model.bn_group=8 batch_size=16 total_steps=4"
    flags = ("--config=configs/cifar10.py", f"--config.data.dir={tmp_path}/data", f"--workdir={tmp_path}/run")
    return next((tmp_path / "data").rglob("dataset_info.json")).parent, (
        *flags,
        *(f"--config.{field}" for field in fields.split()),
        "--config.schedule.drop_steps=2,3",
    )


def test_prepared_set_trains(call, cifar, tmp_path):
    _, flags = cifar
    code, _, err = call(*flags)
    assert code == 0, err
    assert "cifar10: 80 training, 0 validation, 16 test images of 32 x 32 x 3" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4


def test_corrupted_record(call, cifar, tmp_path):
    folder, flags = cifar
    shard = next(folder.glob("*train.array_record*"))
    data = bytearray(shard.read_bytes())
    for at in range(len(data) // 3, len(data) // 2):
        data[at] ^= 255
    shard.write_bytes(data)
    refused(*call(*flags), "data.name='cifar10': record ", "is corrupted", "prepare the set again")
    assert not (tmp_path / "run").exists()


def test_label_out_of_range(call, cifar, tmp_path):
    folder, flags = cifar
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "5"
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").write_text("\n".join(f"class{i}" for i in range(5)))
    refused(*call(*flags, "--config.model.num_classes=5"), "record ", "has label ", "outside its 5 classes")
    assert not (tmp_path / "run").exists()
