"""Builds TFDS sets in ArrayRecord format, without TensorFlow.

    python -m resjax.data.prepare cifar10 --source cifar-10-binary.tar.gz --data_dir ~/tensorflow_datasets
    python -m resjax.data.prepare imagenet2012 --source DIR --data_dir D [--max_side=500 --quality=90] [--partial]
    python -m resjax.data.prepare folder --source PHOTOS --name mine --data_dir D [--skip_damaged]
    python -m resjax.data.prepare parquet --source DIR --name mine --data_dir D [--label=COLUMN]
    python -m resjax.data.prepare tfrecord --source OLD/imagenet2012/5.1.0 --data_dir D

cifar10, cifar100: the binary or Python version as published, packed or not.
imagenet2012: a folder with the published tars, or train/WNID/*.JPEG and val/WNID/*.JPEG; the devkit if at hand.
folder: PHOTOS/{train,val,test}/CLASS/*.jpg, or PHOTOS/CLASS/*.jpg.
parquet: image sets as the Hugging Face Hub has them.
tfrecord: a set that TFDS stored as TFRecord, by the folder that is named for its version.

The published sets have the names, versions, features and record order of the stock ones, so both read alike. All
but CIFAR are made by all cores in a hidden folder, which becomes the set when it is whole; the same command goes on
after a stop.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from resjax import paths
from resjax.data.prepare import build, cifar, folder, imagenet, parquet, pool, tfrecord
from resjax.data.prepare.images import Shrink
from resjax.errors import BAD_INPUT, DONE, BadInput

PHOTOS = ("max_side", "quality", "skip_damaged", "name")
# What each kind of source takes beside --source and --data_dir.
TAKES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(cifar.PUBLISHED, ()),
    "imagenet2012": ("max_side", "quality", "partial", "processes"),
    "folder": (*PHOTOS, "processes"),
    "parquet": (*PHOTOS, "label", "processes"),
    "tfrecord": ("processes",),
}
RESERVED = ("digits", "synthetic", "folder", *cifar.PUBLISHED, imagenet.NAME)
QUALITY = 90
SHOWN = 10  # damaged images that are named


class _Parser(argparse.ArgumentParser):
    """Says one line, like every command here."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; --help shows how it is used")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line on stderr when the input cannot be used."""
    parser = _Parser(
        prog="python -m resjax.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="name", choices=TAKES, help=", ".join(TAKES))
    parser.add_argument("--source", required=True, type=Path, help="the published file or files, or a folder")
    parser.add_argument("--data_dir", required=True, type=Path, help="where TFDS sets are kept")
    parser.add_argument("--name", help="of the set; by default the source's own")
    parser.add_argument("--label", help="the column that is the label, where there are several")
    parser.add_argument("--max_side", type=int, help="encode all images anew, of at most so many pixels a side")
    parser.add_argument("--quality", type=int, help=f"of JPEGs that are encoded anew; {QUALITY} by default")
    parser.add_argument("--partial", action="store_true", help="take what there is of the set")
    parser.add_argument("--skip_damaged", action="store_true", help="go on without damaged images")
    parser.add_argument("--processes", type=int, help="by default as many as there are cores")
    try:
        args = parser.parse_args(argv)
        _check(parser, args)
        target, sizes = prepare(
            args, paths.home("--source", str(args.source)), paths.home("--data_dir", str(args.data_dir))
        )
    except BadInput as error:
        print(f"error: {paths.one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    counts = ", ".join(f"{size} {split}" for split, size in sizes.items())
    print(f"wrote {target} ({counts}); next: {next_command(target, args.data_dir, args.what)}")
    return DONE


def _check(parser: _Parser, args: argparse.Namespace) -> None:
    """Raises BadInput for an option that cannot work."""
    for field in ("source", "data_dir"):
        if not isinstance(getattr(args, field), Path):  # argparse loses a value that is `--`
            parser.error(f"argument --{field}: expected one argument")
        paths.check(f"--{field}", str(getattr(args, field)))
    for options in TAKES.values():
        for option in options:
            if getattr(args, option) not in (None, False) and option not in TAKES[args.what]:
                raise BadInput(f"--{option} is not for {args.what}: leave it out")
    if args.quality is not None and args.max_side is None:
        raise BadInput(f"--quality={args.quality} is for images that are encoded anew: give --max_side, too")
    for option, least, most in (("max_side", 16, 2**14), ("quality", 1, 100), ("processes", 1, 1024)):
        value = getattr(args, option)
        if value is not None and not least <= value <= most:
            raise BadInput(f"--{option}={value} must be from {least} to {most}")
    if args.name is not None and (args.name in RESERVED or not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", args.name)):
        taken = f", and not be {args.name!r}" if args.name in RESERVED else ""
        raise BadInput(f"--name={paths.short(args.name)} must be of a-z, 0-9 and _, a letter first{taken}")


def prepare(args: argparse.Namespace, source: Path, data_dir: Path) -> tuple[Path, dict[str, int]]:
    """Builds the set and returns its folder and its number of records by split.

    Raises:
        BadInput: if the set exists, the source cannot be used, or the disk cannot be written.
    """
    if args.what in cifar.PUBLISHED:
        return cifar.prepare(args.what, source, data_dir)
    shrink = Shrink(args.max_side or 0, (args.quality or QUALITY) if args.max_side else 0)
    notes: list[str] = []
    if args.what == "tfrecord":
        where = tfrecord.place(source, data_dir)
    elif args.what == "imagenet2012":
        where = imagenet.place(data_dir, shrink)
    else:
        where = build.Place(data_dir, args.name or _name_of(source), shrink.config, folder.VERSION)
    where.check()
    match args.what:
        case "tfrecord":
            plan = tfrecord.plan(source, where)
        case "imagenet2012":
            plan = imagenet.plan(source, where, shrink, args.partial)
        case "folder":
            plan, notes = folder.plan(source, where, shrink, args.skip_damaged)
        case _:
            plan, notes = parquet.plan(source, where, shrink, args.label or "", args.skip_damaged)
    for note in notes:
        print(note, file=sys.stderr)
    written = build.build(plan, args.processes or pool.cores())
    if skipped := [name for shards in written.values() for shard in shards for name in shard.skipped]:
        more = f" and {len(skipped) - SHOWN:,} more" if skipped[SHOWN:] else ""
        print(f"left out as damaged: {', '.join(skipped[:SHOWN])}{more}", file=sys.stderr)
    return where.target, {split: sum(s.records for s in shards) for split, shards in written.items()}


def _name_of(source: Path) -> str:
    """A set's name made of its folder's."""
    name = re.sub(r"\W+", "_", source.absolute().name.lower(), flags=re.ASCII).strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name) or name in RESERVED:
        raise BadInput(f"--source={str(source)!r} has no name for a set: give one, --name=mine")
    return name


def next_command(target: Path, data_dir: Path, what: str) -> str:
    """What trains on a set: a recipe, which takes the number of classes from the data."""
    name = "/".join(target.relative_to(data_dir.expanduser()).parts[:-1])
    recipe, usual = "photos.py", ""
    if what in cifar.PUBLISHED:
        recipe, usual = "cifar10.py:v1-20", "cifar10"
    elif name.partition("/")[0] == imagenet.NAME:
        recipe, usual = "imagenet.py", imagenet.NAME
    other = [] if name == usual else [f"--config.data.name={name}"]
    return shlex.join(
        ["python", "-m", "resjax.main", f"--config=configs/{recipe}", *other, f"--config.data.dir={data_dir}"]
    )


if __name__ == "__main__":
    sys.exit(main())
