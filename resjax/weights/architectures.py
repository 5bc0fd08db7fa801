"""Which network weights are of: by the names of other libraries, by their config files, by the arrays themselves.

Names and shapes alone do not tell: v1 and v1.5 have the same ones and stride elsewhere. So the arrays only say
which networks of `configs/imagenet.py` could be meant.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from resjax import paths
from resjax.errors import BadInput, unknown
from resjax.models.published import IMAGENET_FAMILIES, IMAGENET_STAGES, imagenet
from resjax.models.spec import FROM_DATA, Spec, whole
from resjax.weights import names

D = {"stem": "deep", "shortcut_pool": True}
DEPTHS = (18, 34, 50, 101, 152)
RESNEXT = ((50, "32x4d"), (101, "32x4d"), (101, "32x8d"), (101, "64x4d"))
# timm's name -> ours, and the fields besides.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"resnet{n}": (f"v1.5-{n}", {}) for n in (*DEPTHS, 200)},
    **{f"resnet{n}d": (f"v1.5-{n}-d", {}) for n in (*DEPTHS, 200)},
    **{f"resnext{n}_{kind}": (f"resnext-{n}-{kind}", {}) for n, kind in RESNEXT},
    **{f"wide_resnet{n}_2": (f"wide-{n}-2", {}) for n in (50, 101)},
    **{f"seresnet{n}": (f"se-{n}", {}) for n in (50, 101, 152)},  # shallower ones have another reduction there
    **{f"resnetv2_{n}": (f"v2-{n}-raw", {}) for n in DEPTHS},
    **{f"resnetv2_{n}d": (f"v2-{n}-raw", D) for n in DEPTHS},
}
TORCHVISION = (
    *(f"resnet{n}" for n in DEPTHS),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
# Fields without effect on what finished weights compute.
FREE = (
    *FROM_DATA,
    *("stochastic_depth", "bn_group", "bn_momentum", "zero_gamma", "init", "init_gain"),
    *("dtype", "convolution", "scan", "remat"),
)


def published() -> dict[str, Spec]:
    """The networks of `configs/imagenet.py` by name."""
    found = {}
    for family, variants in IMAGENET_FAMILIES.items():
        for depth in IMAGENET_STAGES:
            for variant in variants:
                name = "-".join(part for part in (family, str(depth), variant) if part)
                try:
                    found[name] = imagenet(name)
                except BadInput:
                    continue  # a depth that the family does not have
    return found


def of_timm(config: Mapping[str, Any], where: object) -> Spec:
    """The network of timm's `config.json`; raises BadInput for one that is not known here."""
    name = config["architecture"]
    if config.get("model_args"):
        raise BadInput(
            f"{where}: model_args={paths.short(str(config['model_args']))}: changes the network; not read"
        )
    if not isinstance(name, str) or name not in TIMM:
        raise BadInput(f"{where}: " + unknown("architecture", paths.short(str(name)), TIMM.keys()))
    ours, fields = TIMM[name]
    return dataclasses.replace(imagenet(ours), **fields)


def of_transformers(config: Mapping[str, Any], where: object) -> Spec:
    """The network of the `config.json` of a ResNet of transformers, whose defaults are those of its ResNetConfig.

    Raises:
      BadInput: for a value that resjax has no network for.
    """
    widths, units = config.get("hidden_sizes", [256, 512, 1024, 2048]), config.get("depths", [3, 4, 6, 3])
    stem, unit = config.get("embedding_size", 64), config.get("layer_type", "bottleneck")
    in_bottleneck = config.get("downsample_in_bottleneck", False)
    if not isinstance(in_bottleneck, bool):
        raise BadInput(f"{where}: downsample_in_bottleneck must be true or false")
    for field, only in (("hidden_act", "relu"), ("downsample_in_first_stage", False)):
        if (value := config.get(field, only)) != only:
            raise BadInput(f"{where}: {field}={paths.short(str(value))} is not read here, only {only}")
    try:
        return Spec(
            units=tuple(units),
            widths=tuple(widths),
            unit=unit,
            stem="conv7",
            stem_width=stem,
            shortcut="B",
            stride_on="1x1" if in_bottleneck else "3x3",
            input_size=224,
            num_classes=1000,
        )
    except TypeError as error:
        raise BadInput(f"{where}: depths and hidden_sizes must be lists of whole numbers") from error
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def of_keras(shapes: Mapping[str, tuple[int, ...]], where: object) -> Spec:
    """The network of a file of Keras' applications, by its layers: only its ResNets of v1 call them so.

    Raises:
      BadInput: for its ResNets of v2, or without the classifier.
    """
    if any("_preact_bn/" in name for name in shapes):
        raise BadInput(
            f"{where} is a ResNetV2 of Keras, which strides in the last unit of a stage, as no network here does"
        )
    if "predictions/kernel" not in shapes:
        raise BadInput(
            f"{where} has no layer 'predictions' (include_top=False): give the file with it; init_from takes a "
            "fresh head where the classes are others"
        )
    stages: list[int] = []
    while (units := _counted(shapes, f"conv{len(stages) + 2}_block{{}}_1_conv/kernel")) > 0:
        stages.append(units)
    widths = [shapes.get(f"conv{stage}_block1_3_conv/kernel", ())[-1:] for stage in range(2, len(stages) + 2)]
    try:
        return Spec(
            units=tuple(stages),
            widths=tuple(width for (width,) in widths),
            unit="bottleneck",
            stem="conv7",
            stem_width=shapes["conv1_conv/kernel"][-1],
            shortcut="B",
            stride_on="1x1",
            input_size=224,
            num_classes=1000,
        )
    except BadInput as error:
        raise BadInput(f"{where} is not a ResNet of Keras: {error}") from error
    except (IndexError, ValueError) as error:
        raise BadInput(f"{where} is not a ResNet of Keras: a convolution is missing or has no axes") from error


def _counted(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    """How many of the names `name`, numbered from 1, there are without a gap."""
    return next(i for i in range(len(shapes) + 1) if name.format(i + 1) not in shapes)


def library_of(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Whose names these are, of `names.LIBRARIES`: `timm` for what torchvision calls the same; None if nobody's."""
    for library, sign in (
        ("resjax", "params/head/kernel"),
        ("transformers", "resnet.embedder.embedder.convolution.weight"),
        ("keras", "conv1_conv/kernel"),
        ("timm", "layer1.0.conv1.weight"),
        ("timm", "stages.0.blocks.0.conv1.weight"),
    ):
        if sign in shapes:
            return library
    return None


def sized(spec: Spec, library: str, shapes: Mapping[str, tuple[int, ...]]) -> Spec:
    """The network with the classes and input channels of the arrays, where these have them.

    What is left to the data set counts as on ImageNet.
    """
    usual: dict[str, Any] = {"input_size": 224, "input_channels": 3, "num_classes": 1000}
    spec = dataclasses.replace(spec, **{field: getattr(spec, field) or usual[field] for field in usual})
    found: dict[str, Any] = {}
    for row in names.rows(spec, library):
        for own, axis, field in (
            (("params", "head", "kernel"), 1, "num_classes"),
            (("params", "stem", "conv1", "kernel"), 2, "input_channels"),
        ):
            shape = shapes.get(row.name, ())
            if row.own == own and len(shape) == len(row.there) and whole(shape[row.axes.index(axis)]):
                found[field] = max(1, shape[row.axes.index(axis)])
    return dataclasses.replace(spec, **found)


def fitting(library: str, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The published networks whose arrays have these names and shapes, whatever their classes and channels."""
    found = []
    for name, spec in published().items():
        try:
            if not names.differences(names.rows(sized(spec, library, shapes), library), shapes):
                found.append(name)
        except BadInput:
            continue  # the library has no such network
    return found


def difference(there: Spec, here: Spec) -> str | None:
    """The first field in which two networks compute other things with the same weights, as part of a sentence."""
    for field in dataclasses.fields(Spec):
        name = "inner_share" if field.name == "squeeze" else field.name
        one, other = getattr(there, name), getattr(here, name)
        if (
            name not in FREE
            and one != other
            and not (name == "stride_on" and here.unit == there.unit != "bottleneck")
        ):
            return f"model.{field.name}={other}, and these weights are of a network with {one}"
    return None
