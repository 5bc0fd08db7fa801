"""What a spec refuses, and the published names."""

import dataclasses

import pytest

from resjax.errors import BadInput
from resjax.models import published
from resjax.models.spec import CHOICES, Spec

DENSE = {"unit": "dense", "stem": "dense"}
# Field that the message starts with -> fields that break a rule.
IMPOSSIBLE = [
    ("units", {"units": (3, 3)}),
    ("units", {"units": (), "widths": ()}),
    ("units", {"units": (3, 0, 3)}),
    ("widths", {"widths": (16, 0, 64)}),
    ("widths", {"unit": "bottleneck", "widths": (16, 32, 66), "shortcut": "B"}),
    ("stem_width", {"stem_width": 0}),
    ("input_size", {"input_size": 0}),
    ("input_channels", {"input_channels": 0}),
    ("num_classes", {"num_classes": 0}),
    ("bn_group", {"bn_group": -1}),
    ("bn_momentum", {"bn_momentum": 1.0}),
    ("bn_momentum", {"bn_momentum": -0.1}),
    ("bn_epsilon", {"bn_epsilon": 0.0}),
    ("init_gain", {"init_gain": 0.0}),
    ("shortcut_dropout", {"shortcut_dropout": 1.0}),
    ("shortcut_dropout", {"shortcut_dropout": -0.5}),
    ("stochastic_depth", {"stochastic_depth": 1.0}),
    ("stem", {"unit": "dense"}),
    ("stem", {"stem": "none"}),
    ("shortcut", {"widths": (64, 32, 16)}),
    ("shortcut", {"stem_width": 32}),
    ("shortcut", {"shortcut": "none", "gate": "exclusive"}),
    ("shortcut", {"shortcut": "none", "shortcut_dropout": 0.5}),
    ("shortcut", {"shortcut": "none", "stochastic_depth": 0.5}),
    ("shortcut", {"shortcut": "none", "shortcut_pool": True}),
    ("shortcut_pool", {"shortcut_pool": True}),
    ("shortcut_pool", {"shortcut_pool": True, "shortcut": "B", **DENSE}),
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
    choice = CHOICES[field][-1]
    with pytest.raises(BadInput, match=rf"^model\.{field}='{choice}x' is unknown") as error:
        Spec(**{field: choice + "x"})
    assert all(known in str(error.value) for known in CHOICES[field])
    assert f"did you mean {choice}?" in str(error.value)


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


def test_digits_change_the_input_only() -> None:
    spec = published.cifar("v1-20")
    assert published.for_digits(spec) == dataclasses.replace(spec, input_size=8, input_channels=1)
