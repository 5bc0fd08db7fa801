"""Says what images are of: names and probabilities, one line an image.

    python -m resjax.predict --workdir=runs/photos cat.jpg holiday/
    python -m resjax.predict --weights=resnet50.pth --arch=v1.5-50 --json - < paths.txt

Takes files, folders (all photos below), and - for paths on stdin, a line each. Images are prepared as those of the
run's own evaluation. One that cannot be read is reported on stderr, the others go on, and the exit code is 1.

A run has its class names; a file of weights that has none gives numbers. python -m resjax.weights import makes a
run of it with names, or with another preprocessing. From Python:

    model = resjax.load("runs/photos")
    model.predict(["cat.jpg"])
    model.features(["cat.jpg"])
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import csv
import json
import os
import sys
import time
from collections.abc import Callable

from absl import flags

from resjax import cli, files, paths
from resjax.data.folders import HIDDEN, KINDS, SUFFIXES
from resjax.errors import DONE, FAILED, BadInput
from resjax.member import QUIET, WEIGHTS, say
from resjax.predictor.load import named
from resjax.predictor.predictor import Answer, Class

Line = Callable[[str, list[Class]], None]
STDIN = "-"


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "A run.", flag_values=values)
    said = f"A file or folder of weights, or hf://OWNER/NAME; with --workdir {', '.join(WEIGHTS)} of the run."
    flags.DEFINE_string("weights", None, said, flag_values=values)
    flags.DEFINE_string("arch", None, "The network of a file, a name of configs/imagenet.py.", flag_values=values)
    flags.DEFINE_integer("top", 5, "So many classes an image.", flag_values=values)
    flags.DEFINE_boolean("json", False, "A JSON object a line.", flag_values=values)
    flags.DEFINE_boolean("csv", False, "A table.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "So many images at a time.", flag_values=values)
    flags.DEFINE_string("sheet", None, "Draw the pictures and their classes into this new PNG.", flag_values=values)


def main(argv: list[str]) -> int:
    words: list[str] = []
    values = cli.parse(argv, define, config=False, words=words)
    for name in ("top", "batch_size"):
        if (number := getattr(values, name)) < 1:
            raise BadInput(f"--{name}={number}: must be at least 1")
    if values.json and values.csv:
        raise BadInput("--json and --csv are given: leave one out")
    if not words:
        raise BadInput("images are missing: give files, folders, or - for paths on stdin")
    sheet = files.new("--sheet", values.sheet) if values.sheet else None
    given = pictures(words)
    cli.use_compilation_cache()
    model = named(values.workdir, values.weights, values.arch)
    for note in model.notes:
        say(f"note      {note}")
    line = lines(values.json, values.csv, min(values.top, model.spec.num_classes))
    shown: list[tuple[str, Answer]] = []
    unread, told = 0, time.monotonic()
    answers = model.answers(given, max(values.top, 3 if sheet else 1), values.batch_size)
    for i, (path, answer) in enumerate(zip(given, answers, strict=True), 1):
        if answer.error:
            unread += 1
            say(f"unread    {paths.one_line(answer.error)}")
        else:
            line(path, answer.classes[: values.top])
            if sheet:
                shown.append((printable(path), answer))
        if time.monotonic() - told > QUIET:
            told = time.monotonic()
            say(f"  {i:,} of {len(given):,} images")
    sys.stdout.flush()
    if unread:
        say(f"{unread:,} of {len(given):,} images could not be read")
    if sheet and shown:
        from resjax.analysis import sheet as drawing  # matplotlib takes a second to import

        try:
            drawing.draw(shown, sheet)
        except OSError as error:
            raise BadInput(f"--sheet={sheet} could not be written ({error.strerror}); give another file") from error
        say(f"written   {sheet}")
    return FAILED if unread else DONE


def pictures(words: list[str]) -> list[str]:
    """The images that the command line names: folders become all photos below them, in order, - the lines of stdin.

    Raises:
      BadInput: for a folder without photos, or if there are no images.
    """
    found: list[str] = []
    for word in words:
        if word == STDIN:
            found += [os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer if line.strip()]
        elif os.path.isdir(word):
            below = photos(word)
            if not below:
                raise BadInput(f"{word} holds no photos: {KINDS} are read")
            found += below
        else:
            found.append(word)
    if not found:
        raise BadInput("no images are named on stdin: give paths, a line each")
    return found


def photos(folder: str) -> list[str]:
    """The photos at any depth below a folder, sorted; none that are hidden or behind links to folders."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in HIDDEN]
        found += [
            os.path.join(root, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def lines(as_json: bool, as_csv: bool, top: int) -> Line:
    """What prints the line of an image."""
    if as_json:
        return lambda path, classes: print(
            json.dumps({"image": path, "classes": [one._asdict() for one in classes]})
        )
    if as_csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["image", *(f"{what}{i}" for i in range(1, top + 1) for what in ("class", "probability"))])
        return lambda path, classes: table.writerow(
            [printable(path), *(cell for one in classes for cell in (one.name, f"{one.probability:.6f}"))]
        )
    return lambda path, classes: print(
        f"{printable(path)}: {', '.join(f'{one.name} {100 * one.probability:.2f} %' for one in classes)}"
    )


def printable(path: str) -> str:
    """A path as it is, or as Python writes it if it would break its line."""
    return path if path.isprintable() else repr(path)


if __name__ == "__main__":
    cli.run(main)
