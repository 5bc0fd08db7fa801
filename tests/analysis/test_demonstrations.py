"""The arguments of the papers that need no run: their numbers, and the command that prints and draws them."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.analysis import change, decay, identity, products, stacks
from resjax.analysis.__main__ import DEMONSTRATIONS, demonstrate, main
from resjax.analysis.runs import Options
from resjax.errors import BadInput
from resjax.models.units import Unit


@pytest.fixture
def small(monkeypatch):
    """Every demonstration with few depths and cases, which the tests share, as most of the time is compilation."""
    monkeypatch.setattr(identity, "UNITS", (1,))
    monkeypatch.setattr(identity, "RATES", (0.1, 1e30))
    monkeypatch.setattr(identity, "STEPS", 200)
    labels = ("w = 1, at 0", "w = 8, at 0", "gain 1", "plain", "lambda = 0.5, F = 0")
    monkeypatch.setattr(products, "CASES", tuple(case for case in products.CASES if case.label in labels))
    names = ("residual", "plain", "residual, BN, all decays", "residual, BN, kernels decay")
    monkeypatch.setattr(decay, "CASES", {name: decay.CASES[name] for name in names})


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_every_demonstration_writes_its_picture_and_its_numbers(small, tmp_path, capsys, name):
    seeds = [] if name == "change" else ["--seeds=2"]
    main([name, *seeds, f"--out={tmp_path / 'new'}"])
    out, err = capsys.readouterr()
    assert (tmp_path / f"new/{name}.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / f"new/{name}.json").read_text())
    assert out == DEMONSTRATIONS[name].table(found) + "\n"
    assert err.endswith(f"{name}.png\n{tmp_path}/new/{name}.json\n")
    if seeds:
        assert found["seeds"] == 2
        assert "n=2" in out or "(2)" in out
        assert "±" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["decay", "--workdir=runs/x"], "--workdir=runs/x: decay looks into no run"),
        (["change", "--seeds=3"], "--seeds=3: change does not take it"),
        (["identity", "--step=3"], "--step=3: identity does not take it"),
        (["decay", "--seeds=0"], "--seeds=0: must be at least 1"),
        (["curves", "--workdir=x", "--seeds=3"], "--seeds=3: curves does not take it"),
        (["product"], "did you mean products"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(BadInput, match=message) as error:
        main(argv)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(change, "measure", None)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"--out=.*file: cannot be written"):
        demonstrate("change", Options(), tmp_path / "file")


def test_the_worked_case():
    """A target of 5.1 for the input 5: both units are at 5, and learn 5.1 by the same gradient."""
    units = change.measure(Options())["units"]
    for one in units.values():
        assert (one["output"], one["target"]) == (5, pytest.approx(5.1))
        assert one["gradient"] == pytest.approx(-0.1 * 5)  # (y - t) x
    assert units["plain"]["change"] == pytest.approx(0.1 / 5.1)
    assert units["residual"]["change"] == 1


def test_one_unit_fits_the_identity(small):
    """And a rate that diverges is never the best."""
    found = identity.measure(Options(seeds=2))
    assert [at["rate"] for kind in identity.KINDS for at in found[kind]] == [0.1, 0.1]
    plain, residual = (np.mean(found[kind][0]["errors"]) for kind in ("plain", "residual"))
    assert 1e-3 < plain < 0.5
    assert residual < 1e-3


def test_decay_alone_leads_a_residual_unit_to_the_identity_and_a_plain_one_to_zero(small):
    found = decay.measure(Options(seeds=2))
    left = np.array(found["left"])
    assert left[-1] == pytest.approx(1e-4, rel=0.03)

    def ends(name, kind):
        return np.array(found[name][kind])[:, -1]

    assert (ends("residual", "distance") < 1e-6).all()
    assert (ends("plain", "size") < 1e-6).all()
    # Without BN and biases the branch is homogeneous in the weights of its two layers.
    size = np.array(found["plain"]["size"])
    np.testing.assert_allclose(size, size[:, :1] * left**2, rtol=1e-3)
    # With BN, kernels alone change nothing while their outputs are far above BN's epsilon; all parameters do.
    tenth = int(np.argmin(abs(left - 0.1)))
    kernels, everything = (
        np.array(found[f"residual, BN, {what} decay{s}"]["distance"])[:, tenth] / 0.83
        for what, s in (("kernels", ""), ("all", "s"))
    )
    np.testing.assert_allclose(kernels, 1, atol=0.05)
    assert (everything < 0.15).all()


def test_products_by_formula_and_measured(small):
    found = {one["label"]: one for one in products.measure(Options(seeds=2))["cases"]}
    factors = {label: np.mean(products.factors(one)) for label, one in found.items()}
    # A sigmoid passes on a quarter of w at 0, and less anywhere else.
    assert found["w = 1, at 0"]["log10"][0][10] == pytest.approx(math.log10(9.5e-7), abs=0.01)
    assert factors["w = 1, at 0"] == pytest.approx(0.25, rel=1e-5)
    assert factors["w = 8, at 0"] == pytest.approx(2, rel=1e-5)
    for label, formula in {"gain 1": 0.7071, "plain": 1.2112, "lambda = 0.5, F = 0": 0.5}.items():
        assert found[label]["formula"] == pytest.approx(formula, abs=1e-4)
        assert factors[label] == pytest.approx(formula, rel=0.03)


def test_a_gradient_passed_back_unit_by_unit_is_the_stacks():
    stage = stacks.stack(6, 8, order="full_preactivation")
    x, gradient = jax.random.normal(jax.random.key(1), (2, 16, 8))
    variables = stacks.start(stage, jax.random.key(0), x)
    (whole,) = jax.vjp(lambda x: stacks.output(stage, variables, x), x)[1](gradient)
    ratio = jnp.linalg.norm(whole) / jnp.linalg.norm(gradient)
    units = [{kind: tree[shape.path[1]] for kind, tree in variables.items()} for shape in stage.shapes]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *units)
    sizes = products.passed_back(Unit(stage.spec, stage.shapes[0]), stacked, x, gradient)
    assert sizes.shape == (7,)
    np.testing.assert_allclose(sizes[-1], jnp.log10(ratio), rtol=1e-4)
