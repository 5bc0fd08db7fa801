"""The preprocessing of other libraries as ours, and ours as theirs.

They give mean and deviation for pixels from 0 to 1, we for pixels from 0 to 255. They resize the short side to
floor(size / crop_pct), we to round(size / crop_share): a share is changed only where that is another number.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from resjax import paths
from resjax.data.preprocess import CROP_SHARE, Preprocessing
from resjax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from resjax.errors import BadInput

KERAS_MEAN = np.array([123.68, 116.779, 103.939], np.float32)  # of RGB; its mode "caffe"
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which transformers writes
SQUASHED = 384  # transformers: from this size on the whole image is squashed to a square


def torchvision(class_names: tuple[str, ...] = ()) -> Preprocessing:
    """What torchvision's first weights (IMAGENET1K_V1) were evaluated with; those of V2 have 232 for 256."""
    return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, 224, CROP_SHARE, "bilinear", class_names=class_names)


def keras() -> Preprocessing:
    """keras.applications.resnet50.preprocess_input, for RGB: ImageNet's mean is subtracted, and nothing divided.

    What comes before it Keras leaves to the user: the central 224 pixels of 256 are usual.
    """
    return Preprocessing(KERAS_MEAN, np.ones(3, np.float32), 224, CROP_SHARE, "bilinear")


def of_timm(config: Mapping[str, Any], where: object) -> Preprocessing:
    """The `pretrained_cfg` of timm's `config.json`, for `input_size`; raises BadInput for what is not done here."""
    own = config.get("pretrained_cfg")
    if not isinstance(own, dict):
        raise BadInput(f"{where} has no pretrained_cfg, so nobody knows the preprocessing")
    channels, height, width = _numbers(own, "input_size", where, 3)
    if height != width:
        raise BadInput(f"{where}: input_size={own['input_size']} is not square")
    if (mode := own.get("crop_mode", "center")) != "center":
        raise BadInput(f"{where}: crop_mode={paths.short(str(mode))} is not done here, only center")
    return _made(
        mean=_numbers(own, "mean", where, channels),
        std=_numbers(own, "std", where, channels),
        size=height,
        crop=own.get("crop_pct", CROP_SHARE),
        interpolation=own.get("interpolation", "bilinear"),
        class_names=_names(config.get("label_names")),
        where=where,
    )


def of_transformers(config: Mapping[str, Any], class_names: tuple[str, ...], where: object) -> Preprocessing:
    """The `preprocessor_config.json` of a ResNet of transformers; raises BadInput for what cannot be done."""
    size = config.get("size", {"shortest_edge": 224})
    size = size.get("shortest_edge") if isinstance(size, dict) else size
    if type(size) is not int or size >= SQUASHED:
        raise BadInput(f"{where}: size={paths.short(str(size))}: must be the short side, below {SQUASHED} pixels")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(step, True) is not True:
            raise BadInput(f"{where}: {step} is off, which is not done here")
    factor, resample = config.get("rescale_factor", 1 / 255), config.get("resample", 2)
    if type(factor) not in (int, float) or not math.isclose(factor, 1 / 255):
        raise BadInput(f"{where}: rescale_factor={paths.short(str(factor))} is not done here, only 1/255")
    return _made(
        mean=_numbers(config, "image_mean", where),
        std=_numbers(config, "image_std", where),
        size=size,
        crop=config.get("crop_pct", CROP_SHARE),
        interpolation=FILTERS.get(resample, "") if type(resample) is int else "",
        class_names=class_names,
        where=where,
    )


def labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names of a `config.json` of transformers, in label order; () where they are only counted."""
    given = config.get("id2label")
    if not isinstance(given, dict):
        return ()
    found = _names([given.get(str(i)) for i in range(len(given))])
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(found)) else found


def to_timm(own: Preprocessing, side: int) -> dict[str, Any]:
    """The part of a `pretrained_cfg` that says the preprocessing; `side` is that of the network's input."""
    mean, std, size, share = _said(own, side)
    return {
        "input_size": [own.channels, size, size],
        "interpolation": own.interpolation,
        "crop_pct": share,
        "crop_mode": "center",
        "mean": mean,
        "std": std,
    }


def to_transformers(own: Preprocessing, side: int) -> dict[str, Any]:
    """A `preprocessor_config.json`.

    Raises:
      BadInput: for a size that transformers squashes, or a mean image.
    """
    mean, std, size, share = _said(own, side)
    if size >= SQUASHED:
        raise BadInput(f"--format=huggingface: transformers squashes images of {size} pixels: use another format")
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "crop_pct": share,
        "resample": {name: number for number, name in FILTERS.items()}[own.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def _made(
    *,
    mean: list[float],
    std: list[float],
    size: int,
    crop: Any,
    interpolation: Any,
    class_names: tuple[str, ...],
    where: object,
) -> Preprocessing:
    try:
        share = float(crop)
        if not 0 < share <= 1:
            raise ValueError(f"crop_pct={crop}")
        side = math.floor(size / share)
        share = share if round(size / share) == side else size / side
        pixels = (np.asarray(values, np.float64) * 255 for values in (mean, std))
        one, other = (values.astype(np.float32) for values in pixels)
        return Preprocessing(one, other, size, share, interpolation, class_names=class_names)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{where}: this preprocessing cannot be used ({error})") from error


def _said(own: Preprocessing, side: int) -> tuple[list[float], list[float], int, float]:
    """Mean and deviation for pixels from 0 to 1, size, and share of the crop; images as they are: all of them."""
    if own.mean.ndim == 3:
        raise BadInput("the run subtracts a mean image, which no other library does: use --format=resjax")
    mean, std = (
        [_share(value) for value in np.broadcast_to(values, own.mean.shape)] for values in (own.mean, own.std)
    )
    if not own.size:
        return mean, std, side, 1.0
    resized, share = round(own.size / own.crop_share), own.crop_share
    if math.floor(own.size / share) != resized:
        share = own.size / (resized + 0.5)
    return mean, std, own.size, share


def _share(value: np.float32) -> float:
    """The shortest decimal that gives the value again times 255: 0.485 and not 0.48500001196767767."""
    exact = float(value) / 255
    shorter = (round(exact, digits) for digits in range(3, 17))
    return next((short for short in shorter if np.float32(short * 255) == value), exact)


def _numbers(config: Mapping[str, Any], field: str, where: object, count: int | None = None) -> list[Any]:
    values: Any = config.get(field)
    wrong = not isinstance(values, list) or not values or any(type(value) not in (int, float) for value in values)
    if wrong or (count is not None and len(values) != count):
        raise BadInput(f"{where}: {field}={paths.short(str(values))}: must be {count or 'some'} numbers")
    return values


def _names(values: Any) -> tuple[str, ...]:
    given = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return tuple(values) if given else ()
