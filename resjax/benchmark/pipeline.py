"""How fast photos become batches for training, beside how fast their JPEGs decode.

The pipeline is the one that runs train with: read, decode, random crop, resize, stack, and hand over. It is
measured through `Dataset.train` on 1, 2, 4, ... of the machine's cores, with threads and with as many processes,
and its stages one after the other on one core. Beside it, before and after every row, the same JPEGs are decoded
whole, from memory, by one core and nothing else: what a pipeline cannot beat without decoding less.
"""

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import checks, machine, markdown
from resjax.data import jpeg, sources
from resjax.data.loader import Dataset, TrainBatch, open_dataset
from resjax.errors import BadInput

SAMPLE = 256  # photos that are decoded from memory
STEADY = 1.1  # the fastest over the slowest of its rates, on a machine that does nothing else
STAGES = {
    "read": "read the files",
    "decode": "decode",
    "resize": "crop, resize and stack",
    "collect": "draw and hand over",
}


class Way(NamedTuple):
    """How batches are made: on so many cores, by so many processes (0: threads)."""

    cores: int
    workers: int

    @property
    def name(self) -> str:
        return "threads" if not self.workers else "1 process" if self.workers == 1 else f"{self.workers} processes"


def measure(config: ConfigDict, steps: int) -> dict[str, Any]:
    """Rates of the pipeline and of decoding alone, and the seconds of every stage, for the photos of a config.

    Args:
      steps: batches to time in each way; some more, so that those which are made at once count together.

    Raises:
      BadInput: for a config that cannot train, or a set without JPEGs to decode.
    """
    checks.validate(config, jax.device_count())
    dataset = open_dataset(**config.data)
    making = dataset.training(config.batch_size, config.seed)
    files = sample(dataset, making)
    decode_alone(files)  # the first pass loads the decoder
    raw, rates, all_ways = [decode_alone(files)], [], list(ways())
    for way in all_ways:
        with on_cores(way.cores):
            rates.append(rate(dataclasses.replace(dataset, workers=way.workers), config, steps))
        raw.append(decode_alone(files))
    with on_cores(1):
        seconds = stages(making, steps)
    around = [(before + after) / 2 for before, after in itertools.pairwise(raw)]
    rows = [row(*each) for each in zip(all_ways, rates, around, strict=True)]
    one = next((each["images_per_second"] for each in rows if each["cores"] == 1 and not each["workers"]), None)
    about = machine.describe(1)
    about["versions"] |= {name: version(name) for name in ("simplejpeg", "pillow", "grain")}
    result = {
        "data": {name: value for name, value in config.data.items() if name != "dir"},
        "image_shape": list(dataset.image_shape),
        "augment": dataset.augment,
        "batch_size": config.batch_size,
        "photos": dataset.train_size,
        **described(files),
        "raw_decode_images_per_second": statistics.median(raw),
        "raw_decode_range": [min(raw), max(raw)],
        "rows": rows,
        "stage_seconds": seconds | ({"collect": 1 / one - sum(seconds.values())} if one else {}),
        **about,
        "cores": cores(),
    }
    if max(raw) > STEADY * min(raw):
        result["note"] = (
            f"decoding alone went at {min(raw):,.0f} to {max(raw):,.0f} images/s: the machine does other work, or "
            "changes its speed; measure again"
        )
    return result


def sample(dataset: Dataset, making: TrainBatch) -> list[bytes]:
    """The JPEGs among the photos of the first batches."""
    photos = making.records
    if not isinstance(photos, sources.Compressed):
        raise BadInput(
            f"--input: {dataset.name} lies decoded in memory, so there is nothing to read or decode; give photos, "
            "such as --config.data.name=folder --config.data.dir=PHOTOS"
        )
    batches = -(-SAMPLE // making.draw.order.batch_size)
    index = np.unique(np.concatenate([making.draw(step)["index"] for step in range(batches)]))
    files = [file for file in photos.encoded(index[:SAMPLE]) if file.startswith(jpeg.START)]
    if not files:
        raise BadInput(
            f"--input: no photo of {dataset.name} is a JPEG, and their decoding is what it compares with"
        )
    return files


def described(files: Sequence[bytes]) -> dict[str, Any]:
    """How many photos are decoded alone, and their mean size."""
    import simplejpeg

    pixels = [int(np.prod(simplejpeg.decode_jpeg_header(file)[:2])) for file in files]
    return {
        "sample": len(files),
        "mean_pixels": statistics.fmean(pixels),
        "mean_bytes": statistics.fmean(map(len, files)),
    }


def decode_alone(files: Sequence[bytes]) -> float:
    """Images per second of JPEGs that lie in memory, decoded whole by one core."""
    import simplejpeg

    began = time.perf_counter()
    for file in files:
        simplejpeg.decode_jpeg(file, "RGB")
    return len(files) / (time.perf_counter() - began)


def ways() -> Iterator[Way]:
    """Threads and processes on 1, 2, 4, ... and all cores; on all alone where a process cannot be kept to some."""
    counts = [cores()]
    if hasattr(os, "sched_setaffinity"):
        counts = [n for n in (2**i for i in range(cores().bit_length())) if n < cores()] + counts
    for count in counts:
        yield Way(count, 0)
        yield Way(count, count)


def cores() -> int:
    """Cores that this process may run on, as the system counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keeps this thread, and the threads and processes that it starts, to so many cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def rate(dataset: Dataset, config: ConfigDict, steps: int) -> float:
    """Images per second of the batches for training, once all threads or processes are at work.

    As many batches are made at once, and are ready nearly at once, so a multiple of that number is timed.
    """
    together = dataset.workers or min(16, os.cpu_count() or 1)
    count = -(-steps // together) * together
    with closing(dataset.train(config.batch_size, config.seed)) as batches:
        for _ in itertools.islice(batches, 3 * together):  # until nothing is left of what was made meanwhile
            pass
        began = time.perf_counter()
        for _ in itertools.islice(batches, count):
            pass
        return count * config.batch_size / (time.perf_counter() - began)


def stages(making: TrainBatch, steps: int) -> dict[str, float]:
    """Seconds per image of each stage, called one after the other for whole batches of photos."""
    seconds, images = dict.fromkeys(("read", "decode", "resize"), 0.0), 0
    assert isinstance(making.records, sources.Compressed)
    for step in range(steps + 1):
        draws = making.draw(step)
        marks = [time.perf_counter()]
        making.records.encoded(draws["index"])
        marks.append(time.perf_counter())
        photos, _, shapes = making.read(draws)
        marks.append(time.perf_counter())
        making.views(draws, photos, shapes)
        marks.append(time.perf_counter())
        read, both, resize = (after - before for before, after in itertools.pairwise(marks))
        if step:  # the first loads what it needs
            images += len(draws["index"])
            for name, value in {"read": read, "decode": both - read, "resize": resize}.items():
                seconds[name] += value
    return {name: value / images for name, value in seconds.items()}


def row(way: Way, images_per_second: float, raw: float) -> dict[str, Any]:
    """A line of the result; `raw` is the rate of decoding alone at that time."""
    each = images_per_second / way.cores
    return {
        "name": way.name,
        **way._asdict(),
        "images_per_second": images_per_second,
        "images_per_second_per_core": each,
        "raw_decode_images_per_second": raw,
        "of_raw_decode": each / raw,
    }


def table(result: dict[str, Any]) -> str:
    """The rates and the stages as text."""
    raw, seconds = result["raw_decode_images_per_second"], result["stage_seconds"]
    rates = [["decoding alone, from memory", "1", f"{raw:,.0f}", f"{raw:,.0f}", "1.00"]]
    rates += [
        [
            each["name"],
            str(each["cores"]),
            f"{each['images_per_second']:,.0f}",
            f"{each['images_per_second_per_core']:,.0f}",
            f"{each['of_raw_decode']:.2f}",
        ]
        for each in result["rows"]
    ]
    whole = sum(seconds.values())
    parts = [[STAGES[name], f"{1e6 * s:,.0f}", f"{100 * s / whole:.0f} %"] for name, s in seconds.items()]
    photo = f"{result['mean_pixels'] / 1e3:,.0f} thousand pixels and {result['mean_bytes'] / 1e3:,.0f} kB"
    lines = [
        markdown.table(["", "cores", "images/s", "images/s/core", "of decoding alone"], rates),
        markdown.table(["one core", "us an image", "share"], parts),
        f"{result['processor']}, {result['cores']} cores; JPEGs of {photo} on average",
    ]
    return "\n\n".join([*lines, *([result["note"]] if "note" in result else [])])
