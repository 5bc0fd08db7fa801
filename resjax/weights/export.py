"""Weights as other libraries load them: safetensors with their names, their config files, and a model card."""

from pathlib import Path
from typing import Any

from resjax import files
from resjax.config import plain
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.models import layout
from resjax.models.spec import Spec
from resjax.weights import architectures, card, limits, names, preprocessing, source, tensors
from resjax.weights.card import Trained

# What --format takes -> the library.
FORMATS = {"torchvision": "torchvision", "timm": "timm", "huggingface": "transformers", "resjax": "resjax"}


def export(format: str, spec: Spec, variables: dict[str, Any], own: Preprocessing, run: Trained, out: Path) -> None:
    """Writes the folder `out`.

    Args:
      format: a key of FORMATS.
      variables: `params` and `batch_stats`, unrolled.
      own: what the weights were trained with.
      run: what the card says of them.

    Raises:
      BadInput: naming what the format cannot say; nothing is written then.
      OSError: if the folder cannot be written.
    """
    library, what = FORMATS[format], f"--format={format}"
    limits.check(spec, library, what)
    configs = config_files(library, what, spec, own, run)
    arrays = names.tensors(spec, library, variables)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in configs.items():
        files.write_json(out / name, content)
    metadata = {"format": "resjax" if library == "resjax" else "pt"}
    tensors.write(out / "model.safetensors", arrays, metadata)
    files.replace(out / "README.md", card.text(format, spec, own, run, out, architecture(spec, library)))


def architecture(spec: Spec, library: str) -> str | None:
    """What torchvision or timm calls the network; None if they have none like it, or for other libraries."""
    known = {"torchvision": architectures.TORCHVISION, "timm": tuple(architectures.TIMM)}.get(library, ())
    for name in known:
        if architectures.difference(architectures.of_timm({"architecture": name}, name), spec) is None:
            return name
    return None


def config_files(library: str, what: str, spec: Spec, own: Preprocessing, run: Trained) -> dict[str, Any]:
    """File name -> content, of what lies beside the arrays.

    Raises:
      BadInput: naming what the format cannot say.
    """
    if library == "resjax":
        return {"config.json": plain(run.config), source.STEPS: own.json()}
    if library == "transformers":
        return {
            "config.json": _transformers(spec, own),
            "preprocessor_config.json": preprocessing.to_transformers(own, spec.input_size),
        }
    name = architecture(spec, library)
    if name is None:
        raise BadInput(
            f"{what}: {library} has no network of units={spec.units} and widths={spec.widths} with these fields; "
            "use --format=huggingface or --format=resjax"
        )
    if library == "torchvision":
        if spec.input_channels != 3:
            raise BadInput(f"{what}: torchvision's networks take 3 channels, not {spec.input_channels}")
        return {source.STEPS: own.json()}
    steps = preprocessing.to_timm(own, spec.input_size)
    side = -(-steps["input_size"][1] // (layout.features(spec)[f"C{len(spec.units) + 1}"].stride))
    first = names.rows(spec, "timm")[0].name.removesuffix(".weight")
    classifier = "head.fc" if spec.stem_raw else "fc"
    config = {
        "architecture": name,
        "num_classes": spec.num_classes,
        "num_features": spec.widths[-1],
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": "resjax",
            "custom_load": False,
            **steps,
            "fixed_input_size": False,
            "num_classes": spec.num_classes,
            "pool_size": [side, side],
            "first_conv": first,
            "classifier": classifier,
        },
    }
    return {"config.json": config | ({"label_names": list(own.class_names)} if own.class_names else {})}


def _transformers(spec: Spec, own: Preprocessing) -> dict[str, Any]:
    """The `config.json` of a `ResNetForImageClassification`."""
    labels = own.class_names or tuple(f"LABEL_{i}" for i in range(spec.num_classes))
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": spec.input_channels,
        "embedding_size": spec.stem_width,
        "hidden_sizes": list(spec.widths),
        "depths": list(spec.units),
        "layer_type": spec.unit,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": spec.unit == "bottleneck" and spec.stride_on == "1x1",
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "dtype": "float32",
    }
