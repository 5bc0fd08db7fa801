"""oneDNN is chosen by the size of a step, where XLA itself says that it has it."""

import dataclasses
import platform

import jax
import jaxlib
import pytest

from resjax.errors import BadInput
from resjax.models import onednn, published

x86 = platform.machine() in ("x86_64", "AMD64")
asked_anew = onednn.is_there.__wrapped__


@pytest.mark.skipif(not x86, reason="XLA has oneDNN on x86")
def test_it_is_there_since_jaxlib_011() -> None:
    version = tuple(map(int, jaxlib.__version__.split(".")[:2]))
    assert asked_anew() == (version >= (0, 11))


@pytest.mark.parametrize("name", ["xla_cpu_of_another_time", "xla_cpu_experimental_ynn_fusion_type"])
def test_an_xla_that_does_not_know_the_options_has_none(name, monkeypatch) -> None:
    monkeypatch.setitem(onednn.OPTIONS, name, "LIBRARY_FUSION_TYPE_OF_ANOTHER_TIME")
    assert not asked_anew()


def test_elsewhere_than_on_a_cpu_nothing_is_compiled_to_know(monkeypatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "jit", None)
    assert not asked_anew()


CIFAR = published.cifar("v1-20")
OTHERS = {
    "a few images": (CIFAR, 8),
    "small images": (dataclasses.replace(CIFAR, input_size=8), 128),
    "float64": (dataclasses.replace(CIFAR, dtype="float64"), 128),
    "a loop": (dataclasses.replace(CIFAR, convolution="products"), 128),
}


def test_it_is_chosen_where_a_step_is_long(monkeypatch) -> None:
    monkeypatch.setattr(onednn, "is_there", lambda: True)
    spec, options = onednn.choose(CIFAR, 128)
    assert (spec.convolution, options) == ("onednn", onednn.OPTIONS)
    asked = dataclasses.replace(CIFAR, convolution="onednn")
    assert onednn.choose(asked, 8) == (asked, onednn.OPTIONS)


@pytest.mark.parametrize("other", OTHERS)
def test_elsewhere_it_is_not(other, monkeypatch) -> None:
    spec, images = OTHERS[other]
    monkeypatch.setattr(onednn, "is_there", lambda: True)
    assert onednn.choose(spec, images) == (spec, {})


def test_where_there_is_none_it_can_only_be_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(onednn, "is_there", lambda: False)
    assert onednn.choose(CIFAR, 128) == (CIFAR, {})
    with pytest.raises(BadInput, match=r"model\.convolution=onednn: XLA has none here .*jaxlib 0\.11"):
        onednn.choose(dataclasses.replace(CIFAR, convolution="onednn"), 128)
