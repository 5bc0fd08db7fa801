"""The default config with every field explained, its validation, and durations resolved to steps.

A config file's `get_config(spec)` starts from `default()` and changes a few lines. Names that scripts rely on:
`batch_size`, `total_steps`, `total_epochs`, `seed`, `optimizer.learning_rate`, `mesh.data`, `mesh.fsdp`,
`data.name`, `data.dir`, `model.*`, `init_from`.
"""

import dataclasses
import difflib
import math
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resjax.errors import BadInput, unknown
from resjax.models.spec import Spec

CHOICES = {
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.decay_mask": ("all", "kernels"),
    "schedule.name": ("constant", "piecewise", "cosine"),
    "schedule.warmup": ("none", "constant", "linear"),
}


def default(model: Spec | None = None) -> ConfigDict:
    """The CIFAR recipe of both papers around `model`, without a data set: every field that exists, explained.

    A duration is a number of steps or of epochs, in the field that ends in `_steps` or `_epochs`.
    """
    c = ConfigDict()
    c.name = "run"  # names the default workdir, runs/NAME
    c.seed = 0  # initialisation, order of data, augmentation, dropout
    c.batch_size = 128  # global: images per optimizer step, over all devices
    c.total_steps = placeholder(int)
    c.total_epochs = placeholder(float)
    c.eval_every_steps = placeholder(int)
    c.eval_every_epochs = placeholder(float)
    c.checkpoint_every_steps = placeholder(int)
    c.checkpoint_every_epochs = placeholder(float)
    c.checkpoint_keep = 2  # the latest so many; the best by validation accuracy is kept besides
    c.log_every_steps = 50
    c.init_from = ""  # another run's workdir: start from its weights and statistics, nothing else

    c.model = ConfigDict(dataclasses.asdict(model or Spec()))  # resjax.models.spec.Spec explains its fields

    c.data = ConfigDict()  # the arguments of resjax.data.loader.open_dataset
    c.data.name = "digits"
    c.data.dir = ""  # where prepared sets are; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets
    c.data.train_split = "train"
    c.data.validation_split = ""  # such as train[45000:]; the only split that may select anything
    c.data.test_split = "test"
    c.data.augment = "crop_flip"  # none | crop | crop_flip | resized_crop_flip
    c.data.pad = 4  # pixels of zero padding before the random crop
    c.data.normalize = "pixel_mean"  # pixel_mean | channel
    c.data.image_size = 0  # 0: the set's own
    c.data.workers = 0  # processes that prepare batches; 0: threads. The batches are the same

    c.optimizer = ConfigDict()
    c.optimizer.name = "sgd"  # sgd | adamw
    c.optimizer.learning_rate = 0.1
    c.optimizer.momentum = 0.9  # adamw: beta 1
    c.optimizer.beta2 = 0.999  # adamw only
    c.optimizer.nesterov = False
    c.optimizer.weight_decay = 1e-4
    c.optimizer.decay_mask = "all"  # all: every parameter, as the papers | kernels: not BN, not biases
    c.optimizer.clip_norm = 0.0  # global norm of the gradient; 0: off
    c.optimizer.accumulate = 1  # microbatches per step; BN normalises each by itself
    c.optimizer.label_smoothing = 0.0

    c.schedule = ConfigDict()
    c.schedule.name = "piecewise"  # constant | piecewise | cosine
    c.schedule.drop_steps = ()  # piecewise: the rate is multiplied by drop_factor here
    c.schedule.drop_epochs = ()
    c.schedule.drop_factor = 0.1
    c.schedule.warmup = "none"  # none | constant (at warmup_rate, as the papers) | linear (from warmup_rate)
    c.schedule.warmup_rate = 0.01
    c.schedule.warmup_steps = placeholder(int)
    c.schedule.warmup_epochs = placeholder(float)

    c.mesh = ConfigDict()  # the batch is split over both axes, the state over fsdp
    c.mesh.data = -1  # -1: the devices that are left
    c.mesh.fsdp = 1
    return c


@dataclasses.dataclass(frozen=True)
class Durations:
    """Every duration of a run in optimizer steps."""

    total: int
    drops: tuple[int, ...]
    warmup: int
    eval_every: int
    checkpoint_every: int
    log_every: int
    per_epoch: float


def durations(config: ConfigDict, train_size: int) -> Durations:
    """Resolves the config's durations once, against a training split of `train_size` images.

    Raises:
      BadInput: for a duration given twice, missing or out of range.
    """
    per_epoch = train_size / config.batch_size

    def steps(node: Any, prefix: str, name: str, fallback: int | None = None) -> int:
        in_steps, in_epochs = node[f"{name}_steps"], node[f"{name}_epochs"]
        field = f"{prefix}{name}"
        if in_steps is not None and in_epochs is not None:
            raise BadInput(
                f"{field}_steps={in_steps} and {field}_epochs={in_epochs}: give one, set the other to None"
            )
        if in_steps is None and in_epochs is None:
            if fallback is None:
                raise BadInput(f"{field}_steps and {field}_epochs are both None: give one of them")
            return fallback
        value = in_steps if in_steps is not None else round(in_epochs * per_epoch)
        if name == "warmup" and in_epochs and in_epochs > 0:
            value = max(1, value)  # a small budget may leave less than a step of it
        if value < 1:
            given = f"steps={in_steps}" if in_steps is not None else f"epochs={in_epochs}"
            raise BadInput(f"{field}_{given}: comes to {value} steps, must be at least 1")
        return value

    total = steps(config, "", "total")
    schedule = config.schedule
    if schedule.drop_steps and schedule.drop_epochs:
        raise BadInput("schedule.drop_steps and schedule.drop_epochs are both given: leave one empty, ()")
    drops = tuple(schedule.drop_steps) or tuple(round(e * per_epoch) for e in schedule.drop_epochs)
    if list(drops) != sorted(set(drops)) or not all(isinstance(step, int) and step > 0 for step in drops):
        raise BadInput(f"schedule drops at steps {drops}: must be whole, positive and ascend")
    warmup = 0 if schedule.warmup == "none" else steps(schedule, "schedule.", "warmup")
    if warmup >= total:
        raise BadInput(f"schedule.warmup lasts {warmup} steps but training {total}: shorten it or train longer")
    epoch = max(1, round(per_epoch))
    eval_every = steps(config, "", "eval_every", min(total, epoch))
    return Durations(
        total=total,
        drops=drops,
        warmup=warmup,
        eval_every=eval_every,
        checkpoint_every=steps(config, "", "checkpoint_every", eval_every),
        log_every=config.log_every_steps,
        per_epoch=per_epoch,
    )


def shorten(config: ConfigDict, budget: float) -> None:
    """Multiplies every duration of the schedule (total, drops, warm-up) by `budget`, in place.

    Raises:
      BadInput: if `budget` is not in (0, 1].
    """
    if not 0 < budget <= 1:
        raise BadInput(f"budget={budget}: must lie in (0, 1]")
    if budget == 1:
        return
    for node, name in ((config, "total"), (config.schedule, "warmup")):
        if node[f"{name}_steps"] is not None:
            node[f"{name}_steps"] = max(1, round(node[f"{name}_steps"] * budget))
        if node[f"{name}_epochs"] is not None:
            node[f"{name}_epochs"] *= budget
    config.schedule.drop_steps = tuple(round(s * budget) for s in config.schedule.drop_steps)
    config.schedule.drop_epochs = tuple(e * budget for e in config.schedule.drop_epochs)


def check_fields(config: ConfigDict) -> None:
    """Raises BadInput unless `config` has the fields of `default`, all of them and no other."""
    if not isinstance(config, ConfigDict):
        raise BadInput(f"get_config returned a {type(config).__name__}; return a ConfigDict, from config.default()")
    given, known = flatten(plain(config)), flatten(plain(default()))
    for field in sorted(given.keys() - known.keys()):
        near = difflib.get_close_matches(field, known, 1, 0)[0]
        raise BadInput(f"the config's field {field} is unknown; did you mean {near}?")
    for field in sorted(known.keys() - given.keys()):
        raise BadInput(f"the config's field {field} is missing: start from config.default()")


def network(config: ConfigDict) -> Spec:
    """The spec that `config.model` holds.

    Raises:
      BadInput: for an impossible network.
    """
    return Spec(**config.model.to_dict())


def validate(config: ConfigDict, devices: int) -> Spec:
    """Checks what can be checked without the data, and returns the network.

    Raises:
      BadInput: naming the first field that cannot work, before anything is read or compiled.
    """
    spec = network(config)
    for path, choices in CHOICES.items():
        node, name = path.split(".")
        if config[node][name] not in choices:
            raise BadInput(unknown(path, config[node][name], choices))
    o = config.optimizer
    positive = {
        "batch_size": config.batch_size,
        "log_every_steps": config.log_every_steps,
        "checkpoint_keep": config.checkpoint_keep,
        "optimizer.accumulate": o.accumulate,
        "optimizer.learning_rate": o.learning_rate,
        "schedule.drop_factor": config.schedule.drop_factor,
        "schedule.warmup_rate": config.schedule.warmup_rate,
    }
    for field, value in positive.items():
        if not 0 < value < math.inf:  # which NaN is not, either
            raise BadInput(f"{field}={value}: must be positive")
    for field, value in {"weight_decay": o.weight_decay, "clip_norm": o.clip_norm}.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"optimizer.{field}={value}: must not be negative")
    for field in ("momentum", "beta2", "label_smoothing"):
        if not 0 <= o[field] < 1:
            raise BadInput(f"optimizer.{field}={o[field]}: must lie in [0, 1)")
    if not 0 <= config.seed < 2**32:
        raise BadInput(f"seed={config.seed}: must lie in [0, 2**32)")

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
        raise BadInput("mesh.data=-1 and mesh.fsdp=-1: only one of them can be the rest")
    if data == -1:
        data = max(1, devices // fsdp)
    if fsdp == -1:
        fsdp = max(1, devices // data)
    if data * fsdp > devices:
        raise BadInput(
            f"mesh.data={data} x mesh.fsdp={fsdp} needs {data * fsdp} devices, here are {devices}: use a smaller "
            f"mesh (on a CPU, --devices={data * fsdp} makes fake ones)"
        )
    return data, fsdp


def validate_data(config: ConfigDict, spec: Spec, image_shape: tuple[int, ...], classes: int) -> None:
    """Checks that the network's input and output fit the data set.

    Raises:
      BadInput: naming the field of the model to change.
    """
    height, width, channels = image_shape
    size = spec.input_size
    if (height, width) != (size, size):
        raise BadInput(
            f"model.input_size={size} but {config.data.name}'s images are {height}x{width}: "
            f"set model.input_size={height}"
        )
    if channels != spec.input_channels:
        raise BadInput(
            f"model.input_channels={spec.input_channels} but {config.data.name}'s images have {channels}: "
            f"set model.input_channels={channels}"
        )
    if classes != spec.num_classes:
        raise BadInput(
            f"model.num_classes={spec.num_classes} but {config.data.name} has {classes}: "
            f"set model.num_classes={classes}"
        )


FREE = ("name", "mesh", "log_every_steps", "checkpoint_every", "checkpoint_keep", "data.dir", "data.workers")
LENGTH = ("total_steps", "total_epochs")  # free too, where the schedule does not depend on the end
EXECUTION = ("model.scan", "model.remat")  # the same function


def differences(saved: dict[str, Any], config: ConfigDict) -> list[str]:
    """The fields in which `config` differs from a saved one that may not change in mid-run, as readable lines."""
    free = FREE + EXECUTION + (LENGTH if config.schedule.name != "cosine" else ())
    old, new = flatten(saved), flatten(plain(config))
    return [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(free)
    ]


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON has it: dicts, lists and scalars."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        return [convert(v) for v in value] if isinstance(value, list | tuple) else value

    return convert(config.to_dict())


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
