"""Weights of other libraries, in and out.

    python -m resjax.weights show FILE
    python -m resjax.weights import FILE --arch=v1.5-50 --workdir=RUN
    python -m resjax.weights export --workdir=RUN --format=timm --out=DIR

show    prints what a file holds, which networks it fits, and its preprocessing.
import  makes a run; evaluate, predict, analysis, export and init_from take the file itself, too. Names and shapes
        do not identify a network (v1 and v1.5 have the same), so --arch says which network of configs/imagenet.py
        it is, unless the folder's config.json does. --config.model.FIELD=VALUE changes a field of it. Where a file
        does not say its preprocessing, torchvision's is taken; flags change it.
export  writes safetensors with the names of --format's library, its config files, and a model card.

FILE is .safetensors, .pth or .bin, .h5 of Keras' ResNet50, 101 or 152 (pip install -e '.[keras]'), a folder of timm
or transformers, or hf://OWNER/NAME[@REVISION] on the Hugging Face Hub (pip install "resjax[hub]"). No pickle is
run, and neither PyTorch nor Keras is needed.

`python -m resjax.weights import --help` lists the flags of import.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from resjax import cli, paths
from resjax.data.preprocess import INTERPOLATIONS, Preprocessing
from resjax.errors import DONE, BadInput, unknown
from resjax.member import WEIGHTS, opened, say
from resjax.models.spec import Spec
from resjax.train import digest, summary
from resjax.train.adopt import adopt, check_new
from resjax.weights import export, hub, preprocessing, ready, source
from resjax.weights.card import Trained
from resjax.weights.source import Weights

COMMANDS = {"show": "what a file holds", "import": "a file as a run", "export": "a run as a file"}


def define_show(values: flags.FlagValues) -> None:
    del values  # it takes none


def define_import(values: flags.FlagValues) -> None:
    flags.DEFINE_string("arch", None, "The network, a name of configs/imagenet.py.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run's new folder.", flag_values=values)
    flags.DEFINE_string("class_names", None, "A text file, a name a line; or none.", flag_values=values)
    flags.DEFINE_integer("image_size", None, "Side of the images, in pixels.", flag_values=values)
    flags.DEFINE_float("crop_share", None, "Of the resized short side: 0.875 is 224 of 256.", flag_values=values)
    flags.DEFINE_enum("interpolation", None, list(INTERPOLATIONS), "Of resizing.", flag_values=values)
    flags.DEFINE_list("mean", None, "Of each channel, for pixels from 0 to 1.", flag_values=values)
    flags.DEFINE_list("std", None, "Of each channel, for pixels from 0 to 1.", flag_values=values)


def define_export(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "A run, or a file of weights.", flag_values=values)
    flags.DEFINE_string("arch", None, "The network of a file, a name of configs/imagenet.py.", flag_values=values)
    said = "The latest, the best by validation, or the latest moving average."
    flags.DEFINE_enum("weights", "last", WEIGHTS, said, flag_values=values)
    flags.DEFINE_enum("format", None, list(export.FORMATS), "Whose names and files.", flag_values=values)
    flags.DEFINE_string("out", None, "The new folder.", flag_values=values)


def main(argv: list[str]) -> int:
    name = argv[0] if argv and not argv[0].startswith("-") else ""
    if not name:
        cli.parse(argv, define_show, config=False)  # --help
        raise BadInput(f"a command is missing: python -m resjax.weights {'|'.join(COMMANDS)}")
    if name not in COMMANDS:
        raise BadInput(unknown("the command", name, COMMANDS))
    rest = argv[1:]
    if name == "export":
        return export_run(rest)
    if not rest or (rest[0].startswith("-") and rest[0] not in ("-h", "--help")):
        raise BadInput(f"the file is missing: python -m resjax.weights {name} FILE")
    given = rest.pop(0) if not rest[0].startswith("-") else ""
    paths.check("FILE", given)
    if name == "import":
        return import_file(given, rest)
    cli.parse(rest, define_show, config=False)
    print(shown(source.open(hub.local(given))))
    return DONE


def shown(weights: Weights) -> str:
    """What `show` prints."""
    arrays = weights.tensors.values()
    kinds = ", ".join(sorted({str(array.dtype) for array in arrays}))
    numbers = sum(array.size for array in arrays)
    spec, own = weights.spec, weights.preprocessing
    fit = weights.fitting()
    fits = (
        f"the file does not say; it fits {', '.join(fit)}" if fit else "the file does not say; none published fits"
    )
    lines = [
        f"file      {weights.path}: {len(arrays)} arrays of {kinds}, {numbers:,} numbers",
        f"names     {'timm, and torchvision' if weights.library == 'timm' else weights.library or 'unknown'}",
        f"network   {described(spec) if spec else fits}",
        f"images    {said(own) if own else 'the file does not say'}",
    ]
    if own and own.class_names:
        lines.append(f"classes   {', '.join(own.class_names[:5])}{', ...' if len(own.class_names) > 5 else ''}")
    return "\n".join([*lines, *(f"note      {note}" for note in weights.notes)])


def described(spec: Spec) -> str:
    """A network in a line."""
    stride = f", stride on the {spec.stride_on}" if spec.unit == "bottleneck" else ""
    return (
        f"depth {spec.depth}, {spec.unit} units {spec.units} of widths {spec.widths}{stride}; "
        f"{spec.num_classes:,} classes, {spec.input_channels} channels"
    )


def said(own: Preprocessing) -> str:
    """A preprocessing in a line."""
    short = round(own.size / own.crop_share) if own.size else 0
    sized = f"short side {short}, centre {own.size}, {own.interpolation}" if own.size else "as they are stored"
    mean = "the mean image" if own.mean.ndim == 3 else " ".join(f"{m:.2f}" for m in own.mean)
    return f"{sized}; less {mean}, over {' '.join(f'{s:.2f}' for s in own.std.reshape(-1))} (pixels from 0 to 255)"


def import_file(given: str, argv: list[str]) -> int:
    """`import`: weights as a run of which no step is done."""
    values = cli.parse(argv, define_import, config="fields")
    if not values.workdir:
        raise BadInput("--workdir is missing: give a new folder for the run")
    workdir = Path(values.workdir)
    check_new("--workdir", workdir)
    weights = source.open(hub.local(given))
    own = chosen_preprocessing(weights.preprocessing or preprocessing.torchvision(), values)
    config = ready.settings(weights, values.arch)
    cli.override(config, cli.overrides(argv))
    found = ready.ready(weights, given, values.arch, config, own)
    made = adopt(workdir, found.config, weights.variables(found.spec), own, ready.origin(weights, given))
    for note in found.notes:
        say(f"note      {note}")
    say(f"network   {described(found.spec)}\nimages    {said(own)}\ndigest    {made}\nwritten   {workdir}")
    return DONE


def chosen_preprocessing(own: Preprocessing, values: flags.FlagValues) -> Preprocessing:
    """The preprocessing with what the flags change."""
    changed: dict[str, Any] = {}
    for flag in ("mean", "std"):
        if (given := getattr(values, flag)) is not None:
            try:
                changed[flag] = (np.array([float(one) for one in given]) * 255).astype(np.float32)
            except ValueError as error:
                raise BadInput(f"--{flag}={','.join(given)}: must be numbers, such as 0.5,0.5,0.5") from error
    if values.class_names:
        changed["class_names"] = names_of(values.class_names)
    changed |= {"size": values.image_size} if values.image_size is not None else {}
    changed |= {name: values[name].value for name in ("crop_share", "interpolation") if values[name].present}
    try:
        return dataclasses.replace(own, **changed)
    except ValueError as error:
        raise BadInput(f"this preprocessing cannot be: {error}") from error


def names_of(file: str) -> tuple[str, ...]:
    """The class names in a text file, a line each; `none`: no names."""
    if file == "none":
        return ()
    try:
        return tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise BadInput(f"--class_names={file} cannot be read ({error}): give a text file, a name a line") from error


def export_run(argv: list[str]) -> int:
    """`export`: the weights of a run in a new folder."""
    values = cli.parse(argv, define_export, config=False)
    for flag, hint in (
        ("workdir", "the folder of a run"),
        ("format", "|".join(export.FORMATS)),
        ("out", "a new folder"),
    ):
        if not getattr(values, flag):
            raise BadInput(f"--{flag} is missing: give {hint}")
    out = Path(values.out)
    check_new("--out", out)
    one = opened(values.workdir, hub.local(values.workdir), values.weights, values.arch)
    variables = jax.device_get(one.read())
    run = Trained(
        config=one.config,
        step=one.step,
        weights=values.weights,
        digest=one.digest or digest.of(variables),
        accuracy=accuracy(one.workdir, one.step, values.weights == "ema") if one.workdir else {},
        origin=one.origin(),
        command=shlex.join(["python", "-m", "resjax.weights", "export", *argv]),
    )
    try:
        export.export(values.format, one.spec, variables, one.trained_with(one.config.data), run, out)
    except OSError as error:
        raise BadInput(f"--out={out} could not be written ({error.strerror}); give another folder") from error
    for note in one.notes:
        say(f"note      {note}")
    whose = f"step {one.step} of {one.name}, weights {values.weights}" if one.workdir else one.name
    say(f"written   {out}: {whose}, as {values.format} has it")
    return DONE


def accuracy(workdir: Path, step: int, averaged: bool) -> dict[str, float]:
    """Split -> top-1 accuracy that the run found for these weights; none if it stopped before or elsewhere."""
    found = summary.read(workdir) or {}
    ending = "_ema_accuracy" if averaged else "_accuracy"
    splits = [split for split in ("test", "validation") if f"{split}{ending}" in found]
    return {f"{split} top-1": found[f"{split}{ending}"] for split in splits} if found.get("steps") == step else {}


if __name__ == "__main__":
    cli.run(main)
