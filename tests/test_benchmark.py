import dataclasses
import importlib.util
import json
import math
from functools import partial

import jax
import numpy as np
import pytest

from resjax import benchmark
from resjax.config import default
from resjax.errors import BadInput
from resjax.models import counts
from resjax.models.published import cifar, imagenet
from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import Spec

HAS_TORCH = importlib.util.find_spec("torch") is not None
SMALL = [
    "--config=configs/digits.py:v1-8",
    "--config.model.widths=(4, 4, 8)",
    "--config.model.stem_width=4",
    "--config.batch_size=16",
    "--config.mesh.data=1",
]


@pytest.fixture(autouse=True, scope="module")
def _speed_is_not_tested_here(quick_compilation):
    pass


def test_the_command_prints_one_json_object(capsys, tmp_path):
    assert benchmark.main([*SMALL, "--steps=3", f"--out={tmp_path / 'x.json'}", "--cold"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "x.json").read_text()) == found
    assert found["batch_size"] == 16
    assert found["compilation_cache"] == "miss"
    times = [v for k, v in found.items() if k.endswith("_seconds")]
    assert len(times) == (7 if HAS_TORCH else 5)
    assert all(0 < t < 600 for t in times)
    assert math.isclose(found["images_per_second"], 16 / found["step_seconds"])
    assert math.isclose(found["flop_per_second"], 6 * found["macs"] * found["images_per_second"])
    assert 0 <= found["input_wait"] <= 1
    assert found["loop_overhead"] > -1
    assert found["peak_memory_bytes"] > 2**20
    assert ("ratio_to_pytorch" in found) == HAS_TORCH
    if HAS_TORCH:
        assert math.isclose(found["ratio_to_pytorch"], found["pytorch_step_seconds"] / found["step_seconds"])


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
def test_without_a_twin_a_note_says_why():
    from resjax import torch_twin

    config = default(Spec(gate="exclusive"))
    config.optimizer.clip_norm = 1.0
    assert torch_twin.missing(Spec(gate="exclusive"), config) == ["gates", "gradient clipping"]
    assert torch_twin.missing(Spec(), default()) == []


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(BadInput, match="--steps=2"):
        benchmark.main([*SMALL, "--steps=2"])
    with pytest.raises(BadInput, match="no such folder"):
        benchmark.main([*SMALL, f"--out={tmp_path / 'a' / 'b'}"])


TWINS = {
    "original": Spec(),
    "plain": cifar("plain-20"),
    "preactivation": cifar("v2-20"),
    "bottleneck": cifar("v2-164"),
    "option C": Spec(shortcut="C"),
    "bn after addition": Spec(order="bn_after_addition"),
    "relu before addition": Spec(order="relu_before_addition"),
    "relu-only preactivation": Spec(order="relu_only_preactivation"),
    "scales": Spec(shortcut_scale=0.5, branch_scale=0.7),
    "ImageNet": imagenet("v1-50"),
    "ImageNet, v1.5": imagenet("v1.5-50"),
    "ImageNet, basic": imagenet("v1-18"),
    "ResNet-D": dataclasses.replace(imagenet("v1-50"), stem="deep", stride_on="3x3", shortcut_pool=True),
    "option A on ImageNet": dataclasses.replace(imagenet("v1-18"), shortcut="A"),
}


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", TWINS)
def test_the_twin_has_the_same_parameters(name):
    import torch

    from resjax import torch_twin

    with torch.device("meta"):
        twin = torch_twin.Twin(TWINS[name])
    assert sum(p.numel() for p in twin.parameters()) == counts.total(TWINS[name]).params


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@pytest.mark.parametrize(("name", "train"), [(name, False) for name in TWINS] + [("ResNet-D", True)])
def test_the_twin_computes_the_same_logits(name, train):
    import torch

    from resjax import torch_twin

    # The same kinds of layers in two stages of two units; an odd map shows padding that is off by one.
    small = {"units": (2, 2), "widths": (8, 16), "stem_width": 8, "num_classes": 10}
    spec = dataclasses.replace(TWINS[name], **small, input_size=9 if TWINS[name].stem == "conv3" else 33)
    rng = np.random.default_rng(0)
    # Statistics and gammas of a fresh network are all alike and would hide an exchange.
    shapes = jax.eval_shape(lambda: init_variables(spec, 0))
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), shapes)
    images = rng.normal(size=(8, spec.input_size, spec.input_size, 3)).astype(np.float32)

    logits, _ = jax.jit(partial(ResNet(spec).apply, train=train, mutable=["batch_stats"]))(variables, images)
    twin = torch_twin.Twin(spec).train(train)
    torch_twin.copy(variables, twin)
    with torch.no_grad():
        other = twin(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    scale = np.abs(logits).max()
    np.testing.assert_allclose(other / scale, logits / scale, atol=1e-4)
