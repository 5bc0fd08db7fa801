"""Exact BN statistics against loops written out, on one device and on eight."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resjax.errors import BadInput
from resjax.evaluation import exact
from resjax.models.resnet import ResNet, init_variables
from resjax.models.scan import roll
from resjax.models.spec import Spec

SPEC = Spec(units=(1, 3), widths=(4, 8), stem_width=4, input_size=6, order="full_preactivation")
IMAGES = 1 + 2 * np.random.default_rng(0).normal(size=(3, 16, 6, 6, 3)).astype(np.float32)  # batches of 16
IMAGES[1] += 1  # so that means differ between batches
VARIABLES = init_variables(SPEC, 0)


@pytest.fixture(scope="module", autouse=True)
def _compile_fast(quick_compilation):
    pass


def loop(definition, group):
    """fvcore's loop and pycls's first one, over what the network in training, with momentum 0, has for a group."""
    model = ResNet(dataclasses.replace(SPEC, bn_momentum=0.0))
    forward = jax.jit(lambda images: model.apply(VARIABLES, images, train=True, mutable=["batch_stats"])[1])
    batches = IMAGES.reshape(-1, group or 16, 6, 6, 3)
    found = [jax.tree.map(lambda x: np.asarray(x, np.float64), forward(b)["batch_stats"]) for b in batches]

    def norm(*each):
        means, variances = [e["mean"] for e in each], [e["var"] for e in each]
        mean = variance = square = 0
        for m, v in zip(means, variances, strict=True):
            mean = mean + m / len(each)
            variance = variance + v / len(each)
            square = square + (v + m**2) / len(each)
        return {"mean": mean, "var": variance if definition == "mean_variance" else square - mean**2}

    return jax.tree.map(norm, *found, is_leaf=lambda node: "var" in node)


@pytest.mark.parametrize("definition", exact.DEFINITIONS)
@pytest.mark.parametrize(("group", "devices", "scan"), [(0, 1, False), (4, 1, False), (0, 8, False), (4, 8, True)])
def test_against_the_loop(definition, group, devices, scan):
    spec = dataclasses.replace(SPEC, bn_group=group, scan=scan)
    params, old = (VARIABLES[key] for key in ("params", "batch_stats"))
    params, old = (roll(params), roll(old)) if scan else (params, old)
    old = jax.tree.map(lambda x: x + np.nan, old)  # nothing of what was counts
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    batches = (jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))) for images in IMAGES)
    found = exact.statistics(spec, params, old, batches, definition)
    expected = loop(definition, group)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        found,
        roll(expected) if scan else expected,
    )


def test_the_total_variance_is_that_of_all_images():
    stem = VARIABLES["params"]["stem"]["conv1"]["kernel"]
    padded = np.pad(IMAGES.reshape(-1, 6, 6, 3).astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.einsum("nhwcij,ijcd->nhwd", windows, stem)
    for group in (0, 4):
        spec = dataclasses.replace(SPEC, bn_group=group)
        found = exact.statistics(spec, *VARIABLES.values(), IMAGES, "total_variance")["stem"]["norm1"]
        np.testing.assert_allclose(found["mean"], maps.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["var"], maps.var((0, 1, 2)), rtol=1e-5)


def test_a_network_without_bn_has_none():
    spec = dataclasses.replace(SPEC, norm="none")
    assert exact.statistics(spec, *init_variables(spec, 0).values(), IMAGES) == {}


def test_what_cannot_work():
    spec = dataclasses.replace(SPEC, bn_group=5)
    for batches, definition, message in [
        ([], "mean_variance", "at least one batch"),
        (IMAGES, "mean_variance", "bn_group=5"),
        (IMAGES, "mean", "did you mean"),
    ]:
        with pytest.raises(BadInput, match=message):
            exact.statistics(spec, *VARIABLES.values(), batches, definition)
