"""The PyTorch twin computes what the network computes, and says what it does not know."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from resjax.config import default
from resjax.models import counts, layers, layout
from resjax.models.published import cifar, highway, imagenet
from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import SHORTCUTS, Spec

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from resjax import torch_twin  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")

RECIPE = {"learning_rate": 0.05, "weight_decay": 0.1, "nesterov": True, "label_smoothing": 0.1}

TWINS = {
    "original": Spec(),
    "plain": cifar("plain-20"),
    "plain without BN": dataclasses.replace(cifar("plain-20"), norm="none"),
    "preactivation": cifar("v2-20"),
    "bottleneck": cifar("v2-164"),
    "option C": Spec(shortcut="C"),
    "bn after addition": Spec(order="bn_after_addition"),
    "relu before addition": Spec(order="relu_before_addition"),
    "relu-only preactivation": Spec(order="relu_only_preactivation"),
    "scales": Spec(shortcut_scale=0.5, branch_scale=0.7),
    "gates": Spec(gate="shortcut_only", gate_bias=-1.0),
    "highway": highway(20),
    "ImageNet": imagenet("v1-50"),
    "ImageNet, v1.5": imagenet("v1.5-50"),
    "ImageNet, basic": imagenet("v1-18"),
    "ResNet-D": imagenet("v1.5-50-d"),
    "basic ResNet-D": imagenet("v1.5-18-d"),
    "ResNeXt": imagenet("resnext-50-32x4d"),
    "wide": imagenet("wide-50-2"),
    "squeeze-and-excitation": imagenet("se-50"),
    "raw stem": imagenet("v2-50-raw"),
    "raw deep stem": dataclasses.replace(imagenet("v2-50-raw"), stem="deep", shortcut_pool=True),
    "option A on ImageNet": dataclasses.replace(imagenet("v1-18"), shortcut="A"),
}


def small(spec: Spec) -> Spec:
    """The same kinds of layers in two stages of two units."""
    fields = {"groups": 2} if spec.groups > 1 else {}
    fields |= {"excitation": 4} if spec.excitation else {}
    return dataclasses.replace(spec, units=(2, 2), widths=(8, 16), stem_width=8, num_classes=10, **fields)


def random(spec: Spec) -> dict[str, Any]:
    """Normal weights, whose signals a ReLU cuts, and BN values that are all different."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        kind = path[-1].key
        x = rng.normal(size=leaf.shape)
        if kind == "kernel":
            x *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif kind in ("scale", "var"):
            x = np.sign(x) * (0.5 + abs(x)) if kind == "scale" else 0.5 + abs(x)
        return x.astype(np.float32)

    return jax.tree.map_with_path(draw, jax.eval_shape(lambda: init_variables(spec, 0)))


def draw_images(spec: Spec, n: int = 8) -> np.ndarray:
    """[N, H, W, C], odd and not square: padding that is off by one and a transposed kernel show."""
    side = 9 if spec.stem == "conv3" else 33
    return np.random.default_rng(1).normal(size=(n, side, side + 2, 3)).astype(np.float32)


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_has_the_same_parameters(name: str) -> None:
    with torch.device("meta"):
        twin = torch_twin.Twin(TWINS[name])
    assert sum(p.numel() for p in twin.parameters()) == counts.total(TWINS[name]).params


@pytest.mark.parametrize(("name", "train"), [(name, False) for name in TWINS] + [("ResNet-D", True)])
def test_the_twin_computes_the_same_logits(name: str, train: bool) -> None:
    spec = small(TWINS[name])
    assert torch_twin.missing(spec, default()) == []
    variables, images = random(spec), draw_images(spec)
    logits, _ = jax.jit(partial(ResNet(spec).apply, train=train, mutable=["batch_stats"]))(variables, images)
    twin = torch_twin.Twin(spec).train(train)
    torch_twin.copy(variables, twin)
    with torch.no_grad():
        other = twin(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    scale = np.abs(logits).max()
    np.testing.assert_allclose(other / scale, logits / scale, atol=1e-4)


@pytest.mark.parametrize("name", ["original", "preactivation"])
def test_two_training_steps_are_the_same(name: str) -> None:
    import optax

    from resjax.train.optim import optimizer

    spec, config = small(TWINS[name]), default()
    config.optimizer.update(RECIPE)
    variables, images, labels = random(spec), draw_images(spec), np.arange(8)
    twin = torch_twin.Twin(spec)
    torch_twin.copy(variables, twin)
    step, _ = torch_twin.training_step(twin, config, images, labels, "cpu")

    tx = optimizer(config, optax.constant_schedule(RECIPE["learning_rate"]))
    params, stats, state = variables["params"], variables["batch_stats"], tx.init(variables["params"])

    @jax.jit
    def own_step(params: Any, stats: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            tree = {"params": params, "batch_stats": stats}
            logits, updates = ResNet(spec).apply(tree, images, train=True, mutable=["batch_stats"])
            targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), RECIPE["label_smoothing"])
            return optax.softmax_cross_entropy(logits, targets).mean(), updates["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state_ = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state_, value

    for _ in range(2):
        params, stats, state, value = own_step(params, stats, state)
        np.testing.assert_allclose(step(), value, rtol=1e-4)
    found = twin.state_dict()
    expected = torch_twin.Twin(spec)
    torch_twin.copy({"params": params, "batch_stats": stats}, expected)
    for key, value in expected.state_dict().items():
        if "running_var" not in key and "num_batches" not in key:  # PyTorch's variance is the unbiased one
            np.testing.assert_allclose(found[key], value, rtol=1e-2, atol=2e-4, err_msg=key)


@pytest.mark.parametrize(
    ("fields", "recipe", "says"),
    [
        ({"stochastic_depth": 0.5}, {}, "model.stochastic_depth=0.5"),
        ({"shortcut_dropout": 0.5}, {}, "model.shortcut_dropout=0.5"),
        ({"remat": True}, {}, "model.remat=True"),
        ({"unit": "dense", "stem": "none", "stem_width": 16, "shortcut": "B"}, {}, "flatten layers"),
        ({}, {"name": "adamw"}, "optimizer.name=adamw"),
        ({}, {"clip_norm": 1.0}, "optimizer.clip_norm=1.0"),
        ({}, {"accumulate": 2}, "optimizer.accumulate=2"),
        ({}, {"decay_mask": "kernels"}, "optimizer.decay_mask=kernels"),
    ],
)
def test_what_the_twin_does_not_know_is_named(fields: dict, recipe: dict, says: str) -> None:
    config = default()
    config.optimizer.update(recipe)
    assert torch_twin.missing(Spec(**fields), config) == [says]


def test_a_future_optimizer_field_is_refused_off_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def later() -> Any:
        config = default()
        config.optimizer.trust = 0.0
        return config

    monkeypatch.setattr(torch_twin, "default", later)
    config = later()
    assert torch_twin.missing(Spec(), config) == []
    config.optimizer.trust = 1.0
    assert torch_twin.missing(Spec(), config) == ["optimizer.trust=1.0"]


def test_a_future_field_of_the_network_is_refused_off_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    later = dataclasses.make_dataclass("Later", [("dilation", int, 1)], bases=(Spec,), frozen=True)
    monkeypatch.setattr(torch_twin, "Spec", later)
    assert torch_twin.missing(later(), default()) == []
    assert torch_twin.missing(later(dilation=2), default()) == ["model.dilation=2"]


def test_a_future_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kind without parameters, in place of a shortcut that the twin knows.
    monkeypatch.setitem(SHORTCUTS, "B", SHORTCUTS["B"]._replace(changing="tz"))
    monkeypatch.setattr(
        layout, "SHORTCUT_STEPS", layout.SHORTCUT_STEPS | {"t": layout.SHORTCUT_STEPS["s"]._replace(kind="median")}
    )
    assert torch_twin.missing(Spec(shortcut="B"), default()) == ["median layers"]


def test_a_future_field_of_a_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dilated(NamedTuple):
        kind: str
        dilation: int = 2

    fields = layout.Layer._field_defaults | {"dilation": 1}
    dilated = Dilated("conv")
    monkeypatch.setattr(torch_twin.Layer, "_field_defaults", fields)
    monkeypatch.setattr(layout, "parts", lambda spec: [((), (dilated,))])
    assert torch_twin.missing(Spec(), default()) == ["a layer's dilation"]


def test_every_kind_of_layer_runs_in_both() -> None:
    known = {*torch_twin.BUILD, *torch_twin.COMPUTE}
    assert known == layers.RUN.keys() - {"flatten"}
