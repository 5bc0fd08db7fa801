"""Networks at their published size beside torchvision, timm, transformers and Keras, where these are installed.

Random weights and statistics, a third of BN's scales negative.
"""

import dataclasses

import jax
import numpy as np
import pytest

from resjax.config import default
from resjax.models.published import imagenet
from resjax.models.resnet import ResNet
from resjax.weights import architectures, export, names, preprocessing, source, tensors
from resjax.weights.card import Trained

# What these libraries warn of is their own affair.
pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.filterwarnings("ignore")]

SIDE = 65
CLOSE = 1e-5  # of the largest logit


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(1, SIDE, SIDE, 3)).astype(np.float32)


def said(model, images):
    """The logits of a network of PyTorch."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return getattr(found, "logits", found).numpy()


def randomised(model):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            sign = 1 - 2.0 * (torch.rand_like(module.weight) < 1 / 3)
            module.weight.data = sign * (0.5 + torch.rand_like(module.weight))
            module.bias.data = torch.randn_like(module.bias) / 2
            module.running_mean = torch.randn_like(module.running_mean) / 2
            module.running_var = 0.5 + torch.rand_like(module.running_var)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return model


def assert_same(spec, library, model, images):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    variables = names.variables(spec, library, state)
    here, there = jax.jit(ResNet(spec).apply)(variables, images), said(model, images)
    assert np.abs(here - there).max() <= CLOSE * np.abs(there).max()
    back = names.tensors(spec, library, variables)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[name], state[name]) for name in back if not name.endswith(names.COUNTER))


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet18d", "resnet50d"),
        *("wide_resnet50_2", "resnext50_32x4d", "seresnet50", "resnetv2_18", "resnetv2_50", "resnetv2_50d"),
    ],
)
def test_networks_of_timm(name, images):
    timm = pytest.importorskip("timm")
    spec = architectures.of_timm({"architecture": name}, name)
    assert_same(spec, "timm", randomised(timm.create_model(name)), images)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *((f"resnet{depth}", f"v1.5-{depth}") for depth in (18, 34, 50, 101, 152)),
        ("wide_resnet50_2", "wide-50-2"),
        ("resnext50_32x4d", "resnext-50-32x4d"),
    ],
)
def test_networks_of_torchvision_in_and_out(theirs, ours, images, tmp_path):
    """In from what `torch.save` wrote, and out into a network that refuses what is missing or too much."""
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    model = randomised(torchvision.models.get_model(theirs))
    torch.save(model.state_dict(), tmp_path / "x.pth")
    weights = source.open(tmp_path / "x.pth")
    assert ours in weights.fitting()
    spec = weights.network(imagenet(ours))
    variables = weights.variables(spec)
    here, there = jax.jit(ResNet(spec).apply)(variables, images), said(model, images)
    assert np.abs(here - there).max() <= CLOSE * np.abs(there).max()
    run = Trained(default(spec), 1, "last", "", {}, None, "")
    export.export("torchvision", spec, variables, preprocessing.torchvision(), run, tmp_path / "out")
    arrays, _ = tensors.read(tmp_path / "out" / "model.safetensors")
    again = torchvision.models.get_model(theirs)
    again.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    np.testing.assert_array_equal(said(again, images), there)


@pytest.mark.parametrize("in_bottleneck", [False, True])
def test_networks_of_transformers(in_bottleneck, images):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(num_labels=1000, downsample_in_bottleneck=in_bottleneck)
    spec = architectures.of_transformers(config.to_dict(), "config.json")
    assert spec == imagenet("v1-50" if in_bottleneck else "v1.5-50")
    assert_same(spec, "transformers", randomised(transformers.ResNetForImageClassification(config)), images)


@pytest.fixture
def resnet_of_keras(monkeypatch):
    """Makes one of seven classes, of a depth."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    fields = {"weights": None, "input_shape": (SIDE, SIDE, 3), "classes": 7, "classifier_activation": None}
    return lambda depth: getattr(keras.applications, f"ResNet{depth}")(**fields)


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_layers_of_keras(depth, resnet_of_keras):
    there = {variable.path: variable.shape for variable in resnet_of_keras(depth).variables}
    spec = dataclasses.replace(imagenet(f"v1-{depth}"), num_classes=7)
    biases = {name for name in there if name.endswith("_conv/bias")}
    assert there.keys() - biases == {row.name for row in names.rows(spec, "keras")}
    assert all(there[row.name] == row.there for row in names.rows(spec, "keras"))


def test_logits_of_keras_from_a_file_that_it_wrote(resnet_of_keras, tmp_path):
    """With its own preprocessing."""
    preprocessed = pytest.importorskip("keras").applications.resnet.preprocess_input
    model, rng = resnet_of_keras(50), np.random.default_rng(0)
    for variable in model.variables:
        kind, shape = variable.path.rpartition("/")[2], variable.shape
        sign = np.where(rng.uniform(size=shape) < 1 / 3, -1, 1) if kind == "gamma" else 1
        if kind in ("gamma", "moving_variance"):
            values = sign * rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(size=shape) * (np.prod(shape[:-1]) ** -0.5 if kind == "kernel" else 0.5)
        variable.assign(values.astype(np.float32))
    model.save(tmp_path / "x.h5")
    weights = source.open(tmp_path / "x.h5")
    spec, own = weights.network(None), weights.preprocessing
    assert spec == dataclasses.replace(imagenet("v1-50"), num_classes=7)
    pixels = rng.integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.float32)
    here = jax.jit(ResNet(spec).apply)(weights.variables(spec), (pixels - own.mean) / own.std)
    there = np.asarray(model(preprocessed(pixels.copy()), training=False))
    assert np.abs(here - there).max() <= CLOSE * np.abs(there).max()


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("timm", "v1.5-18"),
        ("timm", "v1.5-18-d"),
        ("timm", "v2-18-raw"),
        ("huggingface", "v1.5-18"),
        ("huggingface", "v1-50"),
    ],
)
def test_exports_load_there(form, name, images, tmp_path):
    library = pytest.importorskip({"huggingface": "transformers"}.get(form, form))
    spec, rng = dataclasses.replace(imagenet(name), num_classes=3), np.random.default_rng(0)
    arrays = {row.name: rng.uniform(0.5, 1.5, row.there) for row in names.rows(spec, "resjax")}
    arrays |= {
        key: rng.normal(size=array.shape) / np.sqrt(np.prod(array.shape[:-1]))
        for key, array in arrays.items()
        if key.endswith("kernel")
    }
    variables = names.variables(spec, "resjax", arrays)
    own = dataclasses.replace(preprocessing.torchvision(), class_names=("a", "b", "c"))
    run = Trained(default(spec), 1, "last", "", {}, None, "")
    export.export(form, spec, variables, own, run, tmp_path / "out")
    if form == "timm":
        model = library.create_model(f"local-dir:{tmp_path}/out", pretrained=True)
        assert {key: model.pretrained_cfg[key] for key in ("crop_pct", "num_classes")} == {
            "crop_pct": 0.875,
            "num_classes": 3,
        }
    else:
        model = library.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
        assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    here, there = jax.jit(ResNet(spec).apply)(variables, images), said(model, images)
    assert np.abs(here - there).max() <= CLOSE * np.abs(there).max()
    found = source.open(tmp_path / "out")
    assert architectures.difference(found.network(None), spec) is None
    assert found.preprocessing == own
