"""Builds the TFDS sets cifar10 and cifar100 from the published files, without TensorFlow.

    python -m resjax.data.prepare cifar10 --source cifar-10-binary.tar.gz --data_dir ~/tensorflow_datasets

The source is the binary or the Python version from https://www.cs.toronto.edu/~kriz/cifar.html, as the archive, the
unpacked folder or the folder that holds it. The result has the name, version, features, record order and file
layout of the stock TFDS set in ArrayRecord format, so both read alike.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import argparse
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from resjax import paths
from resjax.data.prepare import cifar
from resjax.errors import BAD_INPUT, DONE, BadInput


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
    parser.add_argument("name", choices=sorted(cifar.PUBLISHED))
    parser.add_argument("--source", required=True, type=Path, help="the published .tar.gz or its unpacked folder")
    parser.add_argument("--data_dir", required=True, type=Path, help="where TFDS sets are kept")
    try:
        args = parser.parse_args(argv)
        for field in ("source", "data_dir"):
            if not isinstance(getattr(args, field), Path):  # argparse loses a value that is `--`
                parser.error(f"argument --{field}: expected one argument")
            paths.check(f"--{field}", str(getattr(args, field)))
        target, sizes = cifar.prepare(
            args.name, paths.home("--source", str(args.source)), paths.home("--data_dir", str(args.data_dir))
        )
    except BadInput as error:
        print(f"error: {paths.one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    counts = ", ".join(f"{size} {split}" for split, size in sizes.items())
    print(f"wrote {target} ({counts}); next: {next_command(args.name, args.data_dir)}")
    return DONE


def next_command(name: str, data_dir: Path) -> str:
    """What trains on the set: the CIFAR-10 recipe, which takes the number of classes from the data."""
    other = [] if name == "cifar10" else [f"--config.data.name={name}"]
    return shlex.join(
        [
            "python",
            "-m",
            "resjax.main",
            "--config=configs/cifar10.py:v1-20",
            *other,
            f"--config.data.dir={data_dir}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
