"""What the suites measure: rows, each a point. Later rows follow from what earlier ones found."""

import dataclasses
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

CIFAR = "configs/cifar10.py:"
IMAGENET = "configs/imagenet.py:"
HALF = {"model.dtype": "bfloat16"}
# What XLA puts into CUDA graphs, by name; convolutions are not captured by default, nor are loops.
GRAPHS = "--xla_gpu_enable_command_buffer="
FLAGS = {
    "default": "",
    "graphs off": GRAPHS,
    "+CONVOLUTION": f"{GRAPHS}+CONVOLUTION",
    "+CONVOLUTION,+WHILE": f"{GRAPHS}+CONVOLUTION,+WHILE",
    "conv fusion": "--xla_gpu_experimental_enable_conv_fusion=true",
}
# What always rounds alike: of every operation the first algorithm, untimed; or the fastest of those that do.
DETERMINISTIC = {
    "deterministic": "--xla_gpu_deterministic_ops=true",
    "deterministic, autotuned": "--xla_gpu_exclude_nondeterministic_ops=true",
}
# Of every network with --tiny: sizes that compile in seconds.
TINY: dict[str, dict[str, Any]] = {
    CIFAR: {"model.units": "2,2,2", "model.widths": "4,8,8"},
    IMAGENET: {"model.units": "1,1,1,1", "model.widths": "8,8,16,16", "data.image_size": 16},
}
ALL_TINY = {"model.stem_width": 4, "model.bn_group": 0, "batch_size": 4}

Found = list[dict[str, Any]]  # what has been measured so far


@dataclasses.dataclass(frozen=True)
class Row:
    """One point.

    Attributes:
      name: what it is, for people.
      kind: of `resjax.benchmark.point.KINDS`, or "ceilings".
      recipe: FILE:NETWORK of the config.
      fields: of the config, that differ from the recipe.
      flags: what is added to XLA_FLAGS.
      steps: how many are measured.
      limit: seconds after which it is given up.
    """

    name: str
    kind: str
    recipe: str = f"{CIFAR}v1-20"
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    flags: str = ""
    steps: int = 300
    limit: float = 120.0

    def but(self, **changes: Any) -> "Row":
        """The same row with other attributes."""
        return dataclasses.replace(self, **changes)

    @property
    def point(self) -> list[str]:
        """The command's flags."""
        fields = [f"--config.{name}={value}" for name, value in self.fields.items()]
        return [f"--point={self.kind}", f"--config={self.recipe}", *fields, f"--steps={self.steps}"]

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        variable = f"XLA_FLAGS={shlex.quote(self.flags)} " if self.flags else ""
        return variable + shlex.join(["python", "-m", "resjax.benchmark", *self.point])

    @property
    def argv(self) -> list[str]:
        """The command, in this interpreter."""
        return [sys.executable, "-m", "resjax.benchmark", *self.point]


def cifar(found: Found) -> Iterator[Row]:
    """The CIFAR networks at the papers' batch of 128, and their 64k steps projected."""
    yield Row("ceilings", "ceilings")
    cpu, gpu = on(found, "cpu"), on(found, "gpu")
    data = {"data.name": "synthetic", "data.placement": "device"}
    step = Row("v1-20 float32", "step", fields=data | {"steps_per_call": 1}, steps=9 if cpu else 300)
    yield step
    yield step.but(name="v1-20 float32, PyTorch", kind="pytorch", fields=data)
    yield step.but(name="v1-20 float32, stock Flax", kind="flax", fields=data)
    if cpu:
        yield step.but(name="v1-110 float32", recipe=f"{CIFAR}v1-110", steps=3)
    else:
        yield step.but(name="v1-20 bfloat16", fields=step.fields | HALF)
        half = step.but(kind="pytorch", fields=data | HALF, limit=180)
        yield half.but(name="v1-20 bfloat16, PyTorch")
        sets = FLAGS if gpu else {"default": ""}
        yield from (calls(step, 50, name, flags) for name, flags in sets.items())
        deep = best(step, found).but(recipe=f"{CIFAR}v1-110", limit=240)
        yield deep.but(name="v1-110 float32, as the fastest v1-20")
        yield deep.but(name="v1-110 bfloat16, as the fastest v1-20", fields=deep.fields | HALF)
        yield deep.but(name="v1-20 bfloat16, as the fastest float32", recipe=step.recipe, fields=deep.fields | HALF)
        deepest = deep.but(recipe=f"{CIFAR}v2-1001", limit=400, steps=50)
        yield deepest.but(name="v2-1001 bfloat16, scanned, as the fastest v1-20", fields=deepest.fields | HALF)
        yield deepest.but(name="v2-1001 float32, scanned, as the fastest v1-20")
    for how in ("map", "vmap"):
        yield step.but(name=f"v1-20 float32, four seeds by {how}", kind=f"seeds-{how}", limit=240)
    if not cpu:
        yield from (calls(step, 200, name, flags) for name, flags in sets.items())
        if gpu:
            yield from deterministic(best(step, found), "v1-20 float32, as the fastest")
            yield from (calls(step, 1, name, flags) for name, flags in FLAGS.items() if flags)
        yield half.but(name="v1-20 bfloat16, PyTorch max-autotune", kind="pytorch-max-autotune")


def imagenet(found: Found) -> Iterator[Row]:
    """ResNet-50 v1.5: bfloat16, 224 pixels, batch 256; on a CPU float32, 64 pixels, batch 32."""
    recipe = f"{IMAGENET}v1.5-50"
    yield Row("ceilings", "ceilings", recipe)
    cpu, gpu = on(found, "cpu"), on(found, "gpu")
    # Crops of images that lie on the device: what a step costs does not depend on where they were cut.
    data: dict[str, Any] = {"data.name": "synthetic", "data.placement": "device", "data.workers": 0}
    data |= {"data.augment": "crop_flip", "data.pad": 4, "data.image_size": 64 if cpu else 224}
    data |= {"model.dtype": "float32", "batch_size": 32} if cpu else {}
    step = Row("v1.5-50", "step", recipe, data | {"steps_per_call": 1}, steps=6 if cpu else 60, limit=240)
    yield step
    yield step.but(name="v1.5-50, PyTorch", kind="pytorch", fields=data)
    yield step.but(name="v1.5-50, stock Flax", kind="flax", fields=data)
    if not cpu:
        yield calls(step, 10, "default", "")
    if gpu:
        yield from (calls(step, 1, name, flags) for name, flags in FLAGS.items() if flags)
        yield calls(step, 10, "+CONVOLUTION,+WHILE", FLAGS["+CONVOLUTION,+WHILE"])
        yield from deterministic(best(step, found), "v1.5-50, as the fastest")
    if not cpu:  # last, as it takes minutes
        yield step.but(name="v1.5-50, PyTorch max-autotune", kind="pytorch-max-autotune", fields=data, limit=400)


SUITES: dict[str, Callable[[Found], Iterator[Row]]] = {"cifar": cifar, "imagenet": imagenet}


def calls(step: Row, count: int, name: str, flags: str) -> Row:
    """The same with so many steps a call, under a set of flags."""
    return step.but(
        name=f"{step.name}, {count} steps a call, {name}",
        fields=step.fields | {"steps_per_call": count},
        flags=flags,
        steps=max(step.steps, 3 * count),
    )


def best(step: Row, found: Found) -> Row:
    """The fastest of `step` and of all `calls` of it that were measured."""
    rows = [step, *(calls(step, count, name, flags) for count in (1, 10, 50, 200) for name, flags in FLAGS.items())]
    times = {each["name"]: each["step_seconds"] for each in found if "step_seconds" in each}
    return min(rows, key=lambda row: times.get(row.name, math.inf))


def deterministic(row: Row, name: str) -> Iterator[Row]:
    """The same in the ways that always round alike."""
    for how, flag in DETERMINISTIC.items():
        yield row.but(name=f"{name}, {how}", flags=f"{row.flags} {flag}".strip())


def on(found: Found, platform: str) -> bool:
    """Whether the device is one: cpu, gpu or tpu; the first row said so."""
    return any(each.get("platform") == platform for each in found)


def tiny(row: Row) -> Row:
    """The same with a network and a batch that compile in seconds."""
    small = next(fields for recipe, fields in TINY.items() if row.recipe.startswith(recipe))
    fields = row.fields | small | ALL_TINY
    if "steps_per_call" in fields:
        fields["steps_per_call"] = min(2, fields["steps_per_call"])
    return row.but(fields=fields, steps=6)
