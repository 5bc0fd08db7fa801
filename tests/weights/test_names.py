"""Networks of other libraries give here what they give there, and their arrays go back as they came."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest

from resjax.errors import BadInput
from resjax.models.published import imagenet
from resjax.models.resnet import ResNet, init_variables
from resjax.train import digest
from resjax.weights import architectures, limits, names, source
from tests.weights.conftest import FIXTURES, NETWORKS

pytestmark = pytest.mark.usefixtures("quick_compilation")

# SHA-256 of a line for each entry of the state dictionary, "NAME SHAPE", in the order of the names: what
# timm.create_model of timm 1.0.31 has; resnet*, resnext* and wide_resnet* are torchvision's too.
PUBLISHED = {
    "resnet18": "6cb439dd8789c9fec30db85cd20f9566cb04693ea278e4348cdd110fa0388db6",
    "resnet50": "98fcefba1b06f509a0fbf50757db13659d4fb3dc3b1f43aef4ed2da77b133fbe",
    "resnet152": "5ae8a587e3be2fd0b2a2b64233520796bebfa702d0685363c6a38976ed4c2db5",
    "resnet18d": "9b06a2c393b2e19ef945cc1096bbeea1ade9a4761e99cd411b416590c6002bc9",
    "resnet50d": "51d289c8eadd886264955abf6f6177fe98090be13327d3b2e44786e75b726b49",
    "resnext50_32x4d": "068775a8790c1d34e2434ce47125e8ae7e1f8bfd6d1b2c55d3f558ba8921d08c",
    "resnext101_64x4d": "66bc26166e9c8bc6d22feb24be92aac022cd1eb706ff8d2ba3994e4702383dba",
    "wide_resnet50_2": "1f3be5b53e4620957bd8120f8c057da75ab27e3ea6b1d61c79b151e6771d601d",
    "seresnet50": "c4d547bfb9a50a896a60dea40be05318db867244c19cb5c59e97c8ae64c93e7c",
    "resnetv2_18": "ab6c4b294d8b7548aab1e5d23fe59160ff97e01d8dc6d7b62d04489a0649f26c",
    "resnetv2_50": "8fee1615f78e7a8a4c8388ee6c229fd52515a28b16d9f326c7581e2ac4439aa0",
    "resnetv2_50d": "c4e0e53751ca2ad12e8ba571079ae614c9f82276747df2c7139feab7dac26091",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_those_of_timm(name):
    spec = architectures.of_timm({"architecture": name}, "config.json")
    there = {row.name: list(row.there) for row in names.rows(spec, "timm")}
    there |= {name: [] for name in names.counters(spec, "timm")}
    text = "".join(f"{entry} {shape}\n" for entry, shape in sorted(there.items()))
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED[name]
    if name in architectures.TORCHVISION:
        assert {row.name: list(row.there) for row in names.rows(spec, "torchvision")}.items() <= there.items()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_library_and_arrays_go_back_bit_for_bit(name, images, logits):
    library, spec = NETWORKS[name]
    weights = source.open(FIXTURES / name)
    found = weights.variables(weights.network(spec))
    ours = jax.jit(ResNet(spec).apply)(found, images)
    assert np.abs(ours - logits[name]).max() <= 1e-5 * np.abs(logits[name]).max()
    back = names.tensors(spec, library, found)
    assert back.keys() == weights.tensors.keys()
    for entry, array in back.items():
        if not entry.endswith(names.COUNTER):
            assert array.dtype == weights.tensors[entry].dtype == np.float32
            np.testing.assert_array_equal(array, weights.tensors[entry], entry)
    limits.check(spec, library, "test")


def test_every_array_of_every_kind_of_network_has_a_place_in_resjaxs_own_format():
    for name, fields in (
        ("se-50", {"norm": "none", "groups": 4}),
        ("v2-18-raw", {"gate": "exclusive"}),
        ("v1.5-50-d", {"shortcut": "C"}),
    ):
        spec = dataclasses.replace(imagenet(name), units=(1, 2), widths=(64, 128), **fields)
        fresh = jax.eval_shape(lambda spec=spec: init_variables(spec, 0))
        expected = {name: shape for name, (shape, _) in digest.structure(fresh).items()}
        assert {row.name: row.there for row in names.rows(spec, "resjax")} == expected


def test_what_is_missing_unexpected_or_misshaped_is_listed():
    weights = source.open(FIXTURES / "torchvision.pth")
    spec = NETWORKS["torchvision.pth"][1]
    there = dict(weights.tensors)
    there["fc2.weight"] = there.pop("bn1.weight")
    there["layer2.0.conv1.weight"] = there["layer2.0.conv1.weight"][:, :3]
    with pytest.raises(BadInput) as error:
        names.variables(spec, "torchvision", there)
    assert str(error.value) == (
        "1 missing: bn1.weight; 1 unexpected: fc2.weight; "
        "1 of another shape: layer2.0.conv1.weight [6, 3, 3, 3] for [6, 4, 3, 3]"
    )
    with pytest.raises(BadInput, match=r"torchvision\.pth does not fit the network: 10 unexpected: layer2\.1\."):
        weights.variables(dataclasses.replace(spec, units=(1, 1)))


@pytest.mark.parametrize(
    ("library", "network", "fields", "field"),
    [
        ("torchvision", "v1-50", {}, "stride_on=1x1"),
        ("timm", "v1-50", {}, "stride_on=1x1"),
        ("torchvision", "v1.5-50-d", {}, "stem=deep"),
        ("torchvision", "se-50", {}, "excitation=16"),
        ("torchvision", "v2-50", {}, "order=full_preactivation"),
        ("timm", "v2-50", {}, "stem_raw=False"),
        ("transformers", "resnext-50-32x4d", {}, "groups=32"),
        ("transformers", "wide-50-2", {}, "inner_share=2"),
        ("transformers", "plain-34", {}, "shortcut=none"),
        ("timm", "v1.5-18", {"shortcut": "A"}, "shortcut=A"),
        ("timm", "v1.5-18", {"bn_epsilon": 1e-3}, "bn_epsilon=0.001"),
        ("timm", "v1.5-18", {"gate": "exclusive"}, "gate=exclusive"),
        ("timm", "v1.5-18", {"output_stride": 8}, "output_stride=8"),
        ("timm", "v1.5-18", {"branch_scale": 0.5}, "branch_scale=0.5"),
    ],
)
def test_a_network_that_a_library_does_not_have_is_refused_by_name(library, network, fields, field):
    spec = dataclasses.replace(imagenet(network), **fields)
    with pytest.raises(BadInput, match=f"^here: {library} has no network with model.{field}, only "):
        limits.check(spec, library, "here")


def test_strides_of_basic_units_are_the_same_in_every_library():
    limits.check(imagenet("v1-34"), "torchvision", "here")
