import numpy as np
import pytest

from resjax.analysis import branches
from resjax.analysis.runs import OpenedRun, Options
from resjax.errors import BadInput
from resjax.models.spec import Spec
from tests.analysis.conftest import TINY, fresh


def test_a_zero_gamma_network_starts_without_branches(images):
    variables = fresh(Spec(**TINY, zero_gamma=True), 0)  # a matter of initialisation alone
    found = branches.branches(Spec(**TINY), variables, images)
    assert list(found) == ["stage1/unit0", "stage1/unit1", "stage2/unit0", "stage2/unit1"]
    assert all(unit["branch"] == unit["ratio"] == unit["branch_std"] == 0 for unit in found.values())
    assert all(unit["skip"] > 0 for unit in found.values())


def test_branches_that_end_in_bn_start_at_one(images):
    spec = Spec(**TINY)
    found = branches.branches(spec, fresh(spec, 0), images)
    for unit in found.values():
        np.testing.assert_allclose([unit["branch"], unit["branch_std"]], 1, atol=1e-2)
        np.testing.assert_allclose(unit["ratio"], unit["branch"] / unit["skip"], rtol=1e-6)


def test_scales_are_part_of_what_enters_the_addition(images):
    spec = Spec(**TINY | {"units": (1,), "widths": (4,)}, branch_scale=0.5)
    found = branches.branches(spec, fresh(spec, 0), images)
    np.testing.assert_allclose([unit["branch"] for unit in found.values()], 0.5, atol=1e-2)


def test_the_start_and_a_saved_step_of_a_run(residual, scanned, tmp_path, drawn):
    found = {w.name: branches.measure(OpenedRun.open(w), Options(images=32)) for w in (residual, scanned)}
    assert [at["step"] for at in found["residual"]["steps"]] == [0, 4]
    assert [len(run["steps"][1]["ratio"]) for run in found.values()] == [4, 4]
    branches.plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0
    top, bottom = drawn[0].axes
    measured = [at for run in found.values() for at in run["steps"]]
    for at, ratio, branch in zip(measured, top.lines, bottom.lines, strict=True):
        assert (list(ratio.get_ydata()), list(branch.get_ydata())) == (at["ratio"], at["branch"])
        assert ratio.get_linestyle() == branch.get_linestyle() == ("-" if at["step"] else "--")
    assert branches.profiles(found["residual"]) == {
        f"ratio at step {at['step']}": at["ratio"] for at in measured[:2]
    }


def test_a_plain_network_has_none(plain_run):
    with pytest.raises(BadInput, match="no residual branches"):
        branches.measure(OpenedRun.open(plain_run), Options())
