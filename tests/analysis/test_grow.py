import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.analysis import grow
from resjax.analysis.runs import OpenedRun, Options
from resjax.errors import BadInput
from resjax.evaluation.evaluate import make_eval_step
from resjax.models.published import dense
from resjax.models.resnet import ResNet
from resjax.models.spec import ORDERS, Spec
from tests.analysis.conftest import TINY, fresh

NETWORKS = {
    **{order: {"order": order} for order in ORDERS},
    "projections": {"shortcut": "B"},
    "without_bn": {"norm": "none"},
    "plain": {"shortcut": "none"},
    "plain_without_bn": {"shortcut": "none", "norm": "none"},
    "plain_one_layer": {"shortcut": "none", "unit": "single", "order": "relu_before_addition"},
}


def moved(variables):
    """As after training: no parameter and no statistic is where it started."""
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [leaf + abs(rng.normal(size=leaf.shape, scale=0.1)).astype("f") for leaf in leaves]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_identities_at_the_end_change_no_bit(batch, name):
    spec = Spec(**TINY | NETWORKS[name])
    variables = moved(fresh(spec, 0))
    grown, more = grow.grow(spec, variables, 2)
    assert grown.depth > spec.depth
    assert jax.tree.map(jnp.shape, more["params"]) == jax.tree.map(jnp.shape, fresh(grown, 0)["params"])
    whole, again = (grow.logits(s, v, batch["image"]) for s, v in ((spec, variables), (grown, more)))
    assert np.ptp(whole) > 0.1
    np.testing.assert_array_equal(whole, again)
    # And the units are real ones: with other weights it is another function.
    unit = more["params"]["stage2"]["unit3"]
    changed = jax.tree.map(lambda leaf: leaf + 0.1, unit)
    more["params"]["stage2"] = more["params"]["stage2"] | {"unit3": changed}
    assert not np.array_equal(whole, grow.logits(grown, more, batch["image"]))


def test_dense_networks_grow_too(batch):
    for name in ("v1-9", "plain-9"):
        spec = dense(name, features=8, width=72)
        variables = moved(fresh(spec, 0))
        grown = grow.grow(spec, variables, 1)
        np.testing.assert_array_equal(
            grow.logits(spec, variables, batch["image"]), grow.logits(*grown, batch["image"])
        )


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"gate": "exclusive"}, "an identity as its shortcut"),
        ({"shortcut": "C"}, "an identity as its shortcut"),
        ({"shortcut_scale": 0.5}, "an identity as its shortcut"),
        ({"activation": "sigmoid"}, "no sigmoid after the addition"),
        ({"shortcut": "none", "activation": "sigmoid"}, "a ReLU after each"),
        ({"shortcut": "none", "unit": "bottleneck", "widths": (8, 16)}, "layers of one width"),
        ({"shortcut": "none", "order": "full_preactivation"}, "a ReLU after each"),
    ],
)
def test_units_that_cannot_be_the_identity_are_refused(fields, needs):
    with pytest.raises(BadInput, match=f"cannot append identities to this network: .*{needs}"):
        grow.longer(Spec(**TINY | fields), 1)


@pytest.fixture(scope="module", autouse=True)
def few():
    """One unit at one rate: every other one is two more programs to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grow, "UNITS", (1,))
        patch.setattr(grow, "RATES", (0.1,))
        yield


@pytest.fixture(scope="module")
def found(residual):
    return grow.measure(OpenedRun.open(residual), Options(seeds=2, images=64))


def test_a_grown_run_keeps_its_accuracy(residual, found):
    assert [(at["units"], at["same_bits"]) for at in found["grown"]] == [(n, True) for n in grow.UNITS]
    assert {at["test_accuracy"] for at in found["grown"]} == {found["whole"]["test_accuracy"]}
    assert (found["images"], found["test_images"]) == (64, 64)
    run = OpenedRun.open(residual)
    everything = grow.pictures(run, "test", 1000)
    assert len(everything[1]) == 360
    scores = grow.logits(run.spec, run.variables(4), everything[0])
    accuracy = float((scores.argmax(1) == everything[1]).mean())
    assert accuracy == pytest.approx(json.loads((residual / "summary.json").read_text())["test_accuracy"])


def test_the_loss_is_that_of_evaluation_over_the_least_possible(residual, found):
    run = OpenedRun.open(residual)
    images, labels = grow.pictures(run, "train", 64)
    variables = run.variables(4)
    sums = make_eval_step(ResNet(run.spec))(
        variables["params"], variables["batch_stats"], {"image": images, "label": labels, "mask": jnp.ones(64)}
    )
    assert found["whole"]["train_loss"] == pytest.approx(float(sums["loss"]) / 64, rel=1e-4)
    run.config.optimizer.label_smoothing = 0.1
    smoothed = jnp.log(0.9 * jax.nn.one_hot(labels, 10) + 0.01)
    assert float(grow.cross_entropy(run, smoothed, labels)) == pytest.approx(0, abs=1e-6)


def test_fresh_units_are_trained_and_the_network_is_not(found):
    assert [(own["kind"], own["units"]) for own in found["trained"]] == [
        (kind, n) for n in grow.UNITS for kind in grow.KINDS
    ]
    for own in found["trained"]:
        assert own["rate"] in grow.RATES
        losses = np.array(own["train_loss"])
        assert losses.shape == (2, len(own["step"])) == (2, grow.POINTS + 1)
        assert (losses[:, -1] < losses[:, 0]).all()
        assert (losses[0] != losses[1]).all()  # seeds


def test_a_picture_of_it(found, tmp_path, drawn):
    grow.plot({"residual": found}, tmp_path / "x.png")
    left, right = drawn[0].axes
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels[:2] == ["as it is", "1 as the identity: the same bits"]
    assert labels[-1] == f"{grow.UNITS[-1]} residual, trained"
    for line, own in zip(right.lines, found["trained"], strict=False):
        np.testing.assert_allclose(line.get_ydata(), np.mean(own["train_loss"], axis=0))
    assert "64 training and 64 test images" in drawn[0].get_supxlabel()
    assert "n=2 seeds" in drawn[0].get_supxlabel()
