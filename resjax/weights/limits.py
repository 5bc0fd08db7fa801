"""What another library's networks can be, so that nothing is handed over that it would compute in another way."""

from collections.abc import Iterator
from typing import Any

from resjax.errors import BadInput
from resjax.models.spec import Spec
from resjax.weights import names

COMMON: dict[str, tuple[Any, ...]] = {
    "unit": ("bottleneck", "basic"),
    "norm": ("batch",),
    "activation": ("relu",),
    "gate": ("none",),
    "shortcut": ("B",),
    "shortcut_scale": (1.0,),
    "branch_scale": (1.0,),
    "shortcut_dropout": (0.0,),
    "output_stride": (0,),
    "bn_epsilon": (1e-5,),
}
ORIGINAL = {"order": ("original",), "stem_raw": (False,)}
PLAIN = ORIGINAL | {"stem": ("conv7",), "shortcut_pool": (False,), "excitation": (0,)}
TIMM = {"stem": ("conv7", "deep"), "stride_on": ("3x3",)}
TIMM_V2 = {"order": ("full_preactivation",), "stem_raw": (True,), "excitation": (0,)}


def check(spec: Spec, library: str, what: str) -> None:
    """Raises BadInput, naming the first field, unless the library can say the network.

    Args:
      what: what needs it, for the message.
    """
    if library == "resjax":
        return
    for field, allowed in _rules(spec, library):
        value = getattr(spec, field)
        if value not in allowed and not (field == "stride_on" and spec.unit != "bottleneck"):
            raise BadInput(f"{what}: {library} has no network with model.{field}={value}, only {_listed(allowed)}")
    names.rows(spec, library)  # every layer has a name


def _rules(spec: Spec, library: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield from COMMON.items()
    if library == "torchvision":
        yield from (PLAIN | {"stride_on": ("3x3",)}).items()
    elif library == "transformers":
        yield from (PLAIN | {"groups": (1,), "inner_share": (4 if spec.unit == "bottleneck" else 1,)}).items()
    else:
        yield from (TIMM | (TIMM_V2 if spec.order == "full_preactivation" else ORIGINAL)).items()


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(map(str, values))
