import numpy as np
import pytest

from resjax.analysis import responses
from resjax.analysis.runs import Options
from resjax.errors import BadInput
from resjax.models.published import cifar, imagenet
from resjax.models.spec import Spec
from tests.analysis.conftest import TINY, fresh


@pytest.mark.parametrize("shortcut", ["A", "none"])
def test_a_fresh_network_shows_one_everywhere(images, shortcut):
    spec = Spec(**TINY, shortcut=shortcut)
    found = responses.responses(spec, fresh(spec, 0), images)
    assert len(found) == spec.depth - 1
    np.testing.assert_allclose(list(found.values()), 1, atol=1e-2)


def test_a_zero_gamma_network_shows_zero_at_the_end_of_every_branch(images):
    variables = fresh(Spec(**TINY, zero_gamma=True), 0)  # a matter of initialisation alone
    found = responses.responses(Spec(**TINY), variables, images)
    for layer, std in found.items():
        assert std == 0 if layer.endswith("norm2") else abs(std - 1) < 1e-2, layer


def test_the_figure_shows_gamma(images):
    spec = Spec(**TINY)
    variables = fresh(spec, 0)
    scale = variables["params"]["stage2"]["unit1"]["norm1"]
    scale["scale"] = 0.3 * scale["scale"]
    found = responses.responses(spec, variables, images)
    np.testing.assert_allclose(found["stage2/unit1/norm1"], 0.3, atol=1e-2)


def test_without_a_norm_after_it_the_convolution_itself_is_measured(images):
    spec = Spec(**TINY, order="full_preactivation")
    variables = fresh(spec, 0)
    found = responses.responses(spec, variables, images)
    assert list(found)[:3] == ["stem/norm1", "stage1/unit0/conv1", "stage1/unit0/conv2"]
    kernel = variables["params"]["stage1"]["unit0"]["conv1"]
    kernel["kernel"] = 2 * kernel["kernel"]
    again = responses.responses(spec, variables, images)
    np.testing.assert_allclose(again["stage1/unit0/conv1"], 2 * found["stage1/unit0/conv1"], rtol=1e-5)


def test_only_3x3_layers_are_shown():
    assert len(responses.layers(cifar("v1-110"))) == 109
    bottlenecks = responses.layers(imagenet("v1-50"))
    assert len(bottlenecks) == 16
    assert {path[-1] for path in bottlenecks} == {"norm2"}


def test_several_runs_in_one_picture(residual, plain_run, tmp_path, drawn):
    found = responses.draw({"ResNet": residual, "plain": plain_run}, tmp_path / "x.png", Options(images=32))
    assert (tmp_path / "x.png").stat().st_size > 0
    top, bottom = drawn[0].axes
    assert [run["step"] for run in found.values()] == [4, 2]
    for run, in_order, in_size in zip(found.values(), top.lines, bottom.lines, strict=True):
        assert list(in_order.get_ydata()) == run["std"]
        assert list(in_size.get_ydata()) == sorted(run["std"], reverse=True)
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["ResNet, step 4", "plain, step 2"]
    assert "4 steps of 32 images; standard deviations over 32 images" in drawn[0].get_supxlabel()


def test_scanned_runs_are_measured_alike(scanned, tmp_path):
    found = responses.draw({"a": scanned}, tmp_path / "x.png", Options(step="0", images=32))
    np.testing.assert_allclose(found["a"]["std"], 1, atol=0.1)
    assert len(found["a"]["layers"]) == 9


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(BadInput, match="no run"):
        responses.draw({"a": tmp_path}, tmp_path / "x.png")
