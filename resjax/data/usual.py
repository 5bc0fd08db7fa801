"""How sets are usually trained on: what a config leaves out is filled in from here, or asked for."""

from dataclasses import dataclass

from resjax.data import sources
from resjax.data.augment.draw import AUGMENTATIONS
from resjax.errors import BadInput

NORMALIZATIONS = ("pixel_mean", "channel")

# Side that photographs of different sizes are resized to, unless data.image_size says otherwise.
PHOTOGRAPH_SIDE = 224


@dataclass(frozen=True)
class Usual:
    """How a set is usually trained on; a pad of None means that no padding is usual."""

    augment: str
    pad: int | None
    normalize: str


SMALL_PICTURES = Usual("crop_flip", 4, "pixel_mean")  # v1 section 4.2
PHOTOGRAPHS = Usual("resized_crop_flip", None, "channel")  # of different sizes; v1 section 3.4 with Inception crops
BY_NAME = {
    "digits": Usual("crop", 1, "channel"),  # mirrored digits are not digits
    "cifar10": SMALL_PICTURES,
    "cifar100": SMALL_PICTURES,
}
TESTED_ON = {"imagenet2012": "validation"}  # its `test` has no labels

# Height, width, channels and classes of sets that may be described before they are prepared.
PUBLISHED = {
    "cifar10": (32, 32, 3, 10),
    "cifar100": (32, 32, 3, 100),
    "mnist": (28, 28, 1, 10),
    "imagenet2012": (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE, 3, 1000),
}


def of(source: sources.Source) -> Usual | None:
    """How the set is usually trained on, or None if the user must say."""
    if source.name == "synthetic" and source.image_shape:
        return SMALL_PICTURES if source.image_shape[0] <= 64 else PHOTOGRAPHS
    known = BY_NAME.get(source.name.partition(":")[0])
    return known or (None if source.image_shape else PHOTOGRAPHS)


def ask(name: str, augment: str | None, normalize: str | None) -> str:
    """Refuses to guess, with BadInput: a default that fits badly is worse than none."""
    choices = {"augment": (augment, AUGMENTATIONS), "normalize": (normalize, NORMALIZATIONS)}
    missing = {field: known for field, (value, known) in choices.items() if value is None}
    raise BadInput(
        f"{' and '.join(f'data.{field}' for field in missing)} {'are' if len(missing) > 1 else 'is'} not given and "
        f"{name!r} has no usual value: give "
        + " and ".join(f"--config.data.{field}={'|'.join(known)}" for field, known in missing.items())
    )


def normalization(
    name: str, augment: str, normalize: str | None, usual: Usual | None, resized: bool, in_memory: bool
) -> str:
    """`data.normalize`, or what is usual; raises BadInput for a mean image that cannot be had."""
    if normalize is None:
        # A mean image belongs to images at their own size and place.
        normalize = "channel" if resized else usual.normalize if usual else ask(name, augment, normalize)
    if normalize == "pixel_mean" and not in_memory:
        raise BadInput(
            f"data.normalize='pixel_mean' needs a set in memory and {name!r} is too large: use 'channel'"
        )
    if normalize == "pixel_mean" and resized:
        raise BadInput("data.normalize='pixel_mean' needs images at their own size and place: use 'channel'")
    return normalize


def padding(name: str, augment: str, pad: int | None, usual: Usual | None, shape: tuple[int, int, int]) -> int:
    """`data.pad`, or what is usual; raises BadInput if it is needed and not known, or too large for `shape`."""
    if pad is None:
        pad = usual.pad if usual else None
    if pad is None:
        if augment in ("crop", "crop_flip"):
            raise BadInput(
                f"data.pad is not given and {name!r} has no usual value for data.augment={augment!r}: "
                f"give the pixels to pad with, such as --config.data.pad={max(1, min(shape[:2]) // 8)}"
            )
        return 0
    if pad > min(shape[:2]):
        raise BadInput(
            f"data.pad={pad} is more than the {shape[0]} x {shape[1]} pixels of an image: use a few pixels"
        )
    return pad
