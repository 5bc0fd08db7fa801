"""`python -m resjax.export`: a program that a process without resjax loads and runs."""

import json
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

import resjax
from resjax import export
from tests.weights.conftest import FIXTURES

pytestmark = pytest.mark.usefixtures("quick_compilation")

HF = FIXTURES / "transformers_v1"
# It has nothing but JAX, NumPy and the two files.
ELSEWHERE = """
import json, sys
import jax.export, numpy as np
path, images, logits = sys.argv[1:]
exported = jax.export.deserialize(bytearray(open(path, "rb").read()))
said = json.load(open(path + ".json"))
x = np.load(images)
if "caller" in said["input"]["normalized"]:
    own = said["preprocessing"]
    x = ((x - np.array(own["mean"])) / np.array(own["std"])).astype(said["input"]["dtype"])
call = jax.jit(exported.call)
np.save(logits, np.concatenate([call(x), call(x[:1])]))
assert "resjax" not in sys.modules
assert exported.platforms == ("cpu", "cuda", "tpu")
assert [str(side) for side in exported.in_avals[0].shape] == [str(side) for side in said["input"]["shape"]]
assert [str(side) for side in exported.out_avals[0].shape] == [str(side) for side in said["output"]["shape"]]
"""


@pytest.fixture(scope="module")
def model():
    return resjax.load(HF)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 35, 35, 3), np.uint8)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_process_without_resjax_gives_the_same(call, model, pixels, tmp_path, where):
    """Compared with what `resjax.load` says of photos of that size; the number of images is open."""
    out = tmp_path / "model.stablehlo"
    code, _, err = call(f"--weights={HF}", f"--out={out}", f"--preprocessing={where}", command=export.main)
    assert (code, f"written   {out}, " in err) == (0, True), err
    np.save(tmp_path / "images.npy", pixels)
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    files = [out, tmp_path / "images.npy", tmp_path / "logits.npy"]
    done = subprocess.run(
        [sys.executable, "elsewhere.py", *files], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    logits = np.load(tmp_path / "logits.npy").astype(np.float64)
    np.testing.assert_allclose(logits[3], logits[0], rtol=1e-5)
    large = np.pad(pixels, ((0, 0), (2, 3), (2, 3), (0, 0)))  # of which the centre is cropped, and nothing resized
    np.testing.assert_allclose(log_softmax(logits[:3]), np.log(model.probabilities(large)), rtol=1e-4, atol=1e-4)
    said = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert said["preprocessing"]["class_names"] == [f"kind {i}" for i in range(5)]
    assert said["input"]["dtype"] == ("uint8" if where == "inside" else "float32")


def test_one_program_is_for_all_platforms(model):
    """It takes XLA's own convolutions, whatever the machine that writes it."""
    found = export.exported(model, inside=True)
    text = found.mlir_module()
    kernels = [
        path for path, _ in jax.tree_util.tree_leaves_with_path(model.variables["params"]) if "conv" in str(path)
    ]
    # Each is there for every platform; the one product is the classifier's.
    assert text.count("stablehlo.convolution") == len(kernels) * text.count("stablehlo.dot_general") > 0
    assert "tensor<?x35x35x3xui8>" in text


def test_what_is_missing_is_named(call, monkeypatch, tmp_path):
    def serialize(exported):
        raise ImportError("Please install 'flatbuffers'")  # as JAX does

    monkeypatch.setattr(jax.export.Exported, "serialize", serialize)
    code, _, err = call(f"--weights={HF}", f"--out={tmp_path}/new", command=export.main)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"error: --out={tmp_path}/new is written with flatbuffers: pip install flatbuffers",
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([f"--weights={HF}"], "--out is missing"),
        (["--out={there}", f"--weights={HF}"], "is there already"),
        (["--out={new}"], "--workdir is missing"),
        (["--out={new}", "--workdir=nowhere"], "--workdir=nowhere holds no run"),
        (["--out={new}", f"--weights={HF}", "--preprocessing=none"], "--preprocessing=none"),
    ],
)
def test_bad_flags(call, tmp_path, flags, message):
    there = tmp_path / "there"
    there.touch()
    code, out, err = call(*(f.format(there=there, new=tmp_path / "new") for f in flags), command=export.main)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
