"""Fills in what the data set knows in the data section of a config, without reading an image."""

import os
from dataclasses import dataclass, field

from resjax.data import fit, folders, prepared, sources, usual
from resjax.data.augment import policies
from resjax.data.augment.draw import AUGMENTATIONS, PHOTO_CROPS, Augmentation
from resjax.data.listing import Listing
from resjax.data.preprocess import Preprocessing
from resjax.data.resizing import Resizing
from resjax.data.splits import Slice, parse_slice
from resjax.errors import BadInput, unknown

PLACEMENTS = ("auto", "host", "device")


@dataclass(frozen=True, eq=False)
class Resolved:
    """What is known of a configured data set before any image is read.

    Attributes:
        name: as configured.
        num_classes: labels are 0 <= label < num_classes.
        class_names: in label order, or empty if the set has none.
        image_shape: (H, W, C) of the processed images.
        image_size: their side in pixels, which replaces `data.image_size=0`; 0 if they are not square.
        augment, pad, normalize: as configured, or as is usual for the set.
        jitter, lighting, policy, erase: as configured.
        train_image_size: side of training images in pixels, where images are resized.
        interpolation, crop_share: of images that are resized, as configured or as is usual; else None.
        source: where the records come from.
        decode, repeats: as configured.
        parts: the configured slices by role, 'train', 'validation' and 'test'.
        resized: whether images are resized to get their processed shape.
        in_memory: whether the slices together are small enough to be kept decoded.
        train_size, validation_size, test_size: number of records; 0 for a split that is not configured.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    augment: str
    pad: int
    jitter: float
    lighting: float
    policy: str
    erase: float
    normalize: str
    train_image_size: int
    interpolation: str | None
    crop_share: float | None
    decode: str
    test_split: str
    repeats: int
    source: sources.Source = field(repr=False)
    parts: dict[str, Slice] = field(repr=False)
    resized: bool
    in_memory: bool

    @property
    def ready(self) -> bool:
        """Whether the images lie in memory at their final size."""
        return self.in_memory and not self.resized

    @property
    def augmentation(self) -> Augmentation:
        """What is done to training images."""
        return Augmentation(self.augment, self.pad, self.jitter, self.lighting, self.policy, self.erase)

    @property
    def image_size(self) -> int:
        height, width, _ = self.image_shape
        return height if height == width else 0

    @property
    def train_shape(self) -> tuple[int, int]:
        """(H, W) of training images."""
        return (self.train_image_size,) * 2 if self.resized else self.image_shape[:2]

    @property
    def train_size(self) -> int:
        return len(self.parts["train"])

    @property
    def validation_size(self) -> int:
        return len(self.parts.get("validation", ()))

    @property
    def test_size(self) -> int:
        return len(self.parts["test"])


def resolve(
    *,
    name: str,
    dir: str,
    train_split: str,
    validation_split: str,
    test_split: str | None,
    augment: str | None,
    pad: int | None,
    normalize: str | None,
    image_size: int,
    workers: int,
    jitter: float = 0.0,
    lighting: float = 0.0,
    policy: str = "",
    erase: float = 0.0,
    train_image_size: int = 0,
    interpolation: str | None = None,
    crop_share: float | None = None,
    decode: str = "full",
    repeats: int = 1,
    placement: str = "auto",
    skip_damaged: bool = False,
    split_seed: int = 0,
    preprocessing: Preprocessing | None = None,
    listing: Listing | None = None,
) -> Resolved:
    """Looks a data set up and fills in what it knows; reads no images.

    None for `augment`, `pad` and `normalize` means what is usual for the set, see `usual`.

    Args:
        name: 'digits', 'synthetic', 'folder', or a prepared TFDS set such as 'cifar10'.
        dir: the folder of photos (see `folders`); else where TFDS keeps its sets, '' is $TFDS_DATA_DIR or
            ~/tensorflow_datasets.
        train_split, validation_split, test_split: such as 'train[:45000]' (see `splits`); '' for no validation;
            None for the split that the set is usually tested on.
        augment: of training images: 'none'; 'crop' pads with zeros after normalisation and crops at random;
            'crop_flip' also mirrors with probability 1/2, the papers' CIFAR augmentation. Of photos each view is a
            part, mirrored with probability 1/2: 'resized_crop_flip' as in Inception (`boxes.crop_box`),
            'scale_crop_flip' as in the papers (`boxes.scale_crop_box`), 'fb_crop_flip' as in fb.resnet.torch
            (`boxes.fb_crop_box`).
        pad: zeros on each side before a crop, in pixels.
        normalize: 'pixel_mean' subtracts the training split's mean image and divides by one scalar; 'channel'
            standardises each channel, with ImageNet's constants if the set does not fit in memory.
        image_size: side of the processed images in pixels; 0 means the set's own, or 224 if its images differ in
            size. Images of another size are resized to a short side of 256/224 of it and cropped at the centre.
        workers: processes that read and decode; 0 uses threads, the fastest for sets that fit in memory.
        jitter: strength of the jitter of brightness, contrast and saturation, 0 to 1; 0 for none (`colour.jitter`).
        lighting: standard deviation of AlexNet's colour noise, 0 to 1; 0 for none (`draw.light`).
        policy: name of an augmentation policy, '' for none (`policies.policy`).
        erase: probability of random erasing, 0 to 1; 0 for none (`boxes.erased_box`).
        train_image_size: side of training images in pixels, where images are resized; 0 is that of the others.
        interpolation, crop_share: of `Preprocessing`, where images are resized; None is what is usual.
        decode: as in `Preprocessing`; 'scaled' is for photos.
        repeats: repeated augmentation: views of an image that come in succession, see `order`.
        placement: one of PLACEMENTS; 'device' is refused here for a set that the device cannot be given.
        skip_damaged, split_seed: of a folder, see `folders.source`.
        preprocessing: what the weights were trained with, if there are any.
        listing: of a folder, the files of the run that goes on.

    Raises:
        BadInput: for a value that cannot work, or a set that is missing or does not fit `preprocessing`.
    """
    _check_values(augment, pad, normalize, image_size, workers)
    _check_shares(jitter=jitter, lighting=lighting, erase=erase)
    resizing = Resizing(train_image_size, interpolation, crop_share, decode)
    resizing.check()
    if repeats < 1:
        raise BadInput(f"data.repeats={repeats}: must be at least 1, which takes every image once")
    asked_size = image_size or (preprocessing.size if preprocessing else 0)
    if name == folders.NAME:
        source = folders.source(dir, split_seed, skip_damaged, listing)
    else:
        source = open_source(name, dir, asked_size)
    if test_split is None:
        usually = next((split for split in folders.TESTED_ON if split in source.sizes), "validation")
        test_split = usual.TESTED_ON.get(name.partition(":")[0], usually)
    parts = _parse_splits(source, train_split, validation_split, test_split)
    known = usual.of(source)
    if augment is None:
        augment = known.augment if known else usual.ask(name, augment, normalize)
    image_shape, resized = _processed_shape(source, augment, asked_size)
    _check_colours(name, image_shape[2], jitter=jitter, lighting=lighting, policy=policy)
    resized = resized or bool(preprocessing and preprocessing.size)
    resizing = resizing.resolved(source, resized, preprocessing)
    in_memory = source.fits_in_memory(sum(map(len, parts.values())))
    if preprocessing:
        fit.check(preprocessing, source, image_shape, resized, augment, normalize)
        normalize = fit.kind(preprocessing)
    else:
        normalize = usual.normalization(name, augment, normalize, known, resized, in_memory)
    resolved = Resolved(
        name=name,
        num_classes=source.num_classes,
        class_names=source.class_names,
        image_shape=image_shape,
        augment=augment,
        pad=usual.padding(name, augment, pad, known, image_shape),
        jitter=jitter,
        lighting=lighting,
        policy=policy,
        erase=erase,
        normalize=normalize,
        train_image_size=train_image_size or image_shape[0],
        interpolation=resizing.interpolation,
        crop_share=resizing.crop_share,
        decode=resizing.decode,
        test_split=test_split,
        repeats=repeats,
        source=source,
        parts=parts,
        resized=resized,
        in_memory=in_memory,
    )
    if placement == "device":
        _check_device(resolved, workers)
    return resolved


def open_source(name: str, dir: str, image_size: int) -> sources.Source:
    """Finds a data set by name: 'digits', 'synthetic', or a TFDS set prepared below `dir`. Reads no images.

    Raises:
        BadInput: for an unknown name, or a set that is not prepared in a form that can be read.
    """
    if name == "digits":
        return sources.digits()
    if name == "synthetic":
        return sources.synthetic(image_size)
    return prepared.prepared(name, dir)


def _check_device(resolved: Resolved, workers: int) -> None:
    """Raises BadInput if the set cannot lie in device memory."""
    if workers:
        raise BadInput(
            f"data.workers={workers} beside data.placement='device', which has nothing for them to do: set one of "
            "them, data.workers=0 or data.placement='host'"
        )
    if not resolved.ready:
        why = (
            "its images are resized on their way to the network"
            if resolved.resized
            else f"it takes more than {sources.MEMORY_LIMIT / 1e9:g} GB"
        )
        raise BadInput(
            f"data.placement='device', but {resolved.name!r} is read from disk or resized as it is needed ({why}): "
            "use data.placement='host'"
        )
    if resolved.policy:
        raise BadInput(
            f"data.policy={resolved.policy!r} beside data.placement='device', but the host applies policies: use "
            "data.placement='host'"
        )


def _check_values(
    augment: str | None, pad: int | None, normalize: str | None, image_size: int, workers: int
) -> None:
    for name, value, choices in (
        ("augment", augment, AUGMENTATIONS),
        ("normalize", normalize, usual.NORMALIZATIONS),
    ):
        if value is not None and value not in choices:
            raise BadInput(unknown(f"data.{name}", value, choices))
    for name, count in {"pad": pad or 0, "image_size": image_size, "workers": workers}.items():
        if count < 0:
            raise BadInput(f"data.{name}={count} is negative: use 0 or more")
    cores = os.cpu_count() or 1
    if workers > max(64, 4 * cores):
        raise BadInput(
            f"data.workers={workers} is far more than the {cores} cores here can run: use at most {cores}"
        )


def _check_shares(**shares: float) -> None:
    """Raises BadInput unless each of these fields lies in [0, 1]."""
    for name, value in shares.items():
        if not 0 <= value <= 1:  # refuses NaN too
            raise BadInput(f"data.{name}={value}: must lie in [0, 1]; 0 switches it off")


def _check_colours(name: str, channels: int, *, jitter: float, lighting: float, policy: str) -> None:
    """Raises BadInput for an unknown policy, or for images that have no colours to change."""
    if policy:
        policies.policy(policy)
    for option, value in {"policy": policy, "jitter": jitter, "lighting": lighting}.items():
        if value and channels != 3:
            off = "''" if option == "policy" else "0"
            raise BadInput(
                f"data.{option}={value!r} is for images of 3 channels, and those of {name!r} have {channels}: "
                f"set data.{option}={off}"
            )


def _parse_splits(source: sources.Source, train: str, validation: str, test: str) -> dict[str, Slice]:
    """The configured slices by role; evaluation never shares a record with training."""
    texts = {"train": train, "validation": validation, "test": test}
    if not validation:
        del texts["validation"]
    parts = {role: parse_slice(f"data.{role}_split", text, source.sizes) for role, text in texts.items()}
    for role, part in parts.items():
        if role != "train" and part.overlaps(parts["train"]):
            raise BadInput(
                f"data.{role}_split={texts[role]!r} shares records with data.train_split={train!r}: "
                "choose slices that do not overlap"
            )
    return parts


def _processed_shape(source: sources.Source, augment: str, image_size: int) -> tuple[tuple[int, int, int], bool]:
    """Shape (H, W, C) of the processed images, and whether they are resized to get it."""
    shape = source.image_shape
    if shape is None:
        side = image_size or usual.PHOTOGRAPH_SIDE
        return (side, side, 3), True
    height, width, channels = shape
    if image_size in (0, height) and image_size in (0, width) and augment not in PHOTO_CROPS:
        return shape, False
    if not image_size and height != width:
        raise BadInput(f"data.image_size=0, but images of {source.name!r} are not square: give the side in pixels")
    side = image_size or height
    return (side, side, channels), True
