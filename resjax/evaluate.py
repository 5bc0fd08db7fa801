"""Evaluates finished runs as the papers do: one view of every image, ten, or many scales; one run, or an ensemble.

    python -m resjax.evaluate --workdir=runs/digits-v1-20
    python -m resjax.evaluate --workdir=runs/A --workdir=runs/B --views=scales --out=ensemble.json
    python -m resjax.evaluate --workdir=resnet50.pth --arch=v1.5-50 --config.data.dir=TFDS

Prints top-1 and top-5 accuracy with bootstrap intervals, and how every class fares. Of several runs the class
probabilities are averaged; they may differ in network and preprocessing, not in their classes. A run's own config
and preprocessing count; only the data set, its folder and its splits may differ, such as --config.data.dir=DIR.

A file of weights, a folder of timm or transformers, or hf://OWNER/NAME counts as the run that python -m
resjax.weights import makes of it. Every image counts once, on any number of devices. Nothing is written but what
--out and --confusion name.

--bn=exact takes, in place of BN's running statistics, those of so many training batches under the weights as they
are: the batches that training would see next, augmented as it would see them. The two published definitions are
explained in resjax/evaluation/exact.py; the released networks of v1 have such averages.
"""

from resjax import allocation, interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds
    allocation.keep()

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from absl import flags

from resjax import cli, files, machine
from resjax.errors import DONE, BadInput
from resjax.evaluation import ensemble, exact, report, views
from resjax.evaluation.views import Views
from resjax.member import WEIGHTS, Exact, Member, say
from resjax.train import sharding

LARGEST = 4096  # pixels of a scale


def define(values: flags.FlagValues) -> None:
    scales = ",".join(map(str, views.SCALES))
    said = "A run, or a file of weights; repeat it, or separate with commas, for an ensemble."
    flags.DEFINE_multi_string("workdir", None, said, flag_values=values)
    flags.DEFINE_string("arch", None, "The network of a file, a name of configs/imagenet.py.", flag_values=values)
    flags.DEFINE_enum("views", "centre", views.KINDS, "Which views of every image.", flag_values=values)
    flags.DEFINE_list("scales", None, f"With --views=scales: short sides; by default {scales}.", flag_values=values)
    flags.DEFINE_string(
        "split",
        "test",
        "test, validation or train as the run has them, or such as train[:500].",
        flag_values=values,
    )
    said = "The latest, the best by validation, or the latest moving average."
    flags.DEFINE_enum("weights", "last", WEIGHTS, said, flag_values=values)
    flags.DEFINE_enum("bn", "running", ["running", "exact"], "BN's statistics.", flag_values=values)
    flags.DEFINE_integer("bn_batches", 200, "With --bn=exact: of so many training batches.", flag_values=values)
    flags.DEFINE_enum(
        "bn_definition", exact.DEFINITIONS[0], exact.DEFINITIONS, "With --bn=exact: which.", flag_values=values
    )
    flags.DEFINE_string("out", None, "Write all numbers into this new JSON file.", flag_values=values)
    flags.DEFINE_string("confusion", None, "Draw what is taken for what into this new PNG.", flag_values=values)
    flags.DEFINE_integer("devices", None, "Split the CPU into so many devices.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define, config="fields")
    workdirs = [part for given in values.workdir or [] for part in given.split(",") if part]
    if not workdirs:
        raise BadInput("--workdir is missing: give the folder of a run")
    for name in ("bn_batches", "bn_definition"):
        if values.bn == "running" and values[name].present:
            raise BadInput(f"--{name}={values[name].value} is for --bn=exact: leave it out")
    if values.bn_batches < 1:
        raise BadInput(f"--bn_batches={values.bn_batches}: must be at least 1")
    bn = Exact(values.bn_definition, values.bn_batches) if values.bn == "exact" else None
    chosen = Views(values.views, scales_of(values.views, values.scales))
    out, picture = (
        files.new(f"--{name}", path) if (path := values[name].value) else None for name in ("out", "confusion")
    )
    if values.devices is not None:
        cli.use_devices(values.devices)
    cli.use_compilation_cache()
    members = [
        Member.open(workdir, cli.overrides(argv), values.split, values.weights, values.arch) for workdir in workdirs
    ]
    ensemble.check([member.task for member in members])
    for member in members:
        chosen.check(member.spec, member.preprocessing, f"--workdir={member.opened.name}")

    mesh = sharding.make_mesh(jax.device_count(), 1)
    log_probabilities, labels = ensemble.mean(member.judge(chosen, mesh, bn) for member in members)
    names = next((member.task.class_names for member in members if member.task.class_names), ())
    found = {
        "views": dataclasses.asdict(chosen) | {"mirrored": chosen.mirrored},
        "averaged": "softmax, over the views of an image and then over runs",
        "weights": values.weights,
        "bn": {"statistics": values.bn} | (bn._asdict() if bn else {}),
        "split": values.split,
        "records": members[0].task.records,
        "runs": [member.json() for member in members],
        **report.measure(log_probabilities, labels, names),
        **machine.describe(jax.device_count()),
    }
    print(report.text(found))
    if out:
        with writing("--out", out):
            files.write_json(out, found)
    if picture:
        from resjax.analysis import confusion  # matplotlib takes a second to import

        with writing("--confusion", picture):
            confusion.draw(found, picture)
    return DONE


def scales_of(kind: str, given: list[str] | None) -> tuple[int, ...]:
    """The scales of `--scales`; raises BadInput unless they are ascending and no smaller than a network's grid."""
    if kind != "scales":
        if given is not None:
            raise BadInput(f"--scales={','.join(given)} is for --views=scales: leave it out")
        return ()
    try:
        scales = views.SCALES if given is None else tuple(map(int, given))
    except ValueError:
        scales = ()
    if not scales or list(scales) != sorted(set(scales)) or not views.GRID <= scales[0] <= scales[-1] <= LARGEST:
        raise BadInput(
            f"--scales={','.join(given or [])}: must be ascending whole numbers from {views.GRID} to {LARGEST}, "
            f"such as {','.join(map(str, views.SCALES))}"
        )
    return scales


@contextmanager
def writing(field: str, path: Path) -> Iterator[None]:
    """Turns what keeps a file from being written into one line, and says in the end what was."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{field}={path} could not be written ({error.strerror}); give another file") from error
    say(f"written  {path}")


if __name__ == "__main__":
    cli.run(main)
