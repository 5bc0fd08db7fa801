"""The default config with every field explained, and durations resolved to steps.

A config file's `get_config(spec)` starts from `default()` and changes a few lines. Names that scripts rely on:
`batch_size`, `total_steps`, `total_epochs`, `seed`, `optimizer.learning_rate`, `mesh.data`, `mesh.fsdp`,
`data.name`, `data.dir`, `model.*`, `init_from`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resjax import __version__
from resjax.errors import BadInput
from resjax.models.spec import Spec


def default(model: Spec | None = None) -> ConfigDict:
    """The CIFAR recipe of both papers but for `decay_mask`, around `model`: every field that exists, explained.

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
    c.eval_train = False  # also evaluate the training split, in one view of every image: train_clean in the logs
    c.checkpoint_every_steps = placeholder(int)
    c.checkpoint_every_epochs = placeholder(float)
    c.checkpoint_keep = 2  # the latest so many; the best by validation accuracy is kept besides
    c.log_every_steps = 50
    c.steps_per_call = 0  # that the devices take without coming back to the host; 0: chosen
    # Another run's workdir, a file or folder of weights, or hf://OWNER/NAME: start from these and nothing else.
    c.init_from = ""

    c.model = ConfigDict(dataclasses.asdict(model or Spec()))  # resjax.models.spec.Spec explains its fields
    c.model.update(num_classes=0, input_channels=0, input_size=0)  # 0: as the data set has it

    c.data = ConfigDict()  # the arguments of resjax.data.loader.open_dataset
    c.data.name = "digits"
    c.data.dir = (
        ""  # of `folder`: the photos; else where prepared sets are, $TFDS_DATA_DIR or ~/tensorflow_datasets
    )
    c.data.train_split = "train"
    c.data.validation_split = ""  # such as train[45000:]; the only split by which anything may be selected
    c.data.test_split = placeholder(str)  # None: the one that is usual for the set
    # What is usual for the set, unless it is given here.
    # none | crop | crop_flip; photos: resized_crop_flip (Inception) | scale_crop_flip (v1) | fb_crop_flip (FAIR)
    c.data.augment = placeholder(str)
    c.data.pad = placeholder(int)  # pixels of zero padding before the random crop
    c.data.normalize = placeholder(str)  # pixel_mean | channel
    c.data.image_size = 0  # 0: the set's own
    c.data.jitter = 0.0  # strength of fb.resnet's jitter of brightness, contrast and saturation, 0.4 there; 0: off
    c.data.lighting = 0.0  # standard deviation of AlexNet's PCA colour noise, 0.1 there; 0: off
    c.data.policy = ""  # rand-m7-mstd0.5-inc1 (timm) | torchvision-rand-n2-m9 | trivial-wide; empty: none
    c.data.erase = 0.0  # probability of random erasing; 0: off
    c.data.train_image_size = 0  # of training images alone; 0: as image_size
    c.data.interpolation = placeholder(str)  # of every resize: bilinear | bicubic; None: bilinear
    c.data.crop_share = placeholder(float)  # side of the central crop / resized short side; None: 224 / 256
    c.data.decode = "full"  # JPEGs | scaled: with no more pixels than a view needs, faster; of photos
    c.data.repeats = 1  # views of an image in succession; an epoch keeps its length and has fewer images
    c.data.workers = 0  # processes that prepare batches, always the same ones; 0: threads
    c.data.skip_damaged = False  # of `folder`: go on without the damaged files
    c.data.split_seed = 0  # of `folder`: which fifth of each class is tested on, where no split is
    c.data.placement = "auto"  # host | device: the whole set in its memory, batches made there | auto: if it fits

    c.optimizer = ConfigDict()
    c.optimizer.name = "sgd"  # sgd | adamw | lamb
    c.optimizer.learning_rate = 0.1
    c.optimizer.reference_batch = 0  # images that the rate is meant for: it grows with the batch; 0: it does not
    c.optimizer.momentum = 0.9  # adamw and lamb: beta 1
    c.optimizer.beta2 = 0.999  # adamw and lamb only
    c.optimizer.nesterov = False
    c.optimizer.weight_decay = 1e-4
    c.optimizer.decay_mask = "all"  # all: every parameter | kernels: neither BN nor biases
    c.optimizer.clip_norm = 0.0  # global norm of the gradient; 0: off
    c.optimizer.accumulate = 1  # microbatches per step; BN normalises each by itself
    c.optimizer.label_smoothing = 0.0
    c.optimizer.freeze = ()  # parts that stay as they are, from the input on: stem | stem,stage1 | ...
    c.optimizer.head_multiplier = 1.0  # of the rate, for the head
    c.optimizer.layer_decay = 1.0  # of the rate, for each unit further from the head; 1: off

    c.loss = ConfigDict()
    c.loss.name = "softmax"  # softmax | binary: a yes or no for each class
    c.loss.threshold = 0.0  # binary: targets above it become 1, the others 0; 0: as they are

    c.mix = ConfigDict()  # of the images of a batch with each other; both: one of them for each batch
    c.mix.mixup = 0.0  # blends two: the share is drawn from Beta(mixup, mixup); 0: off
    c.mix.cutmix = 0.0  # pastes a box of one into the other: its share from Beta(cutmix, cutmix); 0: off
    c.mix.definition = "timm"  # timm: image i of n with n - 1 - i | torchvision: with i - 1
    c.mix.group = 0  # images mixed with each other, by one share: in the sources a GPU's; 0: the global batch

    c.ema = ConfigDict()  # a moving average of weights and statistics, evaluated besides: test_ema in the logs
    c.ema.decay = 0.0  # 0: off
    c.ema.every_steps = 1  # that it takes in the weights; a copy of them until the warm-up ends

    c.schedule = ConfigDict()
    c.schedule.name = "piecewise"  # constant | piecewise | cosine
    c.schedule.drop_steps = ()  # piecewise: the rate is multiplied by drop_factor here
    c.schedule.drop_epochs = ()
    c.schedule.drop_factor = 0.1
    c.schedule.final_rate = 0.0  # cosine: the rate at the end
    c.schedule.warmup = "none"  # none | constant (at warmup_rate, as in the papers) | linear (from warmup_rate)
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

    def next_stop(self, step: int) -> int:
        """The next step whose state is wanted: for an evaluation, for a checkpoint, or as the last."""
        return min(self.total, *(step - step % n + n for n in (self.eval_every, self.checkpoint_every)))


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
            value = max(1, value)  # a small budget may leave less than one step
        if not 1 <= value < 2**31:  # the state counts in int32
            given = f"steps={in_steps}" if in_steps is not None else f"epochs={in_epochs}"
            raise BadInput(f"{field}_{given}: comes to {value} steps, must be at least 1 and below 2**31")
        return value

    total = steps(config, "", "total")
    schedule = config.schedule
    if schedule.drop_steps and schedule.drop_epochs:
        raise BadInput("schedule.drop_steps and schedule.drop_epochs are both given: leave one empty, ()")
    drops = tuple(schedule.drop_steps) or tuple(round(e * per_epoch) for e in schedule.drop_epochs)
    if list(drops) != sorted(set(drops)) or not all(isinstance(step, int) and step > 0 for step in drops):
        raise BadInput(f"schedule drops at steps {drops}: must be whole, positive and ascending")
    warmup = 0 if schedule.warmup == "none" else steps(schedule, "schedule.", "warmup")
    if warmup >= total:
        unit = "steps" if schedule.warmup_steps is not None else "epochs"
        raise BadInput(
            f"schedule.warmup_{unit}={schedule[f'warmup_{unit}']}: the warm-up takes {warmup} steps and training "
            f"{total}; set schedule.warmup_steps below {total} or schedule.warmup=none, or train longer"
        )
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

    An interval in epochs between evaluations shrinks as well, to an epoch at least: curves keep their points.

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
    if (interval := config.eval_every_epochs) is not None:
        config.eval_every_epochs = min(interval, max(1.0, interval * budget))
    config.schedule.drop_steps = tuple(round(s * budget) for s in config.schedule.drop_steps)
    config.schedule.drop_epochs = tuple(e * budget for e in config.schedule.drop_epochs)


def network(config: ConfigDict) -> Spec:
    """The spec that `config.model` holds.

    Raises:
      BadInput: for an impossible network.
    """
    return Spec(**config.model.to_dict())


def in_training(config: ConfigDict) -> Spec:
    """`network` with the size of training images as that of its input.

    Raises:
      BadInput: for an impossible network.
    """
    spec = network(config)
    return dataclasses.replace(spec, input_size=config.data.train_image_size or spec.input_size)


def restored(saved: Mapping[str, Any], where: object) -> ConfigDict:
    """The config that a run of this or an older version saved: a missing field gets its default.

    Args:
      saved: what `plain` returned.
      where: the file that it comes from, for the message.

    Raises:
      BadInput: for a field that this version does not have, or a value of another type than the field's.
    """
    if not isinstance(saved, Mapping) or not saved:
        raise BadInput(f"{where} holds no config: restore the file")
    config = default()
    known = flatten(plain(config))
    for field, value in flatten(saved).items():
        if field not in known:
            raise BadInput(
                f"{where} has the field {field}, which resjax {__version__} does not know: update resjax"
            )
        if value is None and known[field] is None:
            continue  # it keeps the type of what it may become
        section, _, name = field.rpartition(".")
        node = config[section] if section else config
        try:
            absent = value is None and known[field] is not None
            if absent or isinstance(value, bool) > isinstance(known[field], bool):
                raise TypeError  # which a ConfigDict would take
            node[name] = tuple(value) if isinstance(value, list) else value
        except (TypeError, OverflowError) as error:
            raise BadInput(f"{where}: {field}={value!r} has the wrong type: restore the file") from error
    return config


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON values: dicts, lists and scalars."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        return [convert(v) for v in value] if isinstance(value, list | tuple) else value

    return convert(config.to_dict())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
