"""Weights in a file or a folder: what they are, which network they are of, what their images go through first."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import files, paths
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.models.spec import Spec
from resjax.weights import architectures, keras_file, limits, names, preprocessing, tensors, torch_file

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in this order
STEPS = "preprocessing.json"  # beside weights that resjax has written
LARGEST_JSON = 10**7  # bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Weights that a library wrote, read but not yet ours.

    Attributes:
      path: the file.
      library: whose names they have; None if nobody's that is known here.
      spec: the network that their config file says, with their own classes and channels; None if it is not known.
      preprocessing: that their config file says; None if it is not known.
      notes: what a person should know, a line each.
      config: of the run that they come from, where resjax wrote them.
    """

    path: Path
    tensors: Mapping[str, np.ndarray]
    library: str | None
    spec: Spec | None
    preprocessing: Preprocessing | None
    notes: tuple[str, ...]
    config: ConfigDict | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.tensors.items()}

    def fitting(self) -> list[str]:
        """The networks of `configs/imagenet.py` whose names and shapes these are."""
        return architectures.fitting(self.library, self.shapes) if self.library else []

    def network(self, chosen: Spec | None) -> Spec:
        """The network that the weights are of, with their own classes and channels.

        Args:
          chosen: by a person; needed where no config file says it.

        Raises:
          BadInput: if nobody says it, or the config file says another.
        """
        if self.library is None:
            first = ", ".join(list(self.tensors)[:3]) or "none at all"
            raise BadInput(f"{self.path} has names that no library known here uses: {first}")
        if self.spec is None and chosen is None:
            fit = self.fitting()
            known = f"fits {' or '.join(fit)}: give --arch=" if fit else "fits no published network: give --arch="
            stride = "; v1 strides on the 1x1, v1.5 on the 3x3 as torchvision and timm do" if "v1-50" in fit else ""
            raise BadInput(
                f"{self.path} does not say which network it is of, and {known}{fit[-1] if fit else 'NAME'}{stride}"
            )
        if self.spec and chosen and (wrong := architectures.difference(self.spec, chosen)):
            raise BadInput(f"{self.path} says another network: {wrong}")
        spec = self.spec or chosen
        assert spec is not None
        return architectures.sized(spec, self.library, self.shapes)

    def variables(self, spec: Spec) -> dict[str, Any]:
        """`params` and `batch_stats` of the unrolled network, float32.

        Raises:
          BadInput: unless every array is one of the network's and none is missing.
        """
        assert self.library is not None
        try:
            found = names.variables(spec, self.library, self.tensors)
        except BadInput as error:
            fit = self.fitting()
            hint = f"; its arrays fit {' or '.join(fit)}" if fit else ""
            raise BadInput(f"{self.path} does not fit the network: {error}{hint}") from error
        for row in names.rows(spec, self.library):
            values = row.leaf(found)
            if not np.isfinite(values).all() or (row.own[-1] == "var" and (values < 0).any()):
                raise BadInput(f"{self.path}: {row.name} holds values that cannot be: get it again")
        return found

    def for_network(self, spec: Spec) -> dict[str, Any]:
        """As `variables`, for a network of the same architecture: with the weights' own head.

        Raises:
          BadInput: for another network, or one that the library of the weights would compute in another way.
        """
        own = self.network(dataclasses.replace(spec, scan=False))
        assert self.library is not None
        if self.spec is None:
            limits.check(spec, self.library, str(self.path))
        return self.variables(own)


def is_weights(path: Path) -> bool:
    """Whether a path is a file, or a folder with a file of weights: not the workdir of a run."""
    return path.is_file() or any((path / name).is_file() for name in WEIGHTS)


def open(path: Path) -> Weights:
    """Reads safetensors, a file of `torch.save`, an .h5 of Keras, or a folder of timm, transformers or resjax.

    Raises:
      BadInput: if there is nothing that can be read, or it is damaged or hostile.
    """
    if path.is_file():
        return _weights(path)
    if not path.is_dir():
        raise BadInput(f"{path}: there is no such file or folder")
    found = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if found is None:
        if any(path.glob("*.index.json")):
            raise BadInput(f"{path} holds weights in several files, which is not read here: save them as one")
        if (path / "checkpoints").is_dir():
            raise BadInput(f"{path} is a run of resjax, which every command takes as --workdir={path}")
        raise BadInput(f"{path} holds neither {' nor '.join(WEIGHTS)}")
    where = path / "config.json"
    config = _json(where) if where.is_file() else {}
    if "architecture" in config:
        return _weights(found, architectures.of_timm(config, where), preprocessing.of_timm(config, where))
    if config.get("model_type") == "resnet":
        steps, own = path / "preprocessor_config.json", None
        if steps.is_file():
            own = preprocessing.of_transformers(_json(steps), preprocessing.labels(config), steps)
        return _weights(found, architectures.of_transformers(config, where), own)
    steps = path / STEPS
    own = Preprocessing.from_json(_json(steps), steps) if steps.is_file() else None
    if "model" in config and "schedule" in config:
        run = configs.restored(config, where)
        return dataclasses.replace(_weights(found, configs.network(run), own), config=run)
    if config:
        kind = str(config.get("model_type", "unknown"))[:40]
        raise BadInput(
            f"{where} is of a model of type {kind!r}: only ResNets of timm, transformers and resjax are read"
        )
    return _weights(found, None, own)


def _weights(path: Path, spec: Spec | None = None, own: Preprocessing | None = None) -> Weights:
    notes: tuple[str, ...] = ()
    if _is_safetensors(path):
        found, _ = tensors.read(path)
    elif keras_file.is_hdf5(path):
        found = keras_file.read(path)
    else:
        found, notes = torch_file.read(path)
    shapes = {name: array.shape for name, array in found.items()}
    library = architectures.library_of(shapes)
    if library == "keras":
        found, notes = keras_file.changed(found)
        shapes = {name: array.shape for name, array in found.items()}
        spec, own = architectures.of_keras(shapes, path), preprocessing.keras()
    dropped = sum(name.rpartition(".")[2] == names.COUNTER for name in found)
    if dropped:
        notes += (f"{names.COUNTER} of {dropped} BN layers is left out: nothing uses it",)
    kinds = {str(array.dtype) for name, array in found.items() if name.rpartition(".")[2] != names.COUNTER}
    if kinds - {"float32"}:
        notes += (f"arrays of {', '.join(sorted(kinds - {'float32'}))} are taken as float32",)
    for class_name in own.class_names if own else ():
        paths.check_text("a class name", class_name)  # they are printed
    if spec and library:
        spec = architectures.sized(spec, library, shapes)
        if own and own.class_names and len(own.class_names) != spec.num_classes:
            raise BadInput(
                f"{path.parent} names {len(own.class_names)} classes, and its weights have {spec.num_classes}"
            )
    return Weights(path, found, library, spec, own, notes)


def _is_safetensors(path: Path) -> bool:
    """By the first byte of the header, which is that of a dictionary, or by the name if there is none."""
    with path.open("rb") as file:
        head = file.read(9)
    return (head[8:] == b"{" and not head.startswith(b"PK")) or path.suffix == ".safetensors"


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_JSON:
        raise BadInput(f"{path} takes more than {LARGEST_JSON:,} bytes: this is no config file")
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise BadInput(f"{path} is not a dictionary")
    return found
