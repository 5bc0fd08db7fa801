"""The twins compute what the network computes, and say what they do not know."""

import dataclasses
import importlib.util
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

from resjax.benchmark import flax_twin, known
from resjax.config import default
from resjax.models import counts, layers, layout
from resjax.models.published import cifar, highway, imagenet
from resjax.models.resnet import ResNet, init_variables
from resjax.models.spec import SHORTCUTS, Spec
from resjax.train.optim import optimizer

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch

    from resjax.benchmark import torch_twin

needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
pytestmark = pytest.mark.usefixtures("quick_compilation")
ALL = (flax_twin, torch_twin) if HAS_TORCH else (flax_twin,)
each_twin = pytest.mark.parametrize("twin", ALL, ids=lambda twin: twin.__name__.rpartition(".")[2])

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
    "dilated": dataclasses.replace(imagenet("v1-50"), output_stride=4),
    "basic dilated": dataclasses.replace(imagenet("v1-18"), output_stride=4),
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


@needs_torch
@pytest.mark.parametrize("name", TWINS)
def test_the_torch_twin_has_the_same_parameters(name: str) -> None:
    with torch.device("meta"):
        twin = torch_twin.Twin(TWINS[name])
    assert sum(p.numel() for p in twin.parameters()) == counts.total(TWINS[name]).params


@pytest.mark.parametrize("name", TWINS)
def test_the_flax_twin_has_the_same_variables(name: str) -> None:
    """Names, shapes and types: the weights of the one are those of the other."""
    spec = dataclasses.replace(TWINS[name], input_size=33)
    twin = partial(flax_twin.Twin(spec).init, train=False)
    found = jax.eval_shape(twin, jax.random.key(0), np.zeros((1, 33, 33, 3), np.float32))
    own = jax.eval_shape(lambda: init_variables(spec, 0))
    assert found == {collection: tree for collection, tree in own.items() if tree}


@pytest.fixture(scope="module")
def own_logits() -> Any:
    """The network's, of random weights: each network is compiled once for both twins."""
    found: dict[Any, np.ndarray] = {}

    def of(name: str, train: bool) -> np.ndarray:
        if (name, train) not in found:
            spec = small(TWINS[name])
            model = jax.jit(partial(ResNet(spec).apply, train=train, mutable=["batch_stats"]))
            found[name, train] = np.asarray(model(random(spec), draw_images(spec))[0])
        return found[name, train]

    return of


CASES = [(name, False) for name in TWINS] + [("ResNet-D", True)]


@needs_torch
@pytest.mark.parametrize(("name", "train"), CASES)
def test_the_torch_twin_computes_the_same_logits(name: str, train: bool, own_logits: Any) -> None:
    spec = small(TWINS[name])
    assert torch_twin.missing(spec, default()) == []
    logits = own_logits(name, train)
    twin = torch_twin.Twin(spec).train(train)
    torch_twin.copy(random(spec), twin)
    with torch.no_grad():
        other = twin(torch.from_numpy(draw_images(spec)).permute(0, 3, 1, 2)).numpy()
    scale = np.abs(logits).max()
    np.testing.assert_allclose(other / scale, logits / scale, atol=1e-4)


@pytest.mark.parametrize(("name", "train"), CASES)
def test_the_flax_twin_computes_the_same_logits(name: str, train: bool, own_logits: Any) -> None:
    spec = small(TWINS[name])
    assert flax_twin.missing(spec, default()) == []
    logits = own_logits(name, train)
    twin = jax.jit(partial(flax_twin.Twin(spec).apply, train=train, mutable=["batch_stats"]))
    other = np.asarray(twin(random(spec), draw_images(spec))[0])
    scale = np.abs(logits).max()
    np.testing.assert_allclose(other / scale, logits / scale, atol=1e-4)


class Steps:
    """The network's own training steps on one batch, BN over all of it."""

    def __init__(self, name: str, decay_mask: str) -> None:
        self.spec, self.config = small(TWINS[name]), default()
        self.config.optimizer.update(RECIPE, decay_mask=decay_mask)
        self.variables, self.images, self.labels = random(self.spec), draw_images(self.spec), np.arange(8)
        tx = optimizer(self.config, optax.constant_schedule(RECIPE["learning_rate"]))
        self.state = (self.variables["params"], self.variables["batch_stats"], tx.init(self.variables["params"]))

        @jax.jit
        def step(params: Any, stats: Any, state: Any) -> Any:
            def loss(params: Any) -> Any:
                tree = {"params": params, "batch_stats": stats}
                logits, updates = ResNet(self.spec).apply(tree, self.images, train=True, mutable=["batch_stats"])
                targets = optax.smooth_labels(jax.nn.one_hot(self.labels, 10), RECIPE["label_smoothing"])
                return optax.softmax_cross_entropy(logits, targets).mean(), updates["batch_stats"]

            (value, new_stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, new_state = tx.update(grads, state, params)
            return value, (optax.apply_updates(params, updates), new_stats, new_state)

        self._step = step

    def __call__(self) -> jax.Array:
        """Takes one and returns its loss."""
        value, self.state = self._step(*self.state)
        return value


@needs_torch
@pytest.mark.parametrize(("name", "mask"), [("original", "kernels"), ("preactivation", "all")])
def test_two_training_steps_of_the_torch_twin_are_the_same(name: str, mask: str) -> None:
    own = Steps(name, mask)
    twin = torch_twin.Twin(own.spec)
    torch_twin.copy(own.variables, twin)
    step = torch_twin.TrainingStep(twin, own.config, own.images, own.labels, "cpu")
    for _ in range(2):
        np.testing.assert_allclose(step(), own(), rtol=1e-4)
    params, stats, _ = own.state
    found = twin.state_dict()
    expected = torch_twin.Twin(own.spec)
    torch_twin.copy({"params": params, "batch_stats": stats}, expected)
    for key, value in expected.state_dict().items():
        if "running_var" not in key and "num_batches" not in key:  # PyTorch's variance is the unbiased one
            np.testing.assert_allclose(found[key], value, rtol=1e-2, atol=2e-4, err_msg=key)


@pytest.mark.parametrize(("name", "mask"), [("original", "kernels"), ("preactivation", "all")])
def test_two_training_steps_of_the_flax_twin_are_the_same(name: str, mask: str) -> None:
    own = Steps(name, mask)
    step = flax_twin.TrainingStep(own.spec, own.config, own.variables, own.images, own.labels)
    for _ in range(2):
        np.testing.assert_allclose(step(), own(), rtol=1e-4)
    params, stats, _ = own.state
    found = {"params": step.state.params, "batch_stats": step.state.batch_stats}
    for (path, leaf), value in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves({"params": params, "batch_stats": stats}), strict=True
    ):
        np.testing.assert_allclose(leaf, value, rtol=1e-2, atol=2e-4, err_msg=jax.tree_util.keystr(path))


def test_the_flax_twin_convolves_as_flax_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever resjax does in its place: nothing of `resjax.models.layers` and `norm` runs in it."""
    spec = small(TWINS["original"])
    variables, images = random(spec), draw_images(spec)
    monkeypatch.setattr(layers, "RUN", {})
    monkeypatch.setattr("resjax.models.norm.BatchNorm.__call__", None)
    text = jax.jit(partial(flax_twin.Twin(spec).apply, train=False)).lower(variables, images).as_text()
    convolutions = sum(layer.kind == "conv" for _, row in layout.parts(spec) for layer in row)
    assert text.count("stablehlo.convolution") == convolutions


@each_twin
@pytest.mark.parametrize(
    ("fields", "recipe", "says"),
    [
        ({"stochastic_depth": 0.5}, {}, "model.stochastic_depth=0.5"),
        ({"shortcut_dropout": 0.5}, {}, "model.shortcut_dropout=0.5"),
        ({"remat": True}, {}, "model.remat=True"),
        (
            {"shortcut": "B", "shortcut_pool": True, "output_stride": 2},
            {},
            "model.shortcut_pool=True with model.output_stride=2",
        ),
        ({"unit": "dense", "stem": "none", "stem_width": 16, "shortcut": "B"}, {}, "flatten layers"),
        ({}, {"name": "adamw"}, "optimizer.name=adamw"),
        ({}, {"clip_norm": 1.0}, "optimizer.clip_norm=1.0"),
        ({}, {"accumulate": 2}, "optimizer.accumulate=2"),
        ({}, {"decay_mask": "biases"}, "optimizer.decay_mask=biases"),
    ],
)
def test_what_a_twin_does_not_know_is_named(twin: Any, fields: dict, recipe: dict, says: str) -> None:
    config = default()
    config.optimizer.update(recipe)
    assert twin.missing(Spec(**fields), config) == [says]


@each_twin
def test_a_future_optimizer_field_is_refused_off_its_default(twin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def later() -> Any:
        config = default()
        config.optimizer.trust = 0.0
        return config

    monkeypatch.setattr(known, "default", later)
    config = later()
    assert twin.missing(Spec(), config) == []
    config.optimizer.trust = 1.0
    assert twin.missing(Spec(), config) == ["optimizer.trust=1.0"]


@each_twin
def test_a_future_field_of_a_network_is_refused_off_its_default(twin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    later = dataclasses.make_dataclass("Later", [("later", int, 1)], bases=(Spec,), frozen=True)
    monkeypatch.setattr(known, "Spec", later)
    assert twin.missing(later(), default()) == []
    assert twin.missing(later(later=2), default()) == ["model.later=2"]


@each_twin
def test_a_future_layer_is_refused(twin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kind without parameters, in place of a shortcut that the twin knows.
    monkeypatch.setitem(SHORTCUTS, "B", SHORTCUTS["B"]._replace(changing="tz"))
    monkeypatch.setattr(
        layout, "SHORTCUT_STEPS", layout.SHORTCUT_STEPS | {"t": layout.SHORTCUT_STEPS["s"]._replace(kind="median")}
    )
    assert twin.missing(Spec(shortcut="B"), default()) == ["median layers"]


@each_twin
def test_a_future_field_of_a_layer_is_refused(twin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(NamedTuple):
        kind: str
        later: int = 2

    fields = layout.Layer._field_defaults | {"later": 1}
    layer = Later("conv")
    monkeypatch.setattr(layout.Layer, "_field_defaults", fields)
    monkeypatch.setattr(layout, "parts", lambda spec: [((), (layer,))])
    assert twin.missing(Spec(), default()) == ["a layer's later"]


def test_every_kind_of_layer_runs_in_all() -> None:
    kinds = layers.RUN.keys() - {"flatten"}
    assert flax_twin.RUN.keys() == kinds
    if HAS_TORCH:
        assert {*torch_twin.BUILD, *torch_twin.COMPUTE} == kinds
