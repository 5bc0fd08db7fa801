import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.analysis import lesion
from resjax.analysis.runs import OpenedRun, Options
from resjax.errors import BadInput
from resjax.evaluation.evaluate import make_eval_step
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from tests.analysis.conftest import TINY, fresh, make_config, make_workdir, save_start


def test_only_units_that_keep_their_shape_can_go():
    assert lesion.removable(Spec(**TINY)) == [("stage1", "unit0"), ("stage1", "unit1"), ("stage2", "unit1")]


@pytest.mark.parametrize("order", ["original", "full_preactivation"])
def test_removing_an_empty_branch_changes_no_bit(batch, order):
    spec = Spec(**TINY, order=order)
    variables = fresh(spec, 0)
    unit = variables["params"]["stage1"]["unit1"]
    last = unit["norm2"] if order == "original" else unit["conv2"]
    last |= jax.tree.map(jnp.zeros_like, last)
    batch = batch | {"mask": jnp.ones(32)}
    whole, without, another = (
        lesion.lesioned(spec, variables, batch, jnp.arange(3) == removed) for removed in (-1, 1, 2)
    )
    assert without["loss"] == whole["loss"]
    assert another["loss"] != whole["loss"]
    plainly = jax.jit(make_eval_step(ResNet(spec)))(variables["params"], variables["batch_stats"], batch)
    np.testing.assert_allclose(whole["loss"], plainly["loss"], rtol=1e-5)


def test_without_some_units_it_is_a_shorter_network(batch):
    spec = Spec(**TINY, shortcut="none")
    variables = fresh(spec, 0)
    batch = batch | {"mask": jnp.ones(32)}
    found = lesion.lesioned(spec, variables, batch, jnp.array([True, False, True]))
    shorter = [
        tree | {"stage1": {"unit0": tree["stage1"]["unit1"]}, "stage2": {"unit0": tree["stage2"]["unit0"]}}
        for tree in (variables["params"], variables["batch_stats"])
    ]
    step = jax.jit(make_eval_step(ResNet(Spec(**TINY | {"units": (1, 1)}, shortcut="none"))))
    np.testing.assert_allclose(found["loss"], step(*shorter, batch)["loss"], rtol=1e-5)


def test_one_compilation_serves_every_choice(residual):
    before = lesion.lesioned._cache_size()
    found = lesion.measure(OpenedRun.open(residual), Options(images=32, draws=2))
    assert lesion.lesioned._cache_size() <= before + 1
    assert found["units"] == ["stage1/unit0", "stage1/unit1", "stage2/unit1"]
    assert [len(single) for single in found["single"]] == [3]
    assert [at["removed"] for at in found["random"]] == [1, 2, 3]
    assert all([len(draws) for draws in at["accuracy"]] == [2] for at in found["random"])
    # All units at once is one choice only.
    assert len(set(found["random"][-1]["accuracy"][0])) == 1


def test_the_whole_network_has_its_own_accuracy(residual):
    found = lesion.measure(OpenedRun.open(residual), Options(draws=1))
    assert found["images"] == 360
    assert found["whole"] == [json.loads((residual / "summary.json").read_text())["test_accuracy"]]


def test_every_seed_is_measured_and_drawn(tmp_path, drawn):
    """Of other weights here, so that the mean is neither seed's own."""
    seeds = [tmp_path / "sweep" / f"seed{seed}" for seed in (0, 1)]
    for seed, workdir in enumerate(seeds):
        save_start(workdir, make_config(), seed)
    options = Options(images=32, draws=2)
    alone = [lesion.measure(OpenedRun.open(workdir), options) for workdir in seeds]
    found = lesion.measure(OpenedRun.open(*seeds), options)
    assert found["seeds"] == 2
    assert found["single"] == [one["single"][0] for one in alone]
    assert found["single"][0] != found["single"][1]
    assert found["whole"] == [one["whole"][0] for one in alone]
    assert [at["accuracy"] for at in found["random"]] == [
        [one["random"][k]["accuracy"][0] for one in alone] for k in range(3)
    ]
    lesion.plot({"both": found}, tmp_path / "x.png")
    left, _ = drawn[0].axes
    single = 100 * np.array(found["single"])
    np.testing.assert_allclose(left.lines[0].get_ydata(), single.mean(0))
    edge = left.collections[0].get_paths()[0].vertices
    half = np.abs(single[0] - single[1]) / 2**0.5  # the sample standard deviation of two
    for unit in (1, 2, 3):
        own = edge[edge[:, 0] == unit, 1]
        mean = single[:, unit - 1].mean()
        ends = np.clip([mean - half[unit - 1], mean + half[unit - 1]], 0, 100)
        np.testing.assert_allclose((own.min(), own.max()), ends)
    assert "both (n=2)" in left.get_legend().get_texts()[0].get_text()
    assert lesion.profiles(found) == {"accuracy without the unit": list(np.mean(found["single"], axis=0))}


def test_seeds_at_different_steps_are_refused(residual, tmp_path):
    for seed, kept in enumerate((("2", "4"), ("2",))):
        workdir = tmp_path / f"seed{seed}"
        shutil.copytree(residual, workdir)
        for step in {"2", "4"} - set(kept):
            shutil.rmtree(workdir / "checkpoints" / step)
    run = OpenedRun.open(tmp_path / "seed0", tmp_path / "seed1")
    with pytest.raises(BadInput, match="its seeds are at steps 4, 2"):
        lesion.measure(run, Options(images=32, draws=1))
    assert lesion.measure(run, Options(step="2", images=32, draws=1))["step"] == 2


def test_a_picture_of_several_runs(scanned, plain_run, tmp_path, drawn):
    found = {w.name: lesion.measure(OpenedRun.open(w), Options(images=32, draws=2)) for w in (scanned, plain_run)}
    lesion.plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0
    left, right = drawn[0].axes
    for i, run in enumerate(found.values()):
        single, whole = left.lines[2 * i : 2 * i + 2]
        np.testing.assert_allclose(single.get_ydata(), 100 * np.array(run["single"][0]))
        np.testing.assert_allclose(whole.get_ydata(), 100 * run["whole"][0])
        assert (single.get_linestyle(), whole.get_linestyle()) == ("-", "--")
        draws = 100 * np.array([at["accuracy"][0] for at in run["random"]])
        np.testing.assert_allclose(right.lines[i].get_ydata(), [100 * run["whole"][0], *draws.mean(1)])
        band = right.collections[i].get_paths()[0].vertices
        ends = [(y.min(), y.max()) for y in (band[band[:, 0] == k, 1] for k in (1, 2))]
        spread = draws.std(1, ddof=1)
        np.testing.assert_allclose(
            ends[0], np.clip([draws[0].mean() - spread[0], draws[0].mean() + spread[0]], 0, 100)
        )
    for axes in (left, right):
        assert list(axes.lines[-1].get_ydata()) == [10, 10]  # chance, of ten classes
        assert axes.get_legend().get_texts()[-1].get_text() == "chance"
    assert "32 test images" in drawn[0].get_supxlabel()


def test_draws_are_sets_of_every_size_from_the_runs_seed():
    drawn = list(lesion.choices(20, 3, 0))
    assert [int(removed.sum()) for removed in drawn] == [k for k in (1, 4, 6, 9, 12, 15, 17, 20) for _ in range(3)]
    assert not np.array_equal(drawn[3], drawn[4])
    assert not np.array_equal(drawn[3], list(lesion.choices(20, 3, 1))[3])
    assert len(list(lesion.choices(3, 2, 0))) == 6


def test_a_network_of_changing_units_only(tmp_path):
    workdir = make_workdir(tmp_path / "run", make_config(units=(1,), widths=(8,)))
    with pytest.raises(BadInput, match="none can be removed"):
        lesion.measure(OpenedRun.open(workdir), Options(step="0"))
