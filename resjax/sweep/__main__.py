"""Runs every variant of a sweep with every seed.

    python -m resjax.sweep --sweep=configs/sweeps/shortcuts.py --workdir=runs/shortcuts --jobs=2

With `--together=4` a process trains four runs at a time; those that differ in the seed alone share a program.
`--dry_run` prints the commands. Finished runs are skipped, interrupted ones resume, and a run that fails gets a row
with its error. Exit codes: 0 done, 1 a run failed, 2 bad input, 75 stopped by a signal.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

from pathlib import Path

from absl import flags

from resjax import cli
from resjax.errors import BadInput
from resjax.sweep import definition, results
from resjax.sweep.conduct import conduct, define
from resjax.sweep.plan import plan


def main(argv: list[str]) -> int:
    def define_all(values: flags.FlagValues) -> None:
        flags.DEFINE_string("sweep", None, "The file that defines get_sweep().", flag_values=values)
        define(values)

    values = cli.parse(argv, define_all, config=False)
    if values.sweep is None:
        raise BadInput("--sweep is missing: give a file, such as --sweep=configs/sweeps/shortcuts.py")
    workdir = Path(values.workdir or Path("runs") / Path(values.sweep).stem)
    runs = plan(definition.load(values.sweep), workdir)
    return conduct(runs, runs, workdir, values, results.write)


if __name__ == "__main__":
    cli.run(main)
