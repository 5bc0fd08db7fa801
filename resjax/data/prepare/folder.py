"""A TFDS set from a folder of photos, laid out as `data.name=folder` reads them: DIR/{train,val}/CLASS/*.jpg.

Records, labels and their order are those of a run on the folder itself, and so are the pixels, unless images are
encoded anew. The split for validation is called `validation`, as in TFDS.
"""

from functools import partial
from pathlib import Path

from resjax.data import folders
from resjax.data.prepare import build, images, metadata, photos
from resjax.data.prepare.images import Shrink
from resjax.data.prepare.photos import Photo
from resjax.errors import BadInput

VERSION = "1.0.0"
SPLIT_SEED = 0  # as data.split_seed is
VALIDATION = ("val", "valid", "validation")


def plan(source: Path, where: build.Place, shrink: Shrink, skip_damaged: bool) -> tuple[build.Plan, list[str]]:
    """Lists the photos; also what a person should know of the folder, a line each.

    Raises:
        BadInput: for a folder that is laid out otherwise, or holds damaged files.
    """
    try:
        if not source.is_dir():
            raise BadInput(f"data.dir={source}: there is no such folder")
        listing, notes = folders.find(source, SPLIT_SEED, skip_damaged)
    except BadInput as error:
        raise BadInput(_for_this_command(str(error))) from error
    found = {}
    for split, held in listing.splits.items():
        rows = zip(held.paths, held.sizes.values(), listing.labels(split).tolist(), strict=True)
        found["validation" if split in VALIDATION else split] = [
            Photo(str(source / path), 0, size, label, path) for path, size, label in rows
        ]
    description = metadata.Description(
        text="\n\n".join(filter(None, ("Photos of a folder, by class.", shrink.text))),
        class_names=listing.classes,
        encoding="jpeg" if shrink.max_side else None,
        config_text=shrink.text,
    )
    treatment = partial(_treated, shrink)
    plan = build.Plan(
        where,
        [s for split, listed in found.items() for s in photos.shards(split, listed, treatment, skip_damaged)],
        {
            "source": build.digest((split, p.name, p.size, p.label) for split, all in found.items() for p in all),
            "max_side": shrink.max_side,
            "quality": shrink.quality,
            "skip_damaged": skip_damaged,
        },
        partial(metadata.write, where, description),
    )
    return plan, notes


def _treated(shrink: Shrink, name: str, data: bytes) -> bytes:
    return images.treated(shrink, data)


def _for_this_command(message: str) -> str:
    """An error about a folder in the words of this command's flags."""
    for field, flag in (
        ("--config.data.dir=", "--source "),
        ("data.dir=", "--source="),
        ("--config.data.skip_damaged=true", "--skip_damaged"),
    ):
        message = message.replace(field, flag)
    return message
