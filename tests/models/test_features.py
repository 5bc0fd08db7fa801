"""The maps of the stages, their names and strides, and networks whose last stages dilate in place of striding."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from resjax.models import layout, published
from resjax.models.layers import Part
from resjax.models.resnet import ResNet, init_variables
from resjax.models.scan import roll
from resjax.models.spec import Spec

SMALL = {"units": (2, 2), "widths": (4, 8), "stem_width": 4, "input_size": 9}
V2 = {"order": "full_preactivation", "shortcut": "B"}
NETWORKS = {
    "v1": Spec(**SMALL),
    "v2": Spec(**SMALL, **V2),
    "plain": Spec(**SMALL, shortcut="none"),
    "highway": dataclasses.replace(published.highway(20), **SMALL),
    "ImageNet": Spec(**{**SMALL, "input_size": 33}, stem="conv7"),
    "dense": Spec(**SMALL, unit="dense", stem="dense", order="full_preactivation"),
}


def draw(spec: Spec) -> Any:
    """Random weights and BN values, variances positive."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: Any) -> np.ndarray:
        x = rng.normal(size=shape.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return x * np.float32(np.sqrt(2 / np.prod(shape.shape[:-1])))
        return 0.5 + abs(x) if path[-1].key == "var" else x

    return jax.tree.map_with_path(leaf, jax.eval_shape(lambda: init_variables(spec, 0)))


def draw_images(spec: Spec) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, spec.input_size, spec.input_size, 3)).astype(np.float32)


def features(spec: Spec, variables: Any, images: np.ndarray) -> dict[str, jax.Array]:
    return jax.jit(partial(ResNet(spec).apply, method="features"))(variables, images)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_makes_the_logits_from_the_last_map(name: str) -> None:
    spec = NETWORKS[name]
    variables, images = draw(spec), draw_images(spec)
    of_head = {layer.name for layer in layout.head(spec)}
    inside, head = (
        {part: {k: v for k, v in tree.items() if (k in of_head) == wanted} for part, tree in variables.items()}
        for wanted in (False, True)
    )
    maps = features(spec, inside, images)
    *_, last = maps.values()
    logits = jax.jit(ResNet(spec).apply)(variables, images)
    found = Part(spec, layout.head(spec)).apply(head, last, False)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    for key, (width, stride) in layout.features(spec).items():
        side = -(-spec.input_size // stride)
        assert maps[key].shape == ((2, width) if spec.dense else (2, side, side, width))
    if name in ("plain", "ImageNet"):
        return  # their scanned form is another program to compile, and no other case
    scanned = features(dataclasses.replace(spec, scan=True), roll(inside), images)
    assert scanned.keys() == maps.keys()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), scanned, maps)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (published.imagenet("v1-50"), {"C2": (256, 4), "C3": (512, 8), "C4": (1024, 16), "C5": (2048, 32)}),
        (published.imagenet("v1.5-18-d"), {"C2": (64, 4), "C3": (128, 8), "C4": (256, 16), "C5": (512, 32)}),
        (published.cifar("v2-20"), {"stage1": (16, 1), "stage2": (32, 2), "stage3": (64, 4)}),
        (published.dense("v1-9", 4, 32), {"stage1": (16, 1), "stage2": (32, 1)}),
    ],
)
def test_names_widths_and_strides(spec: Spec, expected: dict) -> None:
    assert layout.features(spec) == expected
    if spec.stem == "conv7":
        for output_stride, strides in {16: [4, 8, 16, 16], 8: [4, 8, 8, 8], 32: [4, 8, 16, 32]}.items():
            maps = layout.features(dataclasses.replace(spec, output_stride=output_stride))
            assert list(maps) == ["C2", "C3", "C4", "C5"]
            assert [each.stride for each in maps.values()] == strides


# Three stages of stride 1, 2 and 4, on an odd map.
STAGES = {"units": (1, 2, 2), "widths": (4, 8, 12), "stem_width": 4, "input_size": 13}
BOTTLENECK = STAGES | {"unit": "bottleneck", "shortcut": "B"}
DILATED = {
    "v1": STAGES,
    "v1, bottlenecks": BOTTLENECK,
    "v1.5": BOTTLENECK | {"stride_on": "3x3"},
    "v2": STAGES | V2,
    "ResNet-D": STAGES | {"shortcut": "B", "shortcut_pool": True},
    "gates of the unit's layers": STAGES | {"gate": "exclusive", "gate_layers": "unit", "shortcut": "B"},
    "one-layer skips of one width": STAGES | {"unit": "single", "shortcut": "B", "widths": (4, 4, 4)},
}


@pytest.mark.parametrize("name", DILATED)
def test_a_dilated_network_has_the_values_of_the_strided_one_between_others(name: str) -> None:
    """Exactly, padding included: what a kernel takes together are the same pixels."""
    spec = Spec(**DILATED[name])
    variables, images = draw(spec), draw_images(spec)
    strided = features(spec, variables, images)
    assert [m.shape[1] for m in strided.values()] == [13, 7, 4]
    for output_stride, sides in {2: (13, 7, 7), 1: (13, 13, 13)}.items():
        if output_stride == 2 and name != "v1":
            continue
        dense = dataclasses.replace(spec, output_stride=output_stride)
        maps = features(dense, variables, images)
        assert tuple(m.shape[1] for m in maps.values()) == sides
        for (key, whole), stride in zip(maps.items(), (1, 2, 4), strict=True):
            ratio = max(1, stride // output_stride)
            np.testing.assert_allclose(whole[:, ::ratio, ::ratio], strided[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_the_layer_that_would_stride_keeps_the_dilation_before_it() -> None:
    """As torchvision's replace_stride_with_dilation has it: 1, then 2, in the first dilated stage; 2, then 4."""
    spec = dataclasses.replace(published.imagenet("v1.5-50"), output_stride=8)
    found = [
        [layer.dilation for layer in layout.unit(spec, shape).branch if layer.kernel == 3]
        for shape in spec.unit_shapes()
    ]
    assert found == [[1]] * 8 + [[2]] * 6 + [[4]] * 2
