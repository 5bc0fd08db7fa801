"""What one of the devices has to hold, compute and send in one training step."""

import dataclasses
from collections import Counter
from typing import Any

from resjax.models import counts
from resjax.models.spec import Spec
from resjax.plan import memory
from resjax.plan.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Load:
    """One device's part of a training step; sizes in bytes.

    Attributes:
      spec: the network.
      shapes: of a whole state, its arrays by field: `params`, `opt_state`, `batch_stats`, `ema`.
      data, fsdp: the mesh.
      images: of the batch on this device.
      accumulate: microbatches that they are taken in.
      collectives: how often this device takes part in each kind of message.
    """

    spec: Spec
    shapes: Any
    data: int
    fsdp: int
    images: int
    accumulate: int
    collectives: Counter[Collective]

    @property
    def devices(self) -> int:
        return self.data * self.fsdp

    @property
    def fixed(self) -> dict[str, int]:
        """Memory that does not depend on the batch. A step with microbatches stacks their gradients."""
        whole = memory.share(self.shapes.params, 1)
        return {
            "parameters": memory.share(self.shapes.params, self.fsdp),
            "optimizer": memory.share(self.shapes.opt_state, self.fsdp),
            "batch_statistics": memory.share(self.shapes.batch_stats, self.fsdp),
            **({"average": memory.share(self.shapes.ema, self.fsdp)} if self.shapes.ema else {}),
            "gradients": whole * (self.accumulate + 1 if self.accumulate > 1 else 1),
        }

    @property
    def per_image(self) -> dict[str, float]:
        """Memory for every image on the device; gradients of maps come and go, two of the largest at a time."""
        spec = self.spec
        return {
            "batch": spec.input_channels * spec.input_size**2 + 4,  # uint8, and its label
            "activations": memory.kept(spec) / self.accumulate,
            "working_maps": 2 * memory.widest(spec) / self.accumulate,
        }

    @property
    def memory(self) -> dict[str, int]:
        """Everything that the device holds at the peak of the step."""
        return self.fixed | {name: round(size * self.images) for name, size in self.per_image.items()}

    @property
    def arguments(self) -> int:
        """The part of `memory` that the step is given: state and batch."""
        names = ("parameters", "optimizer", "batch_statistics", "average", "batch")
        return sum(self.memory.get(name, 0) for name in names)

    @property
    def temporaries(self) -> int:
        """The part of `memory` that comes and goes within the step."""
        return sum(self.memory.values()) - self.arguments

    @property
    def flop(self) -> int:
        """Two for every multiply-add; the backward pass costs two forward passes, `remat` one more."""
        return 2 * counts.total(self.spec).macs * (4 if self.spec.remat else 3) * self.images

    @property
    def traffic(self) -> int:
        """Bytes that cross the device's memory.

        A map is written and read in the forward pass, read twice in the backward pass (by the sums of BN, and by
        the gradients), and its gradient is written and read: six times its size. `remat` adds a forward pass.
        Parameters are read by both passes, gradients written and read; the update reads and writes parameters and
        optimizer.
        """
        fixed = self.fixed
        maps = (8 if self.spec.remat else 6) * memory.written(self.spec) * self.images
        return maps + 4 * fixed["gradients"] + 2 * (fixed["parameters"] + fixed["optimizer"])

    def at(self, devices: int, images: int) -> "Load":
        """The same network on another number of devices, with so many images on each.

        The mesh keeps `fsdp`, or as much of it as there are devices. A message among all devices, or among those of
        one axis, is then one among as many as there are; gradients and parameters are as large on any number.
        What is gathered from more than one axis is made of as many pieces as there are devices.
        """
        fsdp = min(self.fsdp, devices)
        data = devices // fsdp
        found: Counter[Collective] = Counter()
        for old, count in self.collectives.items():
            gather = old.kind == "all-gather"
            over_fsdp = (old.group, old.apart) == (self.fsdp, 1)
            parameters = gather and over_fsdp
            if parameters or (over_fsdp and self.data > 1):
                new = old._replace(group=fsdp)
            elif old.group == self.devices:
                new = old._replace(group=devices)
            elif old.group == self.data:
                new = old._replace(group=data, apart=fsdp)
            else:  # those that share a group of BN
                new = old._replace(group=min(old.group, devices))
            if gather and not parameters:
                new = new._replace(size=old.size * new.group // old.group)
            if new.group > 1:
                found[new] += count
        return dataclasses.replace(self, data=data, fsdp=fsdp, images=images, collectives=found)
