"""What a spec refuses, and the published names."""

import dataclasses
import math
import re

import pytest

from resjax.errors import BadInput
from resjax.models import counts, layout, published
from resjax.models.resnet import init_variables
from resjax.models.spec import CHOICES, SHORTCUTS, Spec

DENSE = {"unit": "dense", "stem": "dense"}
BOTTLENECK = {"unit": "bottleneck", "shortcut": "B"}
# Fields of the addition, with values that are not their defaults.
SHORTCUT_FIELDS = {
    "shortcut_pool": True,
    "shortcut_scale": 0.5,
    "branch_scale": 0.5,
    "shortcut_dropout": 0.5,
    "gate": "exclusive",
    "gate_layers": "unit",
    "gate_bias": -1.0,
    "stochastic_depth": 0.5,
}
# Field that the message starts with -> fields that break a rule.
IMPOSSIBLE = [
    ("units", {"units": (3, 3)}),
    ("units", {"units": (), "widths": ()}),
    ("units", {"units": (3, 0, 3)}),
    ("widths", {"widths": (16, 0, 64)}),
    ("widths", {"unit": "bottleneck", "widths": (16, 32, 66), "shortcut": "B"}),
    ("stem_width", {"stem_width": 0}),
    ("stem_width", {"stem_width": 1, "stem": "deep"}),
    ("input_size", {"input_size": -1}),
    ("input_channels", {"input_channels": -1}),
    ("num_classes", {"num_classes": -1}),
    ("bn_group", {"bn_group": -1}),
    ("bn_momentum", {"bn_momentum": 1.0}),
    ("bn_momentum", {"bn_momentum": -0.1}),
    ("bn_epsilon", {"bn_epsilon": 0.0}),
    ("init_gain", {"init_gain": 0.0}),
    ("output_stride", {"output_stride": -1}),
    ("output_stride", {"output_stride": 3}),
    ("output_stride", {"output_stride": 8}),
    ("output_stride", {"output_stride": 2, "stem": "conv7"}),
    ("output_stride", {"output_stride": 3, "units": (1,) * 20_000, "widths": (16,) * 20_000}),
    ("output_stride", {"output_stride": 1, **DENSE}),
    ("shortcut_dropout", {"shortcut_dropout": 1.0}),
    ("shortcut_dropout", {"shortcut_dropout": -0.5}),
    ("stochastic_depth", {"stochastic_depth": 1.0}),
    ("stem", {"unit": "dense"}),
    ("stem", {"stem": "none"}),
    ("shortcut", {"widths": (64, 32, 16)}),
    ("shortcut", {"stem_width": 32}),
    *((name, {"shortcut": "none", name: value}) for name, value in SHORTCUT_FIELDS.items()),
    ("gate_layers", {"gate_layers": "unit"}),
    ("gate_bias", {"gate_bias": -1.0}),
    ("squeeze", {"squeeze": -1}),
    ("squeeze", {"unit": "single", "squeeze": 2}),
    ("widths", {"squeeze": 3}),
    ("groups", {"groups": 2}),
    ("groups", {**BOTTLENECK, "groups": 0}),
    ("groups", {**BOTTLENECK, "groups": 3}),
    ("excitation", {"excitation": -1}),
    ("excitation", {"excitation": 3}),
    ("excitation", {"excitation": 4, **DENSE}),
    ("stem_width", {"unit": "dense", "stem": "none", "shortcut": "B", "stem_width": 8}),
    ("stem_raw", {"unit": "dense", "stem": "none", "shortcut": "B", "stem_raw": True}),
    ("shortcut_pool", {"shortcut_pool": True}),
    ("shortcut_pool", {"shortcut_pool": True, "shortcut": "B", **DENSE}),
    ("zero_gamma", {"zero_gamma": True, "shortcut": "none"}),
    ("zero_gamma", {"zero_gamma": True, "norm": "none"}),
    ("zero_gamma", {"zero_gamma": True, "order": "full_preactivation"}),
    ("zero_gamma", {"zero_gamma": True, "order": "bn_after_addition"}),
    ("zero_gamma", {"zero_gamma": True, "order": "relu_before_addition"}),
]


@pytest.mark.parametrize(("field", "fields"), IMPOSSIBLE)
def test_an_impossible_spec_names_field_and_value(field: str, fields: dict) -> None:
    with pytest.raises(BadInput) as error:
        Spec(**fields)
    message = str(error.value)
    assert message.startswith(f"model.{field}=")
    assert "\n" not in message
    value = fields.get(field, getattr(Spec(), field))
    assert message.startswith(f"model.{field}={value}")


@pytest.mark.parametrize("field", CHOICES)
def test_an_unknown_choice_lists_the_known_ones(field: str) -> None:
    choice = list(CHOICES[field])[-1]
    with pytest.raises(BadInput, match=rf"^model\.{field}='{choice}x' is unknown") as error:
        Spec(**{field: choice + "x"})
    assert all(known in str(error.value) for known in CHOICES[field])
    assert f"did you mean {choice}?" in str(error.value)


WRONG_TYPES = [
    ("units", (3.0, 3, 3)),
    ("units", 3),
    ("units", "333"),
    ("widths", (16, True, 64)),
    ("stem_width", 16.0),
    ("groups", True),
    ("output_stride", 2.0),
    ("num_classes", None),
    ("scan", 1),
    ("shortcut", None),
    *(
        (field, value)
        for field in ("branch_scale", "shortcut_scale", "init_gain", "bn_epsilon", "gate_bias")
        for value in (math.nan, math.inf, "1")
    ),
]


@pytest.mark.parametrize(("field", "value"), WRONG_TYPES)
def test_a_value_of_another_type_or_not_finite_is_one_line(field: str, value: object) -> None:
    with pytest.raises(BadInput, match=rf"^model\.{field}={re.escape(repr(value))}: must be [^\n]*$"):
        Spec(**{field: value})


def test_an_unknown_shortcut_says_what_each_of_them_means() -> None:
    with pytest.raises(BadInput) as error:
        Spec(shortcut="conv1x1")
    message = str(error.value)
    assert "did you mean" not in message
    assert "C = projection everywhere" in message
    assert "A = subsample and zero_pad where dimensions change, identity elsewhere" in message
    assert "none = no shortcut: a plain network" in message


# A field that does nothing in a plain network is refused there; every other one changes it.
VALUES = {
    "units": (1, 1),
    "widths": (8, 16),
    "unit": "single",
    "squeeze": 2,
    "stem": "conv7",
    "stem_width": 8,
    "stem_raw": True,
    "output_stride": 1,
    "order": "full_preactivation",
    "excitation": 2,
    "norm": "none",
    "activation": "sigmoid",
    "input_size": 16,
    "input_channels": 1,
    "num_classes": 5,
}
# These act outside the layers' description.
ELSEWHERE = {"bn_group", "bn_momentum", "bn_epsilon", "init", "init_gain", "dtype", "convolution", "scan", "remat"}
# These belong to bottlenecks, with which the rest is tested.
BOTTLENECKS = {"stride_on": "3x3", "groups": 2}


def test_a_plain_network_refuses_every_field_that_it_would_ignore() -> None:
    plain = Spec(units=(2, 2), widths=(16, 32), shortcut="none")
    bottlenecks = dataclasses.replace(plain, unit="bottleneck")
    for field in dataclasses.fields(Spec):
        if field.name in SHORTCUT_FIELDS:
            with pytest.raises(BadInput, match=rf"^model\.{field.name}="):
                dataclasses.replace(plain, **{field.name: SHORTCUT_FIELDS[field.name]})
        elif field.name in VALUES | BOTTLENECKS:
            base = bottlenecks if field.name in BOTTLENECKS else plain
            changed = dataclasses.replace(base, **{field.name: (VALUES | BOTTLENECKS)[field.name]})
            assert list(layout.parts(changed)) != list(layout.parts(base)), field.name
        else:
            assert field.name in ELSEWHERE | {"shortcut", "zero_gamma"}, f"say here what {field.name} does"


def test_what_the_data_set_has_may_be_left_open_until_the_network_is_built() -> None:
    for field in ("input_size", "input_channels", "num_classes"):
        spec = Spec(**{field: 0})
        assert spec.depth == 20
        for use in (counts.total, lambda spec: init_variables(spec, 0), layout.weight_layers):
            with pytest.raises(BadInput, match=rf"^model\.{field}=0 .*give a number$"):
                use(spec)
        assert counts.total(dataclasses.replace(spec, **{field: getattr(Spec(), field)})) == counts.total(Spec())
    assert Spec(unit="dense", stem="none", input_size=0, shortcut="A").stem_out == 0


def test_every_stride_of_the_stages_may_be_the_last() -> None:
    for stride in (4, 8, 16, 32):
        *_, last = Spec(units=(1,) * 4, widths=(16,) * 4, stem="conv7", output_stride=stride).unit_shapes()
        assert last.out_size == 32 // stride
    with pytest.raises(BadInput, match=r"of this network's stages, 4, 8, or 0 for its own$"):
        Spec(units=(1, 1), widths=(16, 16), stem="conv7", output_stride=16)


def test_specs_compare_and_hash_by_value() -> None:
    assert Spec(units=[3, 3, 3]) == Spec()
    assert hash(Spec(units=[3, 3, 3])) == hash(Spec())
    assert dataclasses.replace(Spec(), units=(5, 5, 5)) != Spec()


@pytest.mark.parametrize(
    "spec",
    [
        Spec(widths=(64, 32, 16), shortcut="B"),
        Spec(widths=(64, 32, 16), shortcut="none"),
        Spec(**DENSE, widths=(16,) * 3),
    ],
)
def test_specs_that_the_rules_must_let_through(spec: Spec) -> None:
    assert list(spec.unit_shapes())


RESIDUAL = sorted(SHORTCUTS.keys() - {"none"})
POOLED = [name for name in RESIDUAL if SHORTCUTS[name].changing == "p"]  # only a projection has a pool before it


@pytest.mark.parametrize(
    ("name", "pool"), [*((name, False) for name in RESIDUAL), *((name, True) for name in POOLED)]
)
def test_every_shortcut_fits_wherever_a_unit_changes(name: str, pool: bool) -> None:
    spec = Spec(widths=(16, 32, 32), shortcut=name, shortcut_pool=pool, stem_width=16)
    for shape in spec.unit_shapes():
        row = layout.unit(spec, shape).shortcut
        last = row[-1] if row else None
        assert (last.width, last.out_size) == (shape.width, shape.out_size) if last else not shape.changes


@pytest.mark.parametrize("family", ["v1", "v2", "plain", "highway"])
@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
def test_cifar_depths(family: str, depth: int) -> None:
    assert published.cifar(f"{family}-{depth}").depth == depth


@pytest.mark.parametrize(
    ("name", "unit"), [("v1-164", "bottleneck"), ("v2-1001", "bottleneck"), ("plain-164", "basic")]
)
def test_which_unit_a_depth_means(name: str, unit: str) -> None:
    assert published.cifar(name).unit == unit
    assert published.cifar(name).depth == int(name.split("-")[1])


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (published.cifar, "v1-21", "v1-20"),
        (published.cifar, "v1-2", "v1-8"),
        (published.cifar, "v2-0", "v2-8"),
        (published.cifar, "plain-1001", "plain-998"),
        (published.cifar, "highway-19", "6n+2"),
        (published.cifar, "highway-2", "6n+2"),
        (published.cifar, "v3-20", "family"),
        (published.cifar, "v1.5-20", "family"),
        (published.cifar, "resnet20", "FAMILY-DEPTH"),
        (published.cifar, "", "FAMILY-DEPTH"),
        (published.imagenet, "v1-51", "v1-50"),
        (published.imagenet, "v1-50-d", "v1-50"),
        (published.imagenet, "v1.5-50-x", "v1.5-50-d"),
        (published.imagenet, "resnext-50", "resnext-50-32x4d"),
        (published.imagenet, "resnext-18-32x4d", "resnext-50-32x4d"),
        (published.imagenet, "wide-34-2", "wide-50-2"),
        (published.imagenet, "resnet-50", "family"),
        (published.cifar, "v1-20-d", "v1-20?"),
        (published.imagenet, "v1-1000", "v1-200"),
        (published.imagenet, "plain-50", "plain-34"),
        (published.imagenet, "v1-", "FAMILY-DEPTH"),
        (published.imagenet, "highway-50", "family"),
    ],
)
def test_an_impossible_name_says_what_exists(make: object, name: str, says: str) -> None:
    with pytest.raises(BadInput) as error:
        make(name)
    assert says in str(error.value)
    assert name in str(error.value) or says == "family"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", range(3, 60))
def test_a_depth_that_is_refused_names_two_that_exist(depth: int) -> None:
    try:
        assert published.cifar(f"v1-{depth}").depth == depth
    except BadInput as error:
        near = str(error).split("nearest: ")[1].split(" and ")
        assert [published.cifar(name).depth % 6 for name in near] == [2, 2]
