"""How long a step takes on a kind of device, and whether it fits: a roofline, with its assumptions.

    step = busy + max(0, communication - overlap * busy),    busy = max(arithmetic, traffic)

Arithmetic is the multiply-adds of forward and backward pass at the device's peak rate; traffic is `Load.traffic` at
the bandwidth of its memory; communication is the collectives that the compiler found, each as a ring: an all-reduce
of B bytes among n devices sends 2 (n - 1) / n B from each, an all-gather, a reduce-scatter or an all-to-all
(n - 1) / n B. Beyond a domain (a pod, a server) a collective takes two levels: among the devices of a domain, then
among the domains, where every device sends its part of B over its share of the network.

Assumed:
  efficiency  the share of each published peak that is reached
  overlap     the share of `busy` behind which communication hides; 0, nothing hides, is the cautious end
  latency     none, of kernels or of messages: small networks, and BN over groups that span devices, take longer
  input       the data is ready: loading and decoding are not in it

These are plans, not measurements: nothing here was fitted to a device.
"""

from collections.abc import Iterator
from typing import NamedTuple

from resjax.plan.collectives import Collective
from resjax.plan.devices import Kind
from resjax.plan.load import Load

SCALES = tuple(2**i for i in range(11))  # 1 to 1,024 devices


class Assumed(NamedTuple):
    """The two shares that the module explains."""

    efficiency: float = 0.5
    overlap: float = 0.0


class Estimate(NamedTuple):
    """Of one step on one kind of device.

    Attributes:
      arithmetic_seconds, traffic_seconds, communication_seconds, step_seconds: as the module explains.
      images_per_second: of all devices.
      memory_bytes: that a device needs.
      fits: whether that is no more than it has for arrays.
      largest: the most images on a device that fit; 0 if the state alone does not.
    """

    arithmetic_seconds: float
    traffic_seconds: float
    communication_seconds: float
    step_seconds: float
    images_per_second: float
    memory_bytes: int
    fits: bool
    largest: int


class Row(NamedTuple):
    """One line of a scaling table.

    Attributes:
      efficiency: images per second of a device, as a share of that of one device alone.
      bn_spans: whether groups of BN reach over devices, which then exchange statistics in many small messages.
    """

    devices: int
    data: int
    fsdp: int
    images: int
    estimate: Estimate
    efficiency: float
    bn_spans: bool


def estimate(load: Load, kind: Kind, assumed: Assumed) -> Estimate:
    """Applies the model to what one device has to do."""
    rate = kind.bfloat16 if load.spec.dtype == "bfloat16" else kind.float32
    arithmetic = load.flop / (rate * assumed.efficiency)
    traffic = load.traffic / (kind.memory_bandwidth * assumed.efficiency)
    sending = sum(n * seconds(c, kind) for c, n in load.collectives.items()) / assumed.efficiency
    busy = max(arithmetic, traffic)
    step = busy + max(0.0, sending - assumed.overlap * busy)
    needed, room = sum(load.memory.values()), kind.memory * kind.usable
    return Estimate(
        arithmetic_seconds=arithmetic,
        traffic_seconds=traffic,
        communication_seconds=sending,
        step_seconds=step,
        images_per_second=load.images * load.devices / step,
        memory_bytes=needed,
        fits=needed <= room,
        largest=max(0, int((room - sum(load.fixed.values())) / sum(load.per_image.values()))),
    )


def seconds(collective: Collective, kind: Kind) -> float:
    """The time of one collective at the published bandwidths."""
    n, size = collective.group, collective.size
    if collective.kind == "collective-permute":
        return size / kind.link
    near = min(n, max(1, kind.domain // collective.apart))
    far = -(-n // near)
    time = (near - 1) / near * size / kind.link
    if far > 1:
        assert kind.network, "refused before: no figure beyond its domain"
        time += (far - 1) / far * size / near / kind.network
    return (2 if collective.kind == "all-reduce" else 1) * time


def scaling(load: Load, kind: Kind, assumed: Assumed, batch: int | None = None) -> Iterator[Row]:
    """The same network on 1 to 1,024 devices, by formula from what each of several devices was found to do.

    Args:
      load: of at least two devices, so that it has collectives.
      batch: divided among the devices (strong scaling; numbers that do not divide it are left out); None gives each
        as many images as it has in `load` (weak scaling).
    """
    alone = None
    for n in SCALES:
        images, rest = divmod(batch, n) if batch else (load.images, 0)
        if rest or images % load.accumulate or n % min(load.fsdp, n):
            continue
        then = load.at(n, images)
        found = estimate(then, kind, assumed)
        each = found.images_per_second / n
        alone = alone or each
        group = load.spec.bn_group or n * images
        spans = load.spec.norm == "batch" and bool(images // load.accumulate % group)
        yield Row(n, then.data, then.fsdp, images, found, each / alone, spans)
