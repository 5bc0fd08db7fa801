"""`python -m resjax.weights`, and runs that begin with weights of other libraries."""

import dataclasses
import json
import shutil
from contextlib import closing

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from resjax import evaluate
from resjax.analysis import __main__ as analysis
from resjax.analysis.runs import OpenedRun
from resjax.cli import load
from resjax.config import default
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.models.published import imagenet
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.train.adopt import adopt
from resjax.train.checkpoint import Checkpoints
from resjax.train.initialize import check_source, initialize_from, normalizes_otherwise
from resjax.train.step import TrainState
from resjax.weights import __main__ as command
from resjax.weights import architectures, export, hub, names, preprocessing, source, tensors
from resjax.weights.card import Trained
from tests.weights.conftest import FIXTURES, NETWORKS

pytestmark = pytest.mark.usefixtures("quick_compilation")

HF = FIXTURES / "transformers_v1"
TINY = ("--config.model.units=1,2", "--config.model.widths=4,6", "--config.model.stem_width=4")


@pytest.fixture
def weights(call):
    """Runs the command: what it says on stdout and stderr."""

    def run(*flags):
        code, out, err = call(*flags, command=command.main)
        assert code == 0, err
        return out, err

    return run


@pytest.fixture
def imported(weights, tmp_path):
    """A run made of the tiny network of transformers that strides on the 1x1."""
    weights("import", HF, f"--workdir={tmp_path}/run")
    return tmp_path / "run"


def saved(workdir):
    with closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.weights(0), checkpoints.meta(0)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_show(weights):
    out, _ = weights("show", HF)
    assert "74 arrays of float32, int64" in out
    assert "bottleneck units (1, 2) of widths (8, 16), stride on the 1x1; 5 classes, 3 channels" in out
    assert "short side 40, centre 35, bicubic; less 123.68 116.28 103.53, over 58.40 57.12 57.38" in out
    assert "kind 0, kind 1" in out
    assert "num_batches_tracked of 12 BN layers is left out" in out
    out, _ = weights("show", FIXTURES / "torchvision_grouped.pth")
    assert "names     timm, and torchvision\nnetwork   the file does not say; none published fits" in out
    assert "of its entries only 'state_dict' is taken" in out


@pytest.fixture
def photos(tmp_path):
    """A photo of each class, of the size that is cropped, not resized: uint8 [5, 40, 40, 3], in tmp_path/photos."""
    photos = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8)
    for split in ("train", "val"):
        for i, photo in enumerate(photos):
            folder = tmp_path / "photos" / split / f"kind {i}"
            folder.mkdir(parents=True)
            Image.fromarray(photo).save(folder / "x.png")
            Image.fromarray(photo[::-1]).save(folder / f"{split}.png") if split == "train" else None
    return photos


def test_an_imported_run_is_evaluated_as_its_library_would(imported, photos, call, tmp_path):
    """Of photos that are not resized only the centre is normalised."""
    flags = (f"--config.data.dir={tmp_path}/photos", "--config.batch_size=8", "--config.data.test_split=val")
    judged = []
    for workdir in (imported, HF):  # the file itself, too
        out = tmp_path / f"{len(judged)}.json"
        code, _, err = call(f"--workdir={workdir}", *flags, f"--out={out}", command=evaluate.main)
        assert code == 0, err
        judged.append(json.loads(out.read_text()))
    found, meta = saved(imported)
    inside = (photos[:, 2:37, 2:37] - np.float32([123.675, 116.28, 103.53])) / np.float32([58.395, 57.12, 57.375])
    logits = jax.jit(ResNet(NETWORKS["transformers_v1"][1]).apply)(found, inside.astype(np.float32))
    loss = -np.asarray(jax.nn.log_softmax(logits))[np.arange(5), np.arange(5)].mean()
    assert judged[0]["loss"] == pytest.approx(loss, rel=1e-4)
    (of_run,), (of_file,) = (each.pop("runs") for each in judged)
    assert judged[0] == judged[1]
    assert of_file == of_run | {"workdir": str(HF)}
    assert of_file["weights_digest"] == meta["weights_digest"]
    assert meta["preprocessing"]["class_names"] == [f"kind {i}" for i in range(5)]
    assert len(meta["origin"]["sha256"]) == 64
    data = meta["config"]["data"]
    assert [data[field] for field in ("image_size", "crop_share", "interpolation")] == [35, 0.875, "bicubic"]


def test_an_imported_run_is_looked_into_as_it_is(imported):
    """Not as a run is that starts from fresh weights, although it has taken no step."""
    opened = OpenedRun.open(imported)
    assert (opened.find(None), opened.find("0")) == (0, 0)
    same(jax.device_get(opened.variables(0)), saved(imported)[0])


@pytest.mark.usefixtures("photos")
def test_a_file_is_looked_into_as_the_run_that_is_made_of_it(imported, call, tmp_path):
    found = []
    for workdir in (imported, HF):
        out = tmp_path / f"analysis{len(found)}"
        data = (f"--config.data.dir={tmp_path}/photos", "--config.batch_size=8")
        flags = (f"--workdir={workdir}", *data, "--images=10", f"--out={out}")
        code, _, err = call("branches", *flags, command=analysis.main)
        assert code == 0, err
        found.append(json.loads((out / "branches.json").read_text()))
    assert found[0]["run"] == found[1][HF.name]
    assert list(HF.iterdir()) == [path for path in HF.iterdir() if path.suffix in (".json", ".safetensors")]


@pytest.mark.usefixtures("photos")
def test_files_of_one_name_are_looked_into_together(call, tmp_path):
    for folder in ("a", "b"):
        shutil.copytree(HF, tmp_path / folder / HF.name)
    data = (f"--config.data.dir={tmp_path}/photos", "--config.batch_size=8", "--images=10", f"--out={tmp_path}/out")
    workdirs = (f"--workdir={tmp_path / folder / HF.name}" for folder in ("a", "b"))
    code, _, err = call("branches", *workdirs, *data, command=analysis.main)
    assert code == 0, err
    one, other = json.loads((tmp_path / "out" / "branches.json").read_text()).values()
    assert one == other


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (
            ("branches", f"--workdir={FIXTURES}/torchvision.pth"),
            "torchvision.pth does not say which network it is of",
        ),
        (("branches", f"--workdir={HF}", "--arch=v1-18"), "says another network: model.units=(2, 2, 2, 2)"),
        (("branches", "--workdir=RUN", "--arch=v1-18"), "--arch=v1-18 is for files of weights, and --workdir="),
        (("branches", "--workdir=RUN", "--config.model.width=2"), "--config.model.width is unknown"),
        (
            ("branches", "--workdir=RUN", "--config.seed=2"),
            "this command evaluates the run as it was trained: seed",
        ),
        (("curves", f"--workdir={HF}"), f"--workdir={HF} is a file of weights, and curves are of a training"),
        (("decay", "--arch=v1-18"), "--arch=v1-18: decay looks into no run; leave it out"),
        (("decay", "--config.data.dir=x"), "--config.data.dir=x: decay looks into no run; leave it out"),
    ],
)
def test_what_analysis_does_not_take_of_files(imported, call, flags, error):
    flags = [flag.replace("RUN", str(imported)) for flag in flags]
    code, out, err = call(*flags, command=analysis.main)
    assert (code, out) == (2, "")
    assert error in err.splitlines()[-1]


@pytest.mark.parametrize("form", ["huggingface", "resjax"])
def test_out_and_in_changes_no_bit(weights, imported, tmp_path, form):
    weights("export", f"--workdir={imported}", f"--format={form}", f"--out={tmp_path}/out")
    weights("export", f"--workdir={HF}", f"--format={form}", f"--out={tmp_path}/direct")  # the file itself
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "direct" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()
    weights("import", tmp_path / "out", f"--workdir={tmp_path}/again")
    (one, first), (other, second) = saved(imported), saved(tmp_path / "again")
    same(one, other)
    assert first["weights_digest"] == second["weights_digest"]
    assert first["preprocessing"] == second["preprocessing"]
    assert first["config"]["model"] == second["config"]["model"]
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        first["weights_digest"],
        "model.safetensors",
        first["origin"]["sha256"],
        "kind 0",
        "resjax.weights export",
    ):
        assert part in card
    if form == "huggingface":
        there, _ = tensors.read(HF / "model.safetensors")
        back, metadata = tensors.read(tmp_path / "out" / "model.safetensors")
        assert (back.keys(), metadata) == (there.keys(), {"format": "pt"})
        for name in there:
            if not name.endswith(names.COUNTER):
                np.testing.assert_array_equal(there[name], back[name])
        ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", HF))
        shared = ours.keys() & theirs.keys() - {"label2id"}  # which transformers itself leaves as it was
        assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
        assert {"hidden_sizes", "depths", "downsample_in_bottleneck", "id2label"} <= shared


def test_a_file_that_does_not_say_its_network_or_preprocessing(weights, tmp_path):
    names_file = tmp_path / "names.txt"
    names_file.write_text("a\nb\nc\nd\ne\n")
    flags = (
        "--arch=v1.5-18",
        *TINY,
        "--image_size=35",
        "--crop_share=1",
        "--mean=0.5,0.5,0.5",
        "--interpolation=bicubic",
    )
    _, err = weights(
        "import", FIXTURES / "torchvision.pth", f"--workdir={tmp_path}/run", *flags, f"--class_names={names_file}"
    )
    assert "the file does not say its preprocessing: torchvision's is taken" in err
    found, meta = saved(tmp_path / "run")
    same(
        found,
        names.variables(NETWORKS["torchvision.pth"][1], "timm", source.open(FIXTURES / "torchvision.pth").tensors),
    )
    own = Preprocessing.from_json(meta["preprocessing"])
    assert (own.size, own.crop_share, own.interpolation, own.class_names) == (35, 1.0, "bicubic", tuple("abcde"))
    np.testing.assert_array_equal(own.mean, np.float32([127.5] * 3))


def test_the_architectures_that_fit_are_listed():
    """Not v1-50 alone, nor v1.5-50: the arrays are the same."""
    rows = names.rows(imagenet("v1.5-50"), "timm")
    shapes = {row.name: row.there for row in rows} | {"fc.weight": (7, 2048), "fc.bias": (7,)}
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    found = source.Weights(HF, arrays, "timm", None, None, ())
    assert found.fitting() == ["v1-50", "v1.5-50"]
    with pytest.raises(BadInput, match=r"fits v1-50 or v1\.5-50: give --arch=v1\.5-50; v1 strides on the 1x1"):
        found.network(None)
    assert found.network(imagenet("v1-50")) == dataclasses.replace(imagenet("v1-50"), num_classes=7)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "a command is missing"),
        (["shw", "x"], "did you mean show?"),
        (["show"], "the file is missing"),
        (["show", "nothing.pth"], "nothing.pth: there is no such file or folder"),
        (["show", "configs/digits.py"], "neither safetensors nor a zip archive"),
        (["show", HF, "--arch=v1-18"], "--arch is unknown"),
        (["import", HF], "--workdir is missing"),
        (["import", HF, "--workdir=configs"], "--workdir=configs is there already"),
        (["import", HF, "--workdir={tmp}/r", "--arch=v1.5-18"], "says another network: model.units="),
        (
            ["import", HF, "--workdir={tmp}/r", "--config.model.stride_on=3x3"],
            "says another network: model.stride_on=3x3",
        ),
        (["import", HF, "--workdir={tmp}/r", "--mean=1,2"], "cannot be|channels"),
        (["import", HF, "--workdir={tmp}/r", "--mean=a"], "--mean=a: must be numbers"),
        (["import", HF, "--workdir={tmp}/r", "--crop_share=2"], "crop_share=2.0"),
        (
            ["import", HF, "--workdir={tmp}/r", "--class_names=nothing.txt"],
            "--class_names=nothing.txt cannot be read",
        ),
        (["import", HF, "--workdir={tmp}/r", "--class_names=LICENSE"], "and the weights have 5 classes"),
        (
            ["import", HF, "--workdir={tmp}/r", "--config=configs/digits.py"],
            "the config of the run or the file itself",
        ),
        (["import", FIXTURES / "torchvision.pth", "--workdir={tmp}/r"], "fits no published network: give --arch="),
        (
            ["import", FIXTURES / "torchvision.pth", "--workdir={tmp}/r", "--arch=v1.5-18"],
            "does not fit the network: ",
        ),
        (["import", FIXTURES / "torchvision.pth", "--workdir={tmp}/r", "--arch=v1.5-51"], "nearest: v1.5-50"),
        (["export", "--workdir={tmp}"], "--format is missing"),
        (["export", "--workdir={tmp}", "--format=timm", "--out={tmp}/out"], "holds no run; train one there first"),
        (["export", "--workdir={tmp}", "--format=timm", "--out=configs"], "--out=configs is there already"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(call, tmp_path, flags, says):
    code, out, err = call(*(str(flag).replace("{tmp}", str(tmp_path)) for flag in flags), command=command.main)
    *notes, last = err.splitlines()
    assert (code, out) == (2, ""), err
    assert last.startswith("error: ")
    assert any(part in last for part in says.split("|"))
    assert all(note.startswith("note ") for note in notes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([f"--workdir={HF}", "--weights=best"], f"--weights=best is for runs, and --workdir={HF} is none"),
        ([f"--workdir={HF}", "--arch=v1-18"], "says another network: model.units="),
        ([f"--workdir={HF}", "--config.model.stride_on=3x3"], "model.stride_on: '1x1' there, '3x3' here"),
        ([f"--workdir={FIXTURES}/torchvision.pth"], "does not say which network it is of"),
        (["--workdir=hf://tiny"], "is no address on the Hub"),
        (
            ["--workdir=configs", "--arch=v1-18"],
            "--arch=v1-18 is for files of weights, and --workdir=configs is none",
        ),
    ],
)
def test_a_file_that_cannot_be_evaluated(call, flags, says):
    code, out, err = call(*flags, command=evaluate.main)
    assert (code, out) == (2, "")
    assert says in err.splitlines()[-1]


def test_weights_without_names_are_not_evaluated_on_other_classes(call, tmp_path):
    shutil.copytree(HF, tmp_path / "in")
    path = tmp_path / "in" / "config.json"
    labels = {str(i): f"LABEL_{i}" for i in range(5)}  # as transformers says that there are none
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": labels}))
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / name / "x.png")
    code, out, err = call(f"--workdir={tmp_path}/in", f"--config.data.dir={tmp_path}/photos", command=evaluate.main)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        f"error: {tmp_path}/in has 5 classes, data.name='folder' has 2: take a set"
    )
    assert "configs/finetune.py" in err


def test_a_process_of_its_own(run, tmp_path):
    shutil.copytree(HF, tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    done = run("import", tmp_path / "in", f"--workdir={tmp_path}/run", module="resjax.weights")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert not (tmp_path / "run").exists()


def test_what_a_format_cannot_say_is_refused(imported, call, tmp_path):
    for form in ("timm", "torchvision"):
        flags = (f"--workdir={imported}", f"--format={form}", f"--out={tmp_path}/out")
        code, _, err = call("export", *flags, command=command.main)
        assert (code, err.count("\n")) == (2, 1)
        assert f"--format={form}: {form} has no network with model.stride_on=1x1, only 3x3" in err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50d", "resnext50_32x4d", "seresnet50", "resnetv2_50", "resnetv2_50d"]
)
def test_timms_config_goes_out_and_in(name):
    own = dataclasses.replace(preprocessing.torchvision(), class_names=("a", "b"))
    spec = dataclasses.replace(architectures.of_timm({"architecture": name}, ""), num_classes=2)
    run = Trained(default(spec), 0, "last", "", {}, None, "")
    config = export.config_files("timm", "--format=timm", spec, own, run)["config.json"]
    assert (config["architecture"], config["num_classes"], config["num_features"]) == (name, 2, spec.widths[-1])
    assert config["pretrained_cfg"]["pool_size"] == [7, 7]
    there = {row.name for row in names.rows(spec, "timm")}
    assert {config["pretrained_cfg"][field] + ".weight" for field in ("first_conv", "classifier")} <= there
    assert preprocessing.of_timm(config, "") == own
    assert architectures.difference(architectures.of_timm(config, ""), spec) is None


def test_init_from_a_file(capfd, monkeypatch):
    spec = dataclasses.replace(NETWORKS["transformers_v1"][1], num_classes=3)
    zeros = {row.name: np.zeros(row.there, np.float32) for row in names.rows(spec, "resjax")}
    weights = jax.device_put(names.variables(spec, "resjax", zeros))
    fresh = TrainState(np.int32(0), **weights, opt_state=optax.sgd(0.1).init(weights["params"]), ema=weights)
    check_source(str(HF), spec)
    state = initialize_from(str(HF), fresh, spec, preprocessing.torchvision())
    assert capfd.readouterr().err == f"init_from={HF}: its head is for other classes; the head starts fresh\n"
    monkeypatch.setattr(hub, "fetched", {"hf://tiny/resnet": HF}.get)
    halves = Preprocessing(np.float32([127.5] * 3), np.float32([127.5] * 3))
    check_source("hf://tiny/resnet", spec)
    same(initialize_from("hf://tiny/resnet", fresh, spec, halves).batch_stats, state.batch_stats)
    assert "were trained with another mean or deviation of images" in capfd.readouterr().err
    assert normalizes_otherwise(halves, Preprocessing(np.zeros((8, 8, 3), np.float32), np.float32(1)))
    there = source.open(HF).variables(NETWORKS["transformers_v1"][1])
    same(
        {k: v for k, v in state.params.items() if k != "head"},
        {k: v for k, v in there["params"].items() if k != "head"},
    )
    same((state.params["head"], state.opt_state), (fresh.params["head"], fresh.opt_state))
    same(state.batch_stats, there["batch_stats"])
    same(state.ema, {"params": state.params, "batch_stats": state.batch_stats})


def test_a_run_of_resjax_keeps_its_recipe(weights, tmp_path):
    """With what no other library has: option A, images as they are stored, a mean image, an average of weights."""
    spec = Spec(units=(1, 1), widths=(4, 8), stem_width=4, input_size=8, input_channels=1)
    rows, rng = names.rows(spec, "resjax"), np.random.default_rng(0)
    arrays = {row.name: rng.random(row.there).astype(np.float32) for row in rows}
    own = Preprocessing(rng.random((8, 8, 1)).astype(np.float32), np.float32(3), class_names=tuple("0123456789"))
    config = load(["--config=configs/digits.py", "--config.total_steps=7", "--config.ema.decay=0.5"])
    config.model.update(dataclasses.asdict(spec))
    config.data.update(image_size=own.size, interpolation=own.interpolation, crop_share=own.crop_share)
    adopt(tmp_path / "run", config, names.variables(spec, "resjax", arrays), own, {"file": "x.pth", "sha256": "0"})
    with pytest.raises(BadInput, match="is there already: give a new folder"):
        adopt(tmp_path / "run", config, {}, own, {})
    flags = ("--format=resjax", "--weights=ema", f"--out={tmp_path}/out")
    weights("export", f"--workdir={tmp_path}/run", *flags)
    assert (
        "network   depth 6, basic units (1, 1) of widths (4, 8); 10 classes" in weights("show", tmp_path / "out")[0]
    )
    weights("import", tmp_path / "out", f"--workdir={tmp_path}/again")
    (one, first), (other, second) = saved(tmp_path / "run"), saved(tmp_path / "again")
    same(one, other)
    assert first["config"] == second["config"]
    assert first["preprocessing"] == second["preprocessing"]
    with closing(Checkpoints(tmp_path / "again")) as checkpoints:
        same(checkpoints.weights(0, averaged=True), one)


@pytest.mark.parametrize(
    ("file", "fields", "says"),
    [
        ("transformers_v1", {"stride_on": "3x3"}, "says another network: model.stride_on=3x3"),
        ("torchvision_grouped.pth", {"stride_on": "1x1"}, "timm has no network with model.stride_on=1x1"),
        ("torchvision_grouped.pth", {"groups": 2}, "does not fit the network: 2 of another shape"),
        ("timm_d.safetensors", {"shortcut_pool": False}, "does not fit the network: "),
        ("torchvision.pth", {"shortcut": "A"}, "timm has no network with model.shortcut=A"),
    ],
)
def test_init_from_weights_of_another_network_is_refused(file, fields, says):
    with pytest.raises(BadInput, match=says):
        check_source(str(FIXTURES / file), dataclasses.replace(NETWORKS[file][1], **fields))
