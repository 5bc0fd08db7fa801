"""The model card of exported weights: what they are, how they came about, how they are used."""

from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import resjax
from resjax.config import flatten, plain
from resjax.data.preprocess import Preprocessing
from resjax.models import counts
from resjax.models.spec import Spec

LIBRARIES = {"torchvision": "torchvision", "timm": "timm", "huggingface": "transformers", "resjax": "resjax"}
RECIPE = ("batch_size", "total_steps", "total_epochs", "optimizer.", "schedule.", "loss.", "mix.", "ema.", "data.")
USE = {
    "torchvision": """\
    import safetensors.torch, torchvision
    model = torchvision.models.{name}(num_classes={classes}).eval()
    model.load_state_dict(safetensors.torch.load_file("{out}/model.safetensors"))""",
    "timm": """\
    import timm
    model = timm.create_model("local-dir:{out}", pretrained=True).eval()""",
    "huggingface": """\
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    model = AutoModelForImageClassification.from_pretrained("{out}").eval()
    processor = AutoImageProcessor.from_pretrained("{out}")""",
    "resjax": """\
    python -m resjax.weights import {out} --workdir=RUN""",
}


class Trained(NamedTuple):
    """What a run says of its weights.

    Attributes:
      config: of the run.
      step: of the weights.
      weights: `last`, `best` or `ema`.
      digest: of the weights.
      accuracy: name -> a share, as far as it was measured for these weights.
      origin: where weights that were imported come from; None of those that were trained here.
      command: that made the card.
    """

    config: ConfigDict
    step: int
    weights: str
    digest: str
    accuracy: dict[str, float]
    origin: dict[str, Any] | None
    command: str


def text(format: str, spec: Spec, own: Preprocessing, run: Trained, out: Path, name: str | None) -> str:
    """The card in Markdown, with the front matter that the Hugging Face Hub reads."""
    config, cost = run.config, counts.total(spec)
    measured = [f"- {what}: {100 * share:.2f} %" for what, share in run.accuracy.items()]
    classes = ", ".join(own.class_names[:10]) + (", ..." if len(own.class_names) > 10 else "")
    made = "trained" if run.step else "imported"
    use = USE[format].format(name=name, classes=spec.num_classes, out=out.name)
    return "\n".join(
        [
            "---",
            f"library_name: {LIBRARIES[format]}",
            "pipeline_tag: image-classification",
            "---",
            f"# {config.name}",
            "",
            f"A residual network of depth {spec.depth}{f' ({name})' if name else ''}, {made} with resjax "
            f"{resjax.__version__}: {cost.params:,} parameters, {cost.macs:,} multiply-adds for an image of "
            f"{spec.input_size} x {spec.input_size} pixels.",
            "",
            "## Use",
            "",
            use,
            "",
            *_images(own),
            "",
            "## Data",
            "",
            f"`{config.data.name}`, {spec.num_classes} classes{': ' if classes else ''}{classes}",
            "",
            "## Accuracy",
            "",
            *(measured or ["Not measured for these weights."]),
            "",
            "## Recipe",
            "",
            *(_origin(run.origin) if run.origin else []),
            *(f"    {field}={value}" for field, value in _recipe(config).items() if run.step),
            "",
            "## Origin",
            "",
            f"Step {run.step:,}, weights `{run.weights}`, digest `{run.digest}`, written by",
            "",
            f"    {run.command}",
            "",
        ]
    )


def _images(own: Preprocessing) -> list[str]:
    """What images go through, as text."""
    sized = "Images are taken as they are stored."
    if own.size:
        short = round(own.size / own.crop_share)
        sized = f"Images: the short side resized to {short} pixels ({own.interpolation}), the central {own.size} x "
        sized += f"{own.size} cropped."
    mean = "the mean image" if own.mean.ndim == 3 else f"{[round(float(m), 3) for m in own.mean]}"
    std = [round(float(s), 3) for s in own.std.reshape(-1)]
    return [f"{sized} Pixels from 0 to 255, less {mean}, divided by {std}."]


def _origin(origin: dict[str, Any]) -> list[str]:
    given = origin["file"]
    return [f"From `{given if '://' in given else Path(given).name}` (SHA-256 {origin['sha256']}).", ""]


def _recipe(config: ConfigDict) -> dict[str, Any]:
    fields = flatten(plain(config))
    return {
        field: value
        for field, value in fields.items()
        if field.startswith(RECIPE) and value not in (None, "", [], False, 0) and field != "data.dir"
    }
