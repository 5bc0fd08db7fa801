"""Looks into runs: `python -m resjax.analysis NAME --workdir=RUN`, where NAME is one of

  responses  the size of every layer's output (v1 Fig. 7)
  gradients  norms of weights and gradients by depth, at the start and during training
  branches   the size of the residual branch beside its shortcut, unit by unit
  curves     training and test error overlaid (v1 Fig. 1 and 6); of a sweep, means over seeds
  lesion     accuracy when units are removed; of a sweep, means over seeds
  grow       accuracy when units are appended, as identities or with fresh weights that are trained

Writes NAME.png and NAME.json into DIR, the first run's `analysis/` by default, and the same into TensorBoard.

    python -m resjax.analysis responses --workdir=runs/plain-56 --workdir=runs/v1-56
    python -m resjax.analysis lesion --workdir=resnet50.pth --arch=v1.5-50 --config.data.dir=TFDS

A file of weights counts as the run that python -m resjax.weights import makes of it. Of a config only the data set,
its folder and its splits may be changed.

Without a run, tries an argument of the papers on stacks of fully connected units, prints its numbers, and writes
the same two files into DIR, `runs/analysis` by default:

  change     the target 5.1 for the input 5: 2 % of a plain unit's output, all of a residual branch's
  identity   fitting the identity with plain and with residual units, by depth
  decay      where weight decay alone takes a unit
  products   gradients that vanish and that explode, by formula and measured

    python -m resjax.analysis identity
"""

from resjax import allocation, interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds
    allocation.keep()
elif __name__ == "__mp_main__":
    from resjax.data import worker

    worker.live_and_die_with_parent()

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.image
from absl import flags
from tensorboardX import summary

from resjax import cli, files
from resjax.analysis import (
    branches,
    change,
    curves,
    decay,
    gradients,
    grow,
    identity,
    lesion,
    products,
    responses,
)
from resjax.analysis.runs import OpenedRun, Options, gather
from resjax.errors import BadInput, unknown
from resjax.member import as_run
from resjax.train.events import Events

ANALYSES: dict[str, ModuleType] = {
    "responses": responses,
    "gradients": gradients,
    "branches": branches,
    "curves": curves,
    "lesion": lesion,
    "grow": grow,
}
DEMONSTRATIONS: dict[str, ModuleType] = {
    "change": change,
    "identity": identity,
    "decay": decay,
    "products": products,
}


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "workdir",
        None,
        "A run, a sweep (curves, lesion), or a file of weights; repeat it, or separate with commas.",
        flag_values=values,
    )
    flags.DEFINE_string("arch", None, "The network of a file, a name of configs/imagenet.py.", flag_values=values)
    said = "Where to write; by default RUN/analysis, and runs/analysis without a run."
    flags.DEFINE_string("out", None, said, flag_values=values)
    flags.DEFINE_string(
        "step",
        None,
        "Which weights: latest, best, a saved step, or 0. By default the latest; for gradients all that are saved.",
        flag_values=values,
    )
    flags.DEFINE_integer("images", None, "How many images to look at.", flag_values=values)
    flags.DEFINE_integer(
        "draws", None, f"lesion: random sets of each size; {lesion.DRAWS} by default.", flag_values=values
    )
    flags.DEFINE_integer("seeds", None, "How many times to measure what starts at random.", flag_values=values)


def main(argv: list[str]) -> None:
    name = argv[0] if argv and not argv[0].startswith("-") else ""
    values = cli.parse(argv[1:] if name else argv, define, config="fields")
    known = ANALYSES | DEMONSTRATIONS
    if not name:
        raise BadInput(f"NAME is missing: python -m resjax.analysis NAME --workdir=RUN ({', '.join(known)})")
    if name not in known:
        raise BadInput(unknown("NAME", name, list(known)))
    chosen = {field.name: values[field.name].value for field in dataclasses.fields(Options)}
    options = Options(**chosen)
    for field, value in chosen.items():
        if value is not None and field not in known[name].TAKES:
            raise BadInput(f"--{field}={value}: {name} does not take it; leave it out")
    given = [part for given in values.workdir or [] for part in given.split(",") if part]
    overrides = cli.overrides(argv)
    if name in DEMONSTRATIONS:
        superfluous = [f"--workdir={each}" for each in given] + [f"--config.{each}" for each in overrides]
        superfluous += [f"--arch={values.arch}"] if values.arch else []
        if superfluous:
            raise BadInput(f"{superfluous[0]}: {name} looks into no run; leave it out")
        cli.use_compilation_cache()
        print(demonstrate(name, options, Path(values.out or "runs/analysis")))
        return
    if not given:
        raise BadInput("--workdir is missing: give the folder of a run")
    cli.use_compilation_cache()
    with tempfile.TemporaryDirectory(prefix="resjax-analysis-") as folder:
        # A folder for each: many files have one name, such as model.safetensors.
        workdirs = [as_run(each, values.arch, Path(folder, str(i))) for i, each in enumerate(given)]
        of_file = [workdir.is_relative_to(folder) for workdir in workdirs]
        if name == "curves" and any(of_file):
            shown = given[of_file.index(True)]
            raise BadInput(f"--workdir={shown} is a file of weights, and curves are of a training: give a run")
        out = Path(values.out or ("runs/analysis" if of_file[0] else workdirs[0] / "analysis"))
        analyse(name, gather(workdirs, overrides), options, out)


def demonstrate(name: str, options: Options, out: Path) -> str:
    """Measures, draws and writes; returns the numbers as text.

    Raises:
      BadInput: for a folder that cannot be written.
    """
    demonstration = DEMONSTRATIONS[name]
    with writing(out, name):
        found = demonstration.measure(options)
        files.write_json(out / f"{name}.json", found)
        demonstration.plot(found, out / f"{name}.png")
    return demonstration.table(found)


def analyse(name: str, runs: dict[str, OpenedRun], options: Options, out: Path) -> dict[str, Any]:
    """Measures, draws and writes; returns the content of the JSON file, by run.

    Raises:
      BadInput: for runs that this analysis does not take, or a folder that cannot be written.
    """
    analysis = ANALYSES[name]
    for run in runs.values():  # before any of them is measured, which may take long
        if analysis not in (curves, lesion) and len(run.seeds) > 1:
            raise BadInput(f"{name} looks into a run, not a whole sweep: give one, such as --workdir={run.workdir}")
        if options.step is not None:
            run.find(options.step)
    found = {label: analysis.measure(run, options) for label, run in runs.items()}
    with writing(out, name):
        files.write_json(out / f"{name}.json", found)
        analysis.plot(found, out / f"{name}.png")
        for label, run in runs.items():
            show(run.workdir, name, out / f"{name}.png", analysis.profiles(found[label]))
    return found


@contextmanager
def writing(out: Path, name: str) -> Iterator[None]:
    """Makes the folder, turns what cannot be written into a `BadInput`, and says in the end what was."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BadInput(f"--out={out}: cannot be written ({error.strerror}); choose another folder") from error
    print(f"{out / name}.png\n{out / name}.json", file=sys.stderr)


def show(workdir: Path, name: str, picture: Path, profiles: dict[str, list[float]]) -> None:
    """Puts the picture and the profiles (with depth in place of steps) into the run's TensorBoard folder."""
    # A separate folder, because a resumed run purges later steps from its own event files.
    with closing(Events(workdir / "tensorboard" / "analysis")) as events:
        pixels = (255 * matplotlib.image.imread(picture)[..., :3]).round().astype("uint8")
        events.add(summary.image(f"analysis/{name}", pixels, dataformats="HWC"))
        for line, values in profiles.items():
            for depth, value in enumerate(values, 1):
                events.add(summary.scalar(f"{name}/{line.replace(' ', '_')}", value), depth)


if __name__ == "__main__":
    cli.run(main)
