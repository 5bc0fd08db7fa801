"""The TFDS set imagenet2012 (ILSVRC 2012) from the published tars, or from folders of its images.

Name, version, features, records and their order are those of the stock set, so both read alike: 22 files that are
CMYK and one that is a PNG become RGB JPEGs. The labels of the validation images are those of the devkit, if it lies
beside the tars, or the same as TFDS keeps them.
"""

import hashlib
import io
import itertools
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from resjax.data.prepare import archive, build, images, metadata, photos
from resjax.data.prepare.images import Shrink
from resjax.data.prepare.photos import Photo
from resjax.data.sources import decode_image
from resjax.errors import BadInput

NAME, VERSION = "imagenet2012", "5.1.0"
RECORDS = {"train": 1_281_167, "validation": 50_000}
TARS = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}
FOLDERS = {"train": ("train",), "validation": ("val", "validation")}
LARGEST_IMAGE = 2**26  # bytes; the published ones have at most 16 million

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
META = "ILSVRC2012_devkit_t12/data/meta.mat"

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
IMAGE_NAME = re.compile(r"[^.].*\.jpe?g", re.IGNORECASE)

# As tensorflow_datasets/datasets/imagenet2012 has them, from https://github.com/cytsai/ilsvrc-cmyk-image-list
CMYK_OR_PNG = frozenset(
    """
    n01739381_1309.JPEG n02077923_14822.JPEG n02105855_2933.JPEG n02447366_23489.JPEG n02492035_15739.JPEG
    n02747177_10752.JPEG n03018349_4028.JPEG n03062245_4620.JPEG n03347037_9675.JPEG n03467068_12171.JPEG
    n03529860_11437.JPEG n03544143_17228.JPEG n03633091_5218.JPEG n03710637_5125.JPEG n03961711_5286.JPEG
    n04033995_2932.JPEG n04258138_17003.JPEG n04264628_27969.JPEG n04336792_7448.JPEG n04371774_5854.JPEG
    n04596742_4225.JPEG n07583066_647.JPEG n13037406_4650.JPEG
    """.split()  # noqa: SIM905
)


def place(data_dir: Path, shrink: Shrink) -> build.Place:
    """Where the set goes; images that are encoded anew make a config of their own."""
    return build.Place(data_dir, NAME, shrink.config, VERSION)


def plan(source: Path, where: build.Place, shrink: Shrink, partial_source: bool) -> build.Plan:
    """Lists the source's images and decides which record goes where.

    Args:
        source: the folder of the published tars, or of the folders train and val.
        partial_source: whether some of the set will do; its classes stay all 1,000.

    Raises:
        BadInput: for a source that is missing, damaged or not the published set.
    """
    import tensorflow_datasets as tfds

    if not source.is_dir():
        raise BadInput(f"--source={str(source)!r} is not a folder: give the one with {TARS['train']}")
    stock = tfds.builder(NAME, data_dir=str(where.work)).info
    wnids = tuple(stock.features["label"].names)
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    found = {"train": _train(source, label_of), "validation": _validation(source, label_of)}
    for split, records in RECORDS.items():
        if len(found[split]) != records and not partial_source:
            raise BadInput(
                f"--source={str(source)!r} has {len(found[split]):,} images of {split}, not {records:,}: add "
                "them, or take what is there with --partial"
            )
    found = {split: _in_order(split, listed) for split, listed in found.items() if listed}
    if not found:
        raise BadInput(f"--source={str(source)!r} has neither {TARS['train']} nor a folder train: give theirs")
    missing = "" if all(len(found.get(s, ())) == n for s, n in RECORDS.items()) else "This is a part of the set."
    description = metadata.Description(
        text="\n\n".join(filter(None, (stock.description, shrink.text, missing))),
        class_names=wnids,
        encoding="jpeg",
        config_text=shrink.text,
        release_notes=stock.release_notes,
        homepage=stock.homepage,
        citation=stock.citation,
    )
    treatment = partial(_published, shrink)
    return build.Plan(
        where,
        [shard for split, listed in found.items() for shard in photos.shards(split, listed, treatment)],
        {
            "source": build.digest((split, p.name, p.size, p.label) for split, all in found.items() for p in all),
            "max_side": shrink.max_side,
            "quality": shrink.quality,
        },
        partial(metadata.write, where, description),
    )


def _published(shrink: Shrink, name: str, data: bytes) -> bytes:
    """The image as it becomes part of the set."""
    if shrink.max_side:
        return shrink.apply(decode_image(data, 3))
    if name in CMYK_OR_PNG:
        return images.rgb_jpeg(data)
    if data[:2] != b"\xff\xd8":
        raise ValueError("it is not a JPEG")
    return data


def _in_order(split: str, listed: list[Photo]) -> list[Photo]:
    """As TFDS orders records: by a hash of their key, the file name, so that any slice is a random one."""
    salt = hashlib.md5(split.encode())

    def rank(photo: Photo) -> bytes:
        hashed = salt.copy()
        hashed.update(photo.name.encode())
        return hashed.digest()

    listed = sorted(listed, key=rank)
    for one, other in itertools.pairwise(listed):
        if one.name == other.name:
            raise BadInput(f"{one.name} is there twice, in {one.file} and {other.file}: remove one")
    return listed


def _train(source: Path, label_of: dict[str, int]) -> list[Photo]:
    """The images of the tar of tars, or of train/WNID/."""
    tar = source / TARS["train"]
    if not tar.exists():
        return [photo for folder in _folders(source, "train") for photo in _sorted_folders(folder, label_of)]
    listed = []
    for name, start, size in _members(tar, 0, tar.stat().st_size):
        wnid = name.removesuffix(".tar")
        if wnid not in label_of:
            raise BadInput(f"{tar} holds {name!r}, which is no class of the set: download it again")
        for image, offset, length in _members(tar, start, size):
            listed.append(_photo(tar, image, offset, length, label_of[wnid]))
    return listed


def _validation(source: Path, label_of: dict[str, int]) -> list[Photo]:
    """The images of the flat tar, of val/ or of val/WNID/."""
    tar = source / TARS["validation"]
    if tar.exists():
        flat = [(tar, name, start, size) for name, start, size in _members(tar, 0, tar.stat().st_size)]
    else:
        folders = _folders(source, "validation")
        if any(child.is_dir() for folder in folders for child in folder.iterdir()):
            return [photo for folder in folders for photo in _sorted_folders(folder, label_of)]
        files = [file for folder in folders for file in sorted(folder.iterdir()) if IMAGE_NAME.fullmatch(file.name)]
        flat = [(file, file.name, 0, file.stat().st_size) for file in files]
    if not flat:
        return []
    labels = _validation_labels(source, label_of)
    listed = []
    for file, name, start, size in flat:
        number = VALIDATION_NAME.fullmatch(name)
        if not number or not 1 <= int(number[1]) <= len(labels):
            raise BadInput(f"{file} holds {name!r}, which is no validation image of the set: download it again")
        listed.append(_photo(file, name, start, size, labels[int(number[1]) - 1]))
    return listed


def _photo(file: Path, name: str, start: int, size: int, label: int) -> Photo:
    if not 0 < size <= LARGEST_IMAGE:
        raise BadInput(f"{file}: {name} has {size:,} bytes, which no image of the set has: download it again")
    return Photo(str(file), start, size, label, name)


def _folders(source: Path, split: str) -> list[Path]:
    return [source / name for name in FOLDERS[split] if (source / name).is_dir()][:1]


def _sorted_folders(folder: Path, label_of: dict[str, int]) -> list[Photo]:
    """The images of WNID/*.JPEG."""
    listed = []
    for child in sorted(folder.iterdir()):
        if not child.is_dir():
            continue
        if child.name not in label_of:
            raise BadInput(f"{child} is no class of the set: folders are named by WordNet id, such as n01440764")
        for file in sorted(child.iterdir()):
            if IMAGE_NAME.fullmatch(file.name):
                listed.append(_photo(file, file.name, 0, file.stat().st_size, label_of[child.name]))
    return listed


def _members(tar: Path, start: int, size: int) -> Iterator[tuple[str, int, int]]:
    """Name, place and size of every file in a tar.

    Raises:
        BadInput: for a tar that is damaged, compressed, or holds anything but files.
    """
    try:
        yield from archive.places(tar, start, size)
    except Exception as error:  # a damaged archive can raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{tar} is not a whole tar ({reason}): download it again") from error


def _validation_labels(source: Path, label_of: dict[str, int]) -> list[int]:
    """The label of every validation image, by its number in the file name."""
    devkit = source / DEVKIT
    if not devkit.exists():
        import tensorflow_datasets as tfds

        kept = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
        return [label_of[wnid] for wnid in kept]
    import scipy.io

    try:
        held = archive.members(devkit, {TRUTH: 2**20, META: 2**24})
        synsets = scipy.io.loadmat(io.BytesIO(held[META]), squeeze_me=True, variable_names=["synsets"])["synsets"]
        wnid_of = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True))
        labels = [label_of[wnid_of[int(number)]] for number in held[TRUTH].split()]
    except Exception as error:  # a damaged archive can raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BadInput(f"{devkit} holds no labels of validation images ({reason}): download it again") from error
    if len(labels) != RECORDS["validation"]:
        raise BadInput(
            f"{devkit} has {len(labels):,} labels of validation images, not {RECORDS['validation']:,}: download it "
            "again"
        )
    return labels
