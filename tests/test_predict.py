"""`resjax.load` and `python -m resjax.predict`: what they say of images, and which images they cannot take."""

import csv
import dataclasses
import io
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import resjax
from resjax import predict
from resjax.config import default
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import Spec
from resjax.train.adopt import adopt
from resjax.weights import ready
from tests.weights.conftest import FIXTURES

pytestmark = pytest.mark.usefixtures("quick_compilation")

PHOTOS = FIXTURES / "transformers_v1"  # short side 40, centre 35, bicubic; five classes
DIGITS = tuple(f"digit {i}" for i in range(10))


@pytest.fixture(scope="module")
def model():
    return resjax.load(PHOTOS)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The workdir of a run on grey images of 8 x 8 pixels as they are stored."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    spec = Spec(units=(1,), widths=(4,), stem_width=4, input_size=8, input_channels=1)
    config = default(spec)
    config.data.name, config.total_steps = "digits", 1
    config.model.update(input_size=8, input_channels=1, num_classes=10)
    own = Preprocessing(np.array([4.9], np.float32), np.float32(6.0), class_names=DIGITS)
    adopt(workdir, config, jax.jit(lambda: init_variables(spec, 3))(), own, {})
    return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of the size that is cropped and not resized, upright and not, and what is no photo."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 40, 44, 3), np.uint8)
    (folder / "more").mkdir()
    (folder / ".hidden").mkdir()
    Image.fromarray(pixels[0]).save(folder / "b.png")
    Image.fromarray(pixels[1]).save(folder / "more" / "A.PNG")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held on its side: what is upright is the stored pixels, turned clockwise
    Image.fromarray(pixels[2]).save(folder / "c.png", exif=turned)
    Image.fromarray(pixels[2]).save(folder / ".hidden" / "d.png")
    (folder / "notes.txt").write_text("no photo")
    return SimpleNamespace(path=folder, upright=[pixels[0], np.rot90(pixels[2], -1), pixels[1]])


def expected(model, images):
    """Softmax and pooled features, written out: the centre of 35 pixels, normalised, through the network."""
    own, mean, std = model.preprocessing, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    np.testing.assert_allclose(own.mean, mean, rtol=1e-6)
    centres = []
    for image in images:
        top, left = (image.shape[0] - 35) // 2, (image.shape[1] - 35) // 2
        centres.append((image[top : top + 35, left : left + 35] - np.array(mean)) / np.array(std))
    x = np.stack(centres).astype(np.float32)
    features = jax.jit(lambda x: ResNet(model.spec).apply(model.variables, x, method="features"))(x)["C3"].mean(
        (1, 2)
    )
    head = model.variables["params"]["head"]
    features, kernel, bias = (np.asarray(one, np.float64) for one in (features, head["kernel"], head["bias"]))
    logits = features @ kernel + bias
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), features


def test_paths_arrays_and_images_of_pillow_give_what_the_network_says(model, folder):
    paths = [folder.path / "b.png", str(folder.path / "c.png"), folder.path / "more" / "A.PNG"]
    probabilities, features = expected(model, folder.upright)
    opened = [Image.open(path) for path in paths]
    for given in (paths, folder.upright, opened):
        np.testing.assert_allclose(model.probabilities(given), probabilities, rtol=1e-4)
    np.testing.assert_allclose(model.features(paths, batch_size=2), features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        model.probabilities(np.stack([folder.upright[0]] * 5)), probabilities[[0] * 5], rtol=1e-4
    )
    for found, row in zip(model.predict(paths, top=2), probabilities, strict=True):
        order = sorted(range(5), key=lambda label: -row[label])[:2]
        assert [(c.label, c.name) for c in found] == [(label, f"kind {label}") for label in order]
        assert [c.probability for c in found] == pytest.approx([row[label] for label in order], rel=1e-4)
    for image in opened:
        image.close()


def test_grey_photos_and_colour_photos_fit_either_network(model, digits):
    grey = np.random.default_rng(1).integers(0, 17, (8, 8), np.uint8)
    run = resjax.load(digits)
    for image in (grey, grey[..., None], np.stack([grey] * 3, -1), Image.fromarray(grey)):
        np.testing.assert_array_equal(run.view(image), grey[..., None])
    large = np.kron(grey, np.ones((5, 5), np.uint8))  # 40 x 40
    np.testing.assert_array_equal(model.view(large), np.stack([large[2:37, 2:37]] * 3, -1))
    logits = ResNet(run.spec).apply(run.variables, (grey[None, ..., None] - np.float32(4.9)) / np.float32(6))
    [[best]] = run.predict([grey], top=1)
    assert best == (int(logits.argmax()), DIGITS[int(logits.argmax())], pytest.approx(jax.nn.softmax(logits).max()))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_as_the_run_decodes(model, tmp_path, orientation):
    """At a smaller scale where the run's photos were, and cropped as the whole photo would be; upright."""
    pixels = np.random.default_rng(2).integers(0, 256, (23, 32, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = orientation
    Image.fromarray(pixels).resize((324, 229)).save(tmp_path / "a.jpg", exif=turned)
    scaled = dataclasses.replace(model, preprocessing=dataclasses.replace(model.preprocessing, decode="scaled"))
    with Image.open(tmp_path / "a.jpg") as image:  # the short side of 40 pixels fits into a quarter of 229
        image.draft("RGB", (80, 57))
        small = np.asarray(image)
    assert small.shape == (58, 81, 3)
    height, width = 40, round(40 * 324 / 229)  # 57; that of the smaller picture would be 56
    small, size = (np.rot90(small, -1), (height, width)) if orientation == 6 else (small, (width, height))
    resized = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    top, left = (resized.shape[0] - 35) // 2, (resized.shape[1] - 35) // 2
    expected = resized[top : top + 35, left : left + 35].astype(int)
    found = [one.view(tmp_path / "a.jpg").astype(int) for one in (scaled, model)]
    assert np.abs(found[0] - expected).max() <= 3  # decoders round in their own ways
    assert 0 < np.abs(found[1] - expected).mean() < 12


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("a.png", "images is one image: give a list"),
        (np.zeros((40, 40, 3), np.uint8), "images is one image: give a list"),
        ([], "there are no images"),
        ([np.zeros((40, 40, 3))], "an image is float64 [40, 40, 3]: must be uint8"),
        ([np.zeros((40, 40, 4), np.uint8)], "an image is uint8 [40, 40, 4]: must be uint8"),
        ([np.zeros((0, 40, 3), np.uint8)], "an image is uint8 [0, 40, 3]"),
        (["nowhere.png"], "'nowhere.png': there is no such file"),
        (["/dev/zero"], "'/dev/zero': is no file"),
        ([__file__], "is not a picture"),
        ([Image.new("F", (40, 40))], "an image cannot be read: its pixels are fractions"),
    ],
)
def test_odd_images(model, images, message):
    with pytest.raises(BadInput) as error:
        model.predict(images)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("nowhere", {}, "nowhere: there is no such file or folder"),
        (PHOTOS, {"weights": "ema"}, "weights='ema' is for runs"),
        (PHOTOS, {"weights": "first"}, "weights='first' is unknown"),
        (PHOTOS, {"arch": "v1-5"}, "v1-5"),
        (FIXTURES / "torchvision.pth", {}, "does not say which network it is of"),
    ],
)
def test_odd_weights(given, options, message):
    with pytest.raises(BadInput) as error:
        resjax.load(given, **options)
    assert message in str(error.value)


def test_a_file_that_says_nothing_is_taken_as_torchvisions(monkeypatch):
    """Any published network is large, so a tiny one stands in."""
    spec = Spec(
        **{"stem": "conv7", "shortcut": "B", "units": (1, 2), "widths": (4, 6), "stem_width": 4}, num_classes=0
    )
    monkeypatch.setattr(ready, "imagenet", {"v1-18": spec}.get)
    found = resjax.load(FIXTURES / "torchvision.pth", arch="v1-18")
    assert (found.preprocessing.size, found.side, found.spec.num_classes) == (224, 224, 5)
    assert "the file does not say its preprocessing: torchvision's is taken" in found.notes
    assert found.ranked(np.array([0.1, 0.2, 0.4, 0.2, 0.1]), 3) == [(2, "2", 0.4), (1, "1", 0.2), (3, "3", 0.2)]


@pytest.fixture
def ask(call):
    return lambda *flags: call(*flags, command=predict.main)


def test_a_folder_a_file_and_stdin(ask, model, folder, monkeypatch):
    """One line an image, in order, in each form; what cannot be read is told apart from them."""
    names = [folder.path / "b.png", folder.path / "c.png", folder.path / "more" / "A.PNG"]
    rows = model.predict(names, top=2)
    code, out, err = ask(f"--weights={PHOTOS}", folder.path, "--top=2")
    assert (code, "unread" in err) == (0, False)
    assert out.splitlines() == [
        f"{name}: {', '.join(f'{c.name} {100 * c.probability:.2f} %' for c in row)}"
        for name, row in zip(names, rows, strict=True)
    ]
    lines = f"{names[2]}\n\n{folder.path / 'notes.txt'}\n{names[0]}\r\n".encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    code, out, err = ask("gone.png", "--json", "-", "--batch_size=2", f"--weights={PHOTOS}", "--top=1")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [one["image"] for one in found] == [str(names[2]), str(names[0])]
    assert [one["classes"][0]["name"] for one in found] == [rows[2][0].name, rows[0][0].name]
    assert [one["classes"][0]["probability"] for one in found] == pytest.approx(
        [rows[2][0].probability, rows[0][0].probability], rel=1e-4
    )
    for text in (
        "'gone.png': there is no such file",
        "notes.txt' is not a picture",
        "2 of 4 images could not be read",
    ):
        assert text in err
    code, out, _ = ask("--csv", f"--weights={PHOTOS}", "--top=9", *names)
    table = list(csv.reader(io.StringIO(out)))
    assert (code, len(table), {len(row) for row in table}) == (0, 4, {11})
    assert table[0][:3] == ["image", "class1", "probability1"]
    assert sum(float(cell) for cell in table[1][2::2]) == pytest.approx(1, abs=1e-5)


def test_a_path_cannot_break_its_line(ask, folder, tmp_path):
    odd = tmp_path / "a\nb.png"
    odd.write_bytes((folder.path / "b.png").read_bytes())
    code, out, _ = ask(f"--weights={PHOTOS}", tmp_path)
    assert (code, len(out.splitlines())) == (0, 1)


def test_an_image_of_another_size_is_unread_where_nothing_is_resized(ask, digits, folder, tmp_path):
    Image.new("L", (8, 8), 3).save(tmp_path / "digit.png")
    code, out, err = ask(f"--workdir={digits}", folder.path / "b.png", tmp_path / "digit.png", "--top=3")
    assert code == 1
    assert "b.png' has 40 x 44 pixels, and this network takes images of 8 x 8 as they are stored" in err
    assert out.startswith(f"{tmp_path / 'digit.png'}: digit ")


def test_a_sheet_shows_what_was_seen(ask, model, folder, drawn, tmp_path):
    code, _, err = ask(f"--weights={PHOTOS}", f"--sheet={tmp_path}/sheet.png", folder.path, "--top=1")
    assert (code, "written" in err, (tmp_path / "sheet.png").is_file()) == (0, True, True)
    [figure] = drawn
    with_pictures = [axes for axes in figure.axes if axes.images]
    rows = model.predict(folder.upright, top=3)
    for axes, image, row, name in zip(
        with_pictures, folder.upright, rows, ("b.png", "c.png", "A.PNG"), strict=True
    ):
        top, left = (image.shape[0] - 35) // 2, (image.shape[1] - 35) // 2
        np.testing.assert_array_equal(axes.images[0].get_array(), image[top : top + 35, left : left + 35])
        assert axes.get_title().split("\n") == [name, *(f"{c.name} {100 * c.probability:.1f} %" for c in row)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "images are missing"),
        (["a.png"], "--workdir is missing"),
        (["a.png", "--workdir=nowhere"], "--workdir=nowhere holds no run"),
        (["a.png", "--weights=nowhere"], "nowhere: there is no such file or folder"),
        (["a.png", "--top=0"], "--top=0: must be at least 1"),
        (["a.png", "--batch_size=0"], "--batch_size=0: must be at least 1"),
        (["a.png", "--json", "--csv"], "--json and --csv are given"),
        (["a.png", "--workdir={digits}", "--arch=v1-18"], "--arch=v1-18 is for a file of weights"),
        (
            ["a.png", "--workdir={digits}", "--weights=x.pth"],
            "--weights=x.pth beside --workdir must be last, best, ema",
        ),
        (["a.png", "--workdir={digits}", "--weights=ema"], "has no moving average"),
        (
            ["a.png", "--workdir={digits}", "--sheet=/nowhere/a.png"],
            "--sheet=/nowhere/a.png: there is no such folder",
        ),
        (["{empty}", "--workdir={digits}"], "holds no photos"),
    ],
)
def test_bad_flags(ask, digits, tmp_path, flags, message):
    code, out, err = ask(*(flag.format(digits=digits, empty=tmp_path) for flag in flags))
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert message in err


def test_many_images_take_a_line_now_and_then(ask, folder, monkeypatch):
    monkeypatch.setattr(predict, "QUIET", -1)
    _, _, err = ask(f"--weights={PHOTOS}", folder.path)
    assert "  2 of 3 images" in err
