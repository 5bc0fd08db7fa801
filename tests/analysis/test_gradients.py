import jax
import jax.numpy as jnp
import numpy as np
import optax

from resjax.analysis import gradients
from resjax.analysis.runs import OpenedRun, Options
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from tests.analysis.conftest import TINY, fresh

DENSE = {
    "units": (10,),
    "widths": (64,),
    "unit": "dense_single",
    "stem": "dense",
    "stem_width": 64,
    "norm": "none",
    "init": "fan_in",
    "init_gain": 1.0,
    "input_size": 8,
    "input_channels": 1,
}


def falls(spec, batch):
    """How the gradient by a unit's output changes from each unit to the one before it."""
    norms = gradients.gradients(spec, fresh(spec, 0), batch)["activations"].values()
    norms = np.array(list(norms))
    return norms[:-1] / norms[1:]


def test_a_plain_sigmoid_network_loses_three_quarters_of_the_gradient_a_layer(batch):
    ratios = falls(Spec(**DENSE, activation="sigmoid", shortcut="none"), batch)
    # sigmoid' <= 1/4, and weights of variance 1/fan_in keep a norm on average.
    assert 0.2 < np.exp(np.log(ratios).mean()) < 0.26


def test_a_residual_one_keeps_it(batch):
    spec = Spec(**DENSE | {"unit": "dense"}, activation="sigmoid", shortcut="A", order="full_preactivation")
    assert (falls(spec, batch) > 0.9).all()


def test_a_relu_network_with_he_weights_keeps_it(batch):
    spec = Spec(**DENSE | {"init_gain": 2.0}, shortcut="none")
    assert 0.8 < np.exp(np.log(falls(spec, batch)).mean()) < 1.25


def test_normalisation_lets_the_gradient_of_a_plain_network_explode(batch):
    """Towards the input it grows by a constant factor a unit; beside a shortcut far less."""
    sizes = TINY | {"units": (8,), "widths": (16,), "stem_width": 16}
    plain, residual = (falls(Spec(**sizes, shortcut=shortcut), batch) for shortcut in ("none", "A"))
    assert 1.25 < np.exp(np.log(plain).mean()) < 1.7
    assert 1.0 < np.exp(np.log(residual).mean()) < 1.25
    assert (plain > 1).all()


def test_norms_are_those_of_plain_differentiation(batch):
    spec = Spec(**TINY)
    variables = fresh(spec, 0)
    found = gradients.gradients(spec, variables, batch)

    def forward(params):
        inputs = variables | {"params": params}
        return ResNet(spec).apply(inputs, batch["image"], train=True, mutable=["batch_stats"])[0]

    def loss_and_logits(params):
        logits = forward(params)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), logits

    grads, logits = jax.jit(jax.grad(loss_and_logits, has_aux=True))(variables["params"])
    units = [grads[stage][unit] for stage in ("stage1", "stage2") for unit in ("unit0", "unit1")]
    kernels = [grads["stem"]["conv1"], *[u[conv] for u in units for conv in ("conv1", "conv2")], grads["head"]]
    assert list(found["weights"])[:2] == ["stem/conv1", "stage1/unit0/conv1"]
    assert list(found["weights"])[-2:] == ["stage2/unit1/conv2", "head"]
    expected = [np.linalg.norm(np.ravel(kernel["kernel"])) for kernel in kernels]
    np.testing.assert_allclose(list(found["weights"].values()), expected, rtol=1e-4)
    # The last unit's output is averaged over 4x4 pixels and multiplied by the head's kernel.
    by_logits = (jax.nn.softmax(logits) - jax.nn.one_hot(batch["label"], 10)) / len(logits)
    by_mean = by_logits @ variables["params"]["head"]["kernel"].T
    expected = jnp.linalg.norm(by_mean) / 4
    np.testing.assert_allclose(found["activations"]["stage2/unit1"], expected, rtol=1e-4)
    assert found["kernels"].keys() == found["weights"].keys()
    params = variables["params"]
    for name, kernel in {"stem/conv1": params["stem"]["conv1"], "head": params["head"]}.items():
        np.testing.assert_allclose(found["kernels"][name], np.linalg.norm(np.ravel(kernel["kernel"])), rtol=1e-5)


def test_the_gradient_falls_as_the_norm_of_a_normalised_kernel_grows(batch):
    """What makes the effective rate of SGD fall with the square of the norm."""
    spec = Spec(**TINY)
    variables = fresh(spec, 0)
    grown = variables | {"params": jax.tree.map(lambda x: x, variables["params"])}
    grown["params"]["stem"]["conv1"]["kernel"] *= 8.0
    before, after = (gradients.gradients(spec, v, batch) for v in (variables, grown))
    ratios = {kind: after[kind]["stem/conv1"] / before[kind]["stem/conv1"] for kind in ("kernels", "weights")}
    np.testing.assert_allclose([ratios["kernels"], ratios["weights"]], [8, 1 / 8], rtol=1e-2)


def test_the_start_and_every_saved_step_are_measured(residual, scanned):
    for workdir, steps in ((residual, [0, 2, 4]), (scanned, [0, 2])):
        found = gradients.measure(OpenedRun.open(workdir), Options(images=32))
        assert [at["step"] for at in found["steps"]] == steps
        assert all(len(at["activations"]) == 4 and min(at["weights"]) > 0 for at in found["steps"])


def test_a_chosen_step_is_measured_beside_the_start(residual):
    run = OpenedRun.open(residual)
    steps = {step: gradients.measure(run, Options(step=step, images=32))["steps"] for step in ("2", "0")}
    assert [at["step"] for at in steps["2"]] == [0, 2]
    assert [at["step"] for at in steps["0"]] == [0]
    expected = gradients.gradients(run.spec, run.variables(2), run.batch(32))
    assert steps["2"][1]["weights"] == list(expected["weights"].values())


def test_a_picture_of_several_runs(residual, scanned, tmp_path, drawn):
    found = {w.name: gradients.measure(OpenedRun.open(w), Options(images=32)) for w in (residual, scanned)}
    gradients.plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0
    for i, (label, run) in enumerate(found.items()):
        row = drawn[0].axes[3 * i : 3 * i + 3]
        assert [axes.get_title() for axes in row] == [label] * 3
        for axes, kind in zip(row, ("kernels", "weights", "activations"), strict=True):
            assert [list(line.get_ydata()) for line in axes.lines] == [at[kind] for at in run["steps"]]
    texts = [text.get_text() for text in row[-1].get_legend().get_texts()]
    assert texts == ["at the start", "step 2"]
    last = found["residual"]["steps"][-1]
    assert gradients.profiles(found["residual"])["weights at step 4"] == last["weights"]


def test_a_picture_of_several_runs_at_the_start_has_them_in_one_row(residual, scanned, tmp_path, drawn):
    runs = {w.name: OpenedRun.open(w) for w in (residual, scanned)}
    found = {name: gradients.measure(run, Options(step="0", images=32)) for name, run in runs.items()}
    gradients.plot(found, tmp_path / "x.png")
    assert [axes.get_title() for axes in drawn[0].axes] == ["at the start"] * 3
    for axes, kind in zip(drawn[0].axes, ("kernels", "weights", "activations"), strict=True):
        assert [list(line.get_ydata()) for line in axes.lines] == [run["steps"][0][kind] for run in found.values()]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(found)
