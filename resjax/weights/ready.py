"""Weights of a file, ready to be used: with the network, the preprocessing and the config of a run of them."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax.config import default, network
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.models.published import imagenet
from resjax.models.spec import Spec
from resjax.weights import hub, preprocessing
from resjax.weights.source import Weights


@dataclasses.dataclass(frozen=True, eq=False)
class Ready:
    """What a run would be that starts with these weights and takes no step.

    Attributes:
      config: of the run; nothing in it is left to the data set that the weights know better.
      spec: its network, unrolled.
      notes: what a person should know, a line each.
    """

    weights: Weights
    config: ConfigDict
    spec: Spec
    preprocessing: Preprocessing
    notes: tuple[str, ...]


def settings(weights: Weights, arch: str | None) -> ConfigDict:
    """The config of a run of the network that a person chose, or that the file says; or that of its own run."""
    if weights.config and not arch:
        config = weights.config.copy_and_resolve_references()
        config.model.scan, config.init_from = False, ""
        return config
    config = default(imagenet(arch) if arch else weights.spec)
    config.total_steps = 1
    return config


def ready(
    weights: Weights,
    given: str,
    arch: str | None,
    config: ConfigDict | None = None,
    own: Preprocessing | None = None,
) -> Ready:
    """The weights of a file with what a person, or else the file, says of them.

    Args:
      given: what a person calls the file.
      arch: the network, a name of configs/imagenet.py; needed where no config file says it.
      config: `settings` with other fields of the model; they are as they were by default.
      own: the preprocessing; by default the file's, or else torchvision's.

    Raises:
      BadInput: if nobody says the network, the file says another, or the preprocessing does not go with it.
    """
    config, notes = config or settings(weights, arch), weights.notes
    if weights.preprocessing is None:
        notes += ("the file does not say its preprocessing: torchvision's is taken",)
    own = own or weights.preprocessing or preprocessing.torchvision()
    spec = weights.network(network(config) if arch or weights.spec else None)
    spec = dataclasses.replace(spec, scan=False, input_size=own.size or spec.input_size)
    if own.channels != spec.input_channels:
        raise BadInput(
            f"{given} takes images of {spec.input_channels} channels, and the preprocessing is of {own.channels}: "
            "make a run of it, by python -m resjax.weights import with --mean and --std"
        )
    if own.class_names and len(own.class_names) != spec.num_classes:
        raise BadInput(
            f"{len(own.class_names)} class names are given, and the weights have {spec.num_classes} classes"
        )
    if weights.spec is None and weights.library == "timm" and (spec.unit, spec.stride_on) == ("bottleneck", "1x1"):
        notes += ("this network strides on the 1x1, those of torchvision and timm on the 3x3 (--arch=v1.5-...)",)
    for field in ("num_classes", "input_channels", "input_size"):
        config.model[field] = getattr(spec, field)
    config.data.update(image_size=own.size, interpolation=own.interpolation, crop_share=own.crop_share)
    if weights.config is None or arch:
        config.name = arch or Path(given.partition("@")[0]).stem
        config.data.name = "imagenet2012" if spec.num_classes == 1000 else "folder"
    return Ready(weights, config, spec, own, notes)


def origin(weights: Weights, given: str) -> dict[str, Any]:
    """What a run that is made of the weights says of where they come from; a person called them `given`."""
    with weights.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    file_name = given if given.startswith(hub.SIGN) else str(weights.path)
    return {"file": file_name, "sha256": sha256, "names": weights.library}
