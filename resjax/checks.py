"""What a config must satisfy: by itself, with its data set, and with the config of the run that it resumes."""

import difflib
import math
from collections.abc import Collection
from typing import Any

import jax
from ml_collections import ConfigDict

from resjax import machine, paths
from resjax.config import default, flatten, in_training, network, plain
from resjax.data.resolve import PLACEMENTS, Resolved, resolve
from resjax.data.usual import PUBLISHED
from resjax.errors import BadInput, unknown
from resjax.models import counts
from resjax.models.spec import Spec

CHOICES = {
    "optimizer.name": ("sgd", "adamw", "lamb"),
    "optimizer.decay_mask": ("all", "kernels"),
    "loss.name": ("softmax", "binary"),
    "mix.definition": ("timm", "torchvision"),
    "schedule.name": ("constant", "piecewise", "cosine"),
    "schedule.warmup": ("none", "constant", "linear"),
    "data.placement": PLACEMENTS,
}
WORDS = ("optimizer.freeze",)  # the tuples of words; all others are of numbers
MOST_STEPS_PER_CALL = 1000


# What other codebases call a field, by the last part of its name.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "beta1": "optimizer.momentum",
    "eps": "model.bn_epsilon",
    "clip": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "bs": "batch_size",
    "epochs": "total_epochs",
    "num_epochs": "total_epochs",
    "max_epochs": "total_epochs",
    "steps": "total_steps",
    "num_steps": "total_steps",
    "max_steps": "total_steps",
    "iterations": "total_steps",
    "optimizer": "optimizer.name",
    "schedule": "schedule.name",
    "scheduler": "schedule.name",
    "lr_schedule": "schedule.name",
    "dataset": "data.name",
    "data": "data.name",
    "data_dir": "data.dir",
    "num_workers": "data.workers",
    "depth": "model.units",
    "layers": "model.units",
    "num_layers": "model.units",
    "classes": "model.num_classes",
    "channels": "model.input_channels",
    "precision": "model.dtype",
}
LONGEST = 12  # digits of a whole number


def check_fields(config: ConfigDict) -> None:
    """Raises BadInput unless `config` has the fields of `default`, all of them and no other, and sound values."""
    if not isinstance(config, ConfigDict):
        raise BadInput(f"get_config returned a {type(config).__name__}; return a ConfigDict, from config.default()")
    given, known = flatten(plain(config)), flatten(plain(default()))
    for field in sorted(given.keys() - known.keys()):
        near = nearest_field(field)
        raise BadInput(f"the config's field {field} is unknown" + (f"; did you mean {near}?" if near else ""))
    for field in sorted(known.keys() - given.keys()):
        raise BadInput(f"the config's field {field} is missing: start from config.default()")
    check_values(config)


def check_values(config: ConfigDict) -> None:
    """Raises BadInput for a number or text that no field can take."""
    empty = flatten(plain(default()))
    for field, value in flatten(config.to_dict()).items():
        if value is None and empty.get(field) is not None:
            raise BadInput(f"{field}=None: must be given, such as {empty[field]!r}")
        epochs = field.endswith("_epochs")  # the only tuples with fractions are of epochs
        several = isinstance(value, tuple | list)
        items = value if several else (value,)
        if field in WORDS:
            if not all(isinstance(item, str) for item in items):
                raise BadInput(f"{field}={value}: must be words")
        elif several and not all(type(item) is int or (epochs and type(item) is float) for item in items):
            raise BadInput(f"{field}={value}: must be {'numbers' if epochs else 'whole numbers'}")
        for item in items:
            if isinstance(item, str):
                paths.check(field, item)
            if isinstance(item, float) and not math.isfinite(item):
                raise BadInput(f"{field}={item}: must be a finite number")
            if (isinstance(item, int) or (epochs and item)) and abs(item) >= 10**LONGEST:
                raise BadInput(f"{field}={item}: must have at most {LONGEST} digits")


def nearest_field(name: str) -> str | None:
    """The field that a dotted name probably means: another codebase's word for it, or a similar name; or None."""
    section, _, last = name.rpartition(".")
    fields = flatten(plain(default()))
    if name in fields:
        return name
    if last in ALIASES:
        return ALIASES[last]

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    def likeness(field: str) -> float:
        """How alike the last parts of the names are; the sections count a little."""
        own_section, _, own_last = field.rpartition(".")
        return ratio(last, own_last) + (0.3 * ratio(section, own_section) if section else 0)

    best = max(fields, key=likeness)
    return best if likeness(best) > 0.65 else None


def validate(config: ConfigDict, devices: int) -> Spec:
    """Checks what can be checked without the data, and returns the network.

    Raises:
      BadInput: naming the first field that cannot work, before anything is read or compiled.
    """
    check_values(config)
    spec = network(config)
    if spec.dtype == "float64" and not jax.config.values["jax_enable_x64"]:
        raise BadInput("model.dtype=float64: JAX has it where JAX_ENABLE_X64=1 is in the environment: set that")
    for path, choices in CHOICES.items():
        node, name = path.split(".")
        if config[node][name] not in choices:
            raise BadInput(unknown(path, config[node][name], choices))
    o = config.optimizer
    positive = {
        "batch_size": config.batch_size,
        "log_every_steps": config.log_every_steps,
        "checkpoint_keep": config.checkpoint_keep,
        "ema.every_steps": config.ema.every_steps,
        "optimizer.accumulate": o.accumulate,
        "optimizer.learning_rate": o.learning_rate,
        "optimizer.head_multiplier": o.head_multiplier,
        "schedule.drop_factor": config.schedule.drop_factor,
        "schedule.warmup_rate": config.schedule.warmup_rate,
    }
    for field, value in positive.items():
        if not 0 < value < math.inf:  # refuses NaN too
            raise BadInput(f"{field}={value}: must be positive")
    not_negative = {
        "optimizer.weight_decay": o.weight_decay,
        "optimizer.clip_norm": o.clip_norm,
        "optimizer.reference_batch": o.reference_batch,
        "schedule.final_rate": config.schedule.final_rate,
        "mix.mixup": config.mix.mixup,
        "mix.cutmix": config.mix.cutmix,
        "mix.group": config.mix.group,
    }
    for field, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"{field}={value}: must not be negative")
    shares = {f"optimizer.{field}": o[field] for field in ("momentum", "beta2", "label_smoothing")}
    shares |= {"loss.threshold": config.loss.threshold, "ema.decay": config.ema.decay}
    for field, value in shares.items():
        if not 0 <= value < 1:
            raise BadInput(f"{field}={value}: must lie in [0, 1)")
    if not 0 < o.layer_decay <= 1:
        raise BadInput(f"optimizer.layer_decay={o.layer_decay}: must lie in (0, 1]")
    for i, part in enumerate(o.freeze):
        wanted = spec.parts[i] if i < len(spec.parts) else "nothing more"
        if part != wanted:
            raise BadInput(
                f"optimizer.freeze: {paths.short(part)} stands where {wanted} belongs: name the parts from the "
                f"input on, at most stem to {spec.parts[-1]}"
            )
    for field, value, switch, needed in (
        ("loss.threshold", config.loss.threshold, "loss.name", "binary"),
        ("schedule.final_rate", config.schedule.final_rate, "schedule.name", "cosine"),
    ):
        section, name = switch.split(".")
        if value and config[section][name] != needed:
            raise BadInput(f"{field}={value} is for {switch}={needed}, not {config[section][name]}: leave it at 0")
    if not 0 <= config.steps_per_call <= MOST_STEPS_PER_CALL:
        raise BadInput(
            f"steps_per_call={config.steps_per_call}: must lie in 1 to {MOST_STEPS_PER_CALL}, or be 0: chosen"
        )
    if not 0 <= config.seed < 2**32:
        raise BadInput(f"seed={config.seed}: must lie in [0, 2**32)")

    if config.data.repeats > config.batch_size:
        raise BadInput(
            f"data.repeats={config.data.repeats} is more than batch_size={config.batch_size}: the views of an "
            "image must fit in a batch"
        )
    if config.ema.every_steps >= 2**31:
        raise BadInput(f"ema.every_steps={config.ema.every_steps}: must be below 2**31")
    if config.mix.group and config.batch_size % config.mix.group:
        raise BadInput(
            f"batch_size={config.batch_size} is not divisible by mix.group={config.mix.group}: use a multiple of "
            "it, or mix.group=0"
        )
    data, fsdp = mesh_shape(config, devices)
    microbatch, rest = divmod(config.batch_size, o.accumulate)
    if rest:
        raise BadInput(f"batch_size={config.batch_size} is not divisible by optimizer.accumulate={o.accumulate}")
    if microbatch % (data * fsdp):
        raise BadInput(
            f"batch_size={config.batch_size} in {o.accumulate} microbatches is not divisible by the mesh of "
            f"{data} x {fsdp} devices: use a multiple of {data * fsdp * o.accumulate}"
        )
    if spec.bn_group and microbatch % spec.bn_group:
        raise BadInput(
            f"batch_size={config.batch_size} in {o.accumulate} microbatches is not divisible by "
            f"model.bn_group={spec.bn_group}: use a multiple of {spec.bn_group * o.accumulate}, or model.bn_group=0"
        )
    return spec


def check_memory(config: ConfigDict, image_shape: tuple[int, int, int], processes: int) -> None:
    """Raises BadInput if a batch of images, or a state, cannot lie in this machine's memory.

    Both do, each process's part of them: batches are made there, and checkpoints copied there.

    Args:
      config: with nothing left to the data set.
      image_shape: (H, W, C) of the processed images.
      processes: how many share them.
    """
    room = machine.memory()
    params = counts.total(network(config)).params
    copies = (2 if config.optimizer.name == "sgd" else 3) + bool(config.ema.decay)  # weights, moments, average
    height, width, channels = image_shape
    pixels = max(height * width, config.data.train_image_size**2)
    batch = 4 * config.batch_size * pixels * channels * max(1, config.steps_per_call)
    several = f", steps_per_call={config.steps_per_call}" if config.steps_per_call > 1 else ""
    for what, size, fix in (
        (f"batch_size={config.batch_size}{several}: a batch", batch, "batch or images"),
        (f"model: {params:,} parameters", 4 * copies * params, "network"),
    ):
        if size // processes > room:
            raise BadInput(
                f"{what} would take {size / 1e9:,.0f} GB, and this machine has {room / 1e9:,.0f} GB: "
                f"use a smaller {fix}"
            )


def mesh_shape(config: ConfigDict, devices: int) -> tuple[int, int]:
    """The sizes of the mesh axes `data` and `fsdp`, with -1 resolved.

    Raises:
      BadInput: if the mesh does not fit on `devices` devices.
    """
    data, fsdp = config.mesh.data, config.mesh.fsdp
    for name, size in (("data", data), ("fsdp", fsdp)):
        if size != -1 and size < 1:
            raise BadInput(f"mesh.{name}={size}: must be at least 1, or -1 for the devices that are left")
    if data == fsdp == -1:
        raise BadInput("mesh.data=-1 and mesh.fsdp=-1: only one of them can be -1; give the other a number")
    if data == -1:
        data = max(1, devices // fsdp)
    if fsdp == -1:
        fsdp = max(1, devices // data)
    if data * fsdp > devices:
        raise BadInput(
            f"mesh.data={data} x mesh.fsdp={fsdp} needs {data * fsdp} devices, but there are {devices}: use a "
            f"smaller mesh (on a CPU, --devices={data * fsdp} makes fake ones)"
        )
    return data, fsdp


SIZE = ("input_size", "input_channels", "num_classes")  # of the model, as the data set has them


def resolved(config: ConfigDict, facts: Resolved) -> ConfigDict:
    """A copy of `config` in which every field left to the data set has the set's value.

    Raises:
      BadInput: naming the field of the model that does not fit the set.
    """
    check_size(config, facts.image_shape, facts.num_classes)
    if facts.source.listing and facts.train_size < config.batch_size:
        raise BadInput(
            f"batch_size={config.batch_size}, but only {facts.train_size} photos to train on: add some, or "
            f"give --config.batch_size={2 ** (facts.train_size.bit_length() - 1)} or less"
        )
    config = sized(config, facts.image_shape, facts.num_classes)
    if config.data.train_image_size and network(config).dense:
        raise BadInput(
            f"data.train_image_size={config.data.train_image_size}: a network of dense layers takes one size: "
            "leave it out"
        )
    in_training(config)  # raises if it cannot take images of that size
    for field in ("augment", "pad", "normalize", "image_size", "interpolation", "crop_share", "test_split"):
        config.data[field] = getattr(facts, field)
    return config


def sized(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> ConfigDict:
    """A copy of `config` whose network takes its input and classes from a data set, where they are left open.

    Args:
      image_shape: (H, W, C) of the processed images.

    Raises:
      BadInput: for images that are not square.
    """
    height, width, channels = image_shape
    if height != width:
        raise BadInput(
            f"data.name={config.data.name}: its images are {height} x {width}; set data.image_size to a side"
        )
    config = config.copy_and_resolve_references()
    for field, value in zip(SIZE, (height, channels, num_classes), strict=True):
        config.model[field] = config.model[field] or value
    return config


def check_size(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Raises BadInput, naming the field of the model, unless the network of `config` fits a data set."""
    height, _, channels = image_shape
    for field, value in zip(SIZE, (height, channels, num_classes), strict=True):
        if config.model[field] not in (0, value):
            raise BadInput(
                f"model.{field}={config.model[field]} but {config.data.name} has {value}: "
                f"set model.{field}={value}, or 0 to take what the data set has"
            )


def described(config: ConfigDict) -> ConfigDict:
    """`sized` without reading images: from what is published about the set, or from the prepared set.

    Raises:
      BadInput: for a set that is neither known nor prepared.
    """
    if all(config.model[field] for field in SIZE):
        return config
    data = config.data
    if data.name in PUBLISHED:
        height, width, channels, classes = PUBLISHED[data.name]
        return sized(config, (data.image_size or height, data.image_size or width, channels), classes)
    facts = resolve(**data)
    return sized(config, facts.image_shape, facts.num_classes)


def continued(saved: ConfigDict, config: ConfigDict) -> ConfigDict:
    """A copy of `config` in which every field left to the data set has the value of the saved run."""
    config = config.copy_and_resolve_references()
    old, new = flatten(plain(saved)), flatten(plain(config))
    for field, left_open in OPEN.items():
        section, _, name = field.partition(".")
        if new[field] in left_open and old[field] not in left_open:
            config[section][name] = old[field]
    return config


# Fields that may change during a run, because they do not change its result.
FREE = {
    "name",
    "mesh.data",
    "mesh.fsdp",
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_every_epochs",
    "checkpoint_keep",
    "eval_train",
    "data.dir",
    "data.workers",
    "data.placement",
    "steps_per_call",
    "model.convolution",
    "model.scan",
    "model.remat",
}
LENGTH = {"total_steps", "total_epochs"}  # free too, unless the schedule depends on the end
# What may also differ where a checkpoint is evaluated; everything else is the run's own.
EVALUATION = {
    "batch_size",
    "data.name",
    "data.dir",
    "data.skip_damaged",
    "data.train_split",
    "data.validation_split",
    "data.test_split",
}
# The values that leave a field to the data set.
OPEN: dict[str, tuple[Any, ...]] = {
    "model.num_classes": (0,),
    "model.input_channels": (0,),
    "model.input_size": (0,),
    "data.image_size": (0,),
    "data.interpolation": (None,),
    "data.crop_share": (None,),
    "data.augment": (None,),
    "data.pad": (None,),
    "data.normalize": (None,),
    "data.test_split": (None,),
}


def differences(saved: ConfigDict, config: ConfigDict, free: Collection[str] = FREE) -> list[str]:
    """The fields in which `config` differs from the saved one of a run, as readable lines.

    Left out are the fields of `free`, the length of training unless the schedule depends on it, and the fields
    that either config leaves to the data set.
    """
    old, new = flatten(plain(saved)), flatten(plain(config))
    lines = []
    for field in old:
        left_open = any(value in OPEN.get(field, ()) for value in (old[field], new[field]))
        if old[field] == new[field] or field in free or left_open:
            continue
        why = ""
        if field in LENGTH and free is FREE:
            if config.schedule.name != "cosine":
                continue
            why = " (the cosine schedule depends on it; start a longer run in another --workdir, with init_from)"
        lines.append(f"{field}: {old[field]!r} there, {new[field]!r} here{why}")
    return lines
