"""What a twin of a network knows to be the same. Guards are allow-lists: `missing` names everything else."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from resjax.config import default
from resjax.models import layout
from resjax.models.layout import Layer
from resjax.models.spec import Spec

# FIELDS with any value, and VALUES with these. Any other field must have its default.
FIELDS = {
    *("units", "widths", "unit", "squeeze", "groups", "stem", "stem_width", "stem_raw"),
    *("stride_on", "output_stride"),
    *("order", "excitation", "shortcut", "shortcut_pool", "shortcut_scale", "branch_scale", "activation"),
    *("gate_layers", "gate_bias"),
    *("bn_momentum", "bn_epsilon", "input_size", "input_channels", "num_classes"),
    *("init", "init_gain", "zero_gamma"),  # a twin starts from a copy of the weights
    "bn_group",  # the benchmark says that twins normalise over the whole batch
    *("scan", "convolution"),  # the same function
}
VALUES = {
    "gate": ("none", "exclusive", "shortcut_only"),
    "norm": ("batch", "none"),
    "dtype": ("float32", "bfloat16"),
}
OPTIMIZER_FIELDS = {"learning_rate", "momentum", "nesterov", "weight_decay", "label_smoothing"}
OPTIMIZER_FIELDS |= {"beta2"}  # AdamW's
OPTIMIZER_VALUES = {"name": ("sgd",), "decay_mask": ("all", "kernels")}
LAYER_FIELDS = {"kind", "in_width", "width", "size", "name", "kernel", "stride", "groups", "dilation"}
LAYER_FIELDS |= {"bias", "gamma", "beta"}
UNIT_PARTS = {"lead", "branch", "excitation", "shortcut", "gate", "after", "activated"}


def missing(spec: Spec, config: ConfigDict, kinds: Collection[str]) -> list[str]:
    """What a twin with these kinds of layers does not know in a network or recipe; empty if it can be built."""
    fields, recipe = dataclasses.asdict(spec), config.optimizer.to_dict()
    reasons = [f"model.{f}={fields[f]}" for f in unknown(fields, dataclasses.asdict(Spec()), FIELDS, VALUES)]
    defaults = default().optimizer.to_dict()
    reasons += [f"optimizer.{f}={recipe[f]}" for f in unknown(recipe, defaults, OPTIMIZER_FIELDS, OPTIMIZER_VALUES)]
    for section in ("loss", "mix", "ema"):
        given, usual = config[section].to_dict(), default()[section].to_dict()
        reasons += [f"{section}.{f}={given[f]}" for f in unknown(given, usual, set())]
    for shape in spec.unit_shapes():
        unit = layout.unit(spec, shape)._asdict()
        reasons += [f"a unit's {part}" for part in unknown(unit, dict.fromkeys(unit, ()), UNIT_PARTS)]
    for layer in (layer for _, layers in layout.parts(spec) for layer in layers):
        reasons += [] if layer.kind in kinds else [f"{layer.kind} layers"]
        if layer.kind == "average_pool" and layer.stride != layer.kernel:
            reasons.append(f"model.shortcut_pool=True with model.output_stride={spec.output_stride}")
        reasons += [f"a layer's {f}" for f in unknown(layer._asdict(), Layer._field_defaults, LAYER_FIELDS)]
    return list(dict.fromkeys(reasons))


def unknown(
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fields: set[str],
    values: Mapping[str, tuple[Any, ...]] | None = None,
) -> list[str]:
    """The fields that are not in `fields` and have none of their `values`, or else not their default."""
    values = values or {}
    known = {field: values.get(field, (defaults.get(field),)) for field in given}
    return [field for field, value in given.items() if field not in fields and value not in known[field]]
