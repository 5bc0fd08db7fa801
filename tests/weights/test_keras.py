"""Files of Keras' ResNets: the same logits as by Keras' own definition, and hostile files refused in one line.

The files are written here as Keras lays them out; `test_libraries.py` has Keras write one where it is installed.
"""

import sys

import jax
import numpy as np
import pytest
from PIL import Image

import resjax
from resjax.errors import BadInput
from resjax.models.published import imagenet
from resjax.models.resnet import ResNet
from resjax.weights import __main__ as command
from resjax.weights import architectures, keras_file, names, preprocessing, source
from resjax.weights.source import Weights

UNITS, WIDTHS, CLASSES = (2, 1), (8, 16), 5
CLOSE = 1e-5  # of the largest logit


@pytest.fixture(scope="module")
def h5py():
    return pytest.importorskip("h5py")


def drawn(classes=CLASSES):
    """Layer -> array -> values, of a small network; some variances so small that the epsilon counts."""
    rng, layers = np.random.default_rng(0), {}

    def conv(name, side, inputs, width):
        kernel = rng.normal(size=(side, side, inputs, width)) / np.sqrt(side * side * inputs)
        layers[f"{name}_conv"] = {"kernel": kernel, "bias": rng.normal(size=width)}
        layers[f"{name}_bn"] = {
            "gamma": rng.normal(size=width),
            "beta": rng.normal(size=width),
            "moving_mean": rng.normal(size=width),
            "moving_variance": np.where(rng.uniform(size=width) < 0.3, 1e-6, rng.uniform(0.5, 1, width)),
        }

    conv("conv1", 7, 3, 4)
    before = 4
    for stage, (units, width) in enumerate(zip(UNITS, WIDTHS, strict=True), 2):
        for unit in range(1, units + 1):
            at, inner = f"conv{stage}_block{unit}", width // 4
            if unit == 1:
                conv(f"{at}_0", 1, before, width)
            conv(f"{at}_1", 1, before, inner)
            conv(f"{at}_2", 3, inner, inner)
            conv(f"{at}_3", 1, inner, width)
            before = width
    layers["predictions"] = {"kernel": rng.normal(size=(before, classes)), "bias": rng.normal(size=classes)}
    return {layer: {key: np.float32(value) for key, value in arrays.items()} for layer, arrays in layers.items()}


def written(h5py, path, layers, whole=False):
    """The file as Keras 2 wrote weights, or as Keras 3 writes a whole model."""
    with h5py.File(path, "w") as file:
        top = file.create_group("model_weights") if whole else file
        top.attrs["layer_names"] = [layer.encode() for layer in layers]
        top.create_group("conv1_pad")  # layers without arrays have groups, too
        for layer, arrays in layers.items():
            for name, array in arrays.items():
                top[f"{layer}/{layer}/{name}{'' if whole else ':0'}"] = array
        if whole:
            file["optimizer_weights/iterations"] = np.int64(3)
    return path


@pytest.fixture
def file(h5py, tmp_path):
    return written(h5py, tmp_path / "small.h5", drawn())


def by_keras(layers, images):
    """Logits of keras.applications.ResNet, written out in float64, from RGB pixels of 0 to 255."""

    def conv(name, x, stride=1, pad=0):
        kernel = np.float64(layers[f"{name}_conv"]["kernel"])
        k = len(kernel)
        padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::stride, ::stride]
        y = np.einsum("nhwcij,ijcd->nhwd", windows, kernel) + layers[f"{name}_conv"]["bias"]
        bn = layers[f"{name}_bn"]
        y = (y - bn["moving_mean"]) / np.sqrt(np.float64(bn["moving_variance"]) + 1.001e-5)
        return y * bn["gamma"] + bn["beta"]

    def relu(x):
        return np.maximum(x, 0)

    x = np.float64(images)[..., ::-1] - [103.939, 116.779, 123.68]  # BGR
    x = relu(conv("conv1", x, 2, 3))
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((4, 5))
    for stage, units in enumerate(UNITS, 2):
        for unit in range(1, units + 1):
            at, stride = f"conv{stage}_block{unit}", 2 if stage > 2 and unit == 1 else 1
            shortcut = conv(f"{at}_0", x, stride) if unit == 1 else x
            y = relu(conv(f"{at}_1", x, stride))
            y = relu(conv(f"{at}_2", y, 1, 1))
            x = relu(shortcut + conv(f"{at}_3", y))
    return x.mean((1, 2)) @ np.float64(layers["predictions"]["kernel"]) + layers["predictions"]["bias"]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("whole", [False, True])
def test_logits_are_those_of_keras_definition(h5py, tmp_path, whole):
    layers = drawn()
    weights = source.open(written(h5py, tmp_path / "x.h5", layers, whole))
    spec = weights.network(None)
    assert (spec.units, spec.widths, spec.stride_on, spec.num_classes) == (UNITS, WIDTHS, "1x1", CLASSES)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 35, 35, 3), np.uint8)
    own = weights.preprocessing
    ours = jax.jit(ResNet(spec).apply)(weights.variables(spec), (pixels - own.mean) / own.std)
    theirs = by_keras(layers, pixels)
    assert np.abs(ours - theirs).max() <= CLOSE * np.abs(theirs).max()


@pytest.mark.usefixtures("quick_compilation")
def test_a_file_is_shown_and_asked(h5py, file, call, tmp_path):
    code, out, err = call("show", file, command=command.main)
    assert code == 0, err
    for part in (
        "names     keras",
        "stride on the 1x1; 5 classes, 3 channels",
        "short side 256, centre 224, bilinear; less 123.68 116.78 103.94, over 1.00 1.00 1.00",
        "note      biases of 12 convolutions are taken off",
        "note      BN's epsilon is 1.001e-05 in Keras",
        "the stem's channels are turned to RGB",
    ):
        assert part in out
    picture = np.random.default_rng(2).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.png")
    logits = by_keras(drawn(), picture[None, 16:240, 16:240])[0]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (found,) = resjax.load(file).predict([tmp_path / "x.png"], top=CLASSES)
    np.testing.assert_allclose([one.probability for one in found], np.sort(expected)[::-1], rtol=1e-3, atol=1e-6)
    assert found[0].label == expected.argmax()


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_the_published_networks_are_known_by_their_layers(depth):
    spec = imagenet(f"v1-{depth}")
    shapes = {row.name: row.there for row in names.rows(spec, "keras")}
    assert architectures.of_keras(shapes, "x") == spec
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    found = Weights("x", arrays, "keras", spec, preprocessing.keras(), ())
    assert found.fitting() == [f"v1-{depth}", f"v1.5-{depth}"]
    with pytest.raises(BadInput, match=r"model\.stride_on=3x3, and these weights are of a network with 1x1"):
        found.for_network(imagenet(f"v1.5-{depth}"))
    assert {"conv5_block3_3_bn/moving_variance", "conv3_block1_0_conv/kernel"} <= shapes.keys()


def test_without_h5py_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "x.h5").write_bytes(keras_file.SIGNATURE + b"\r\n")
    with pytest.raises(BadInput, match=r"x\.h5 is an HDF5 file, which needs h5py: pip install -e '\.\[keras\]'$"):
        source.open(tmp_path / "x.h5")


def read(file):
    weights = source.open(file)
    return weights.variables(weights.network(None))


BIAS = "predictions/predictions/bias:0"


def again(file, name, **how):
    """An array stored in another way."""
    values = file[name][()]
    del file[name]
    return file.create_dataset(name, **({"data": values} | how))


def external(h5py, file):
    file["conv9/conv9"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft(h5py, file):
    file["conv9/kernel:0"] = h5py.SoftLink("/predictions/predictions/bias:0")


def hard(h5py, file):
    file["conv9/kernel:0"] = file[BIAS]


def circle(h5py, file):
    file["predictions/again"] = file["predictions"]


def outside(h5py, file):
    again(file, BIAS, data=None, shape=(CLASSES,), dtype="<f4", external=[("/etc/passwd", 0, 20)])


def virtual(h5py, file):
    layout = h5py.VirtualLayout((CLASSES,), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (CLASSES,))
    del file[BIAS]
    file.create_virtual_dataset(BIAS, layout)


def bomb(h5py, file):
    again(file, BIAS, data=None, shape=(2**40,), dtype="<f4", chunks=(2**20,), compression="gzip")


def never(h5py, file):
    again(file, BIAS, data=None, shape=(2**40,), dtype="<f4")


def kind(h5py, file):
    file["conv9"] = np.dtype("<f4")


def renamed(here, there):
    """A layer by another name."""
    return lambda _, file: file.move(f"{here}/{here}", f"{there}/{there}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (external, "'conv9/conv9' is a link"),
        (soft, "'conv9/kernel:0' is a link"),
        (hard, "comes twice"),
        (circle, "'predictions/again' comes twice"),
        (outside, "is chunked, compressed, virtual or in another file"),
        (virtual, "is chunked, compressed, virtual or in another file"),
        (bomb, "is chunked, compressed, virtual or in another file"),
        (never, r"of shape \[1099511627776\] is not in the file as a whole"),
        (kind, "'conv9' is neither a group nor an array"),
        (lambda _, f: again(f, BIAS, dtype="i4"), "does not hold little-endian floats"),
        (lambda _, f: again(f, BIAS, dtype=">f4"), "does not hold little-endian floats"),
        (lambda h, f: again(f, BIAS, data=None, dtype=h.string_dtype(), shape=(5,)), "does not hold"),
        (lambda _, f: again(f, BIAS, data=None, dtype="<f4"), "no shape"),
        (lambda _, f: f.move(BIAS, "predictions/a\x1b[2Jb"), "holds the control character"),
        (lambda _, f: f.move(BIAS, "predictions/predictions/kernel"), "two arrays are called 'predictions/kernel'"),
        (lambda _, f: f.update({"layers/conv2d/vars/0": np.ones(3, "f4")}), r"a \.weights\.h5.*model\.save"),
        (renamed("predictions", "dense"), r"no layer 'predictions' \(include_top=False\)"),
        (renamed("conv1_bn", "conv2_block1_preact_bn"), "strides in the last unit of a stage"),
        (renamed("conv1_bn", "bn_conv1"), "missing: conv1_bn/gamma.*unexpected: conv1_conv/bias"),
        (renamed("conv2_block1_3_conv", "c"), "is not a ResNet of Keras"),
        (renamed("conv1_conv", "block1_conv1"), "has names that no library known here uses"),
    ],
)
def test_what_is_not_plain_is_refused(h5py, file, change, says):
    with h5py.File(file, "r+") as opened:
        change(h5py, opened)
    with pytest.raises(BadInput, match=says) as error:
        read(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_arrays_that_share_their_bytes_are_refused(h5py, tmp_path):
    """A small file cannot hold many large arrays, although each of them lies in it."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        twins = [file.create_dataset(f"layer/{i}", (1000,), "<f4") for i in range(8)]
        for twin in twins:
            twin[...] = 1
        first, *others = (twin.id.get_offset() for twin in twins)
    content = (tmp_path / "x.h5").read_bytes()
    for place in others:
        content = content.replace(place.to_bytes(8, "little"), first.to_bytes(8, "little"))
    end = others[0]
    content = (
        content[:100].replace(len(content).to_bytes(8, "little"), end.to_bytes(8, "little")) + content[100:end]
    )
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(BadInput, match="its arrays take more than the file"):
        keras_file.read(tmp_path / "x.h5")
