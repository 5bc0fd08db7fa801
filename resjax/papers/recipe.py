"""From a row of a table to the config that runs it, as overrides that a person can type."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from resjax import cli
from resjax.config import flatten, network, plain, shorten
from resjax.models.published import imagenet
from resjax.papers.table import IMAGENET, Row, Table
from resjax.sweep import Sweep, Variant
from resjax.sweep.plan import arguments

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = {"cifar10": "cifar10.py", "imagenet2012": "imagenet.py", "digits": "digits.py"}
# v1 section 4.2: 45k/5k of CIFAR-10.
HELD_OUT = {"data.train_split": "train[:90%]", "data.validation_split": "train[90%:]"}


def variant(table: Table, row: Row, data: str, data_dir: str = "", budget: float = 1.0) -> Variant:
    """The config of a row on a data set, with every duration of its schedule times `budget`.

    Raises:
      BadInput: if the budget is not in (0, 1].
    """
    own = data == table.data[0]
    file = config_file(table, data)
    config, overrides = f"{file}:{row.network}", {f"model.{k}": v for k, v in row.model.items()}
    if own:
        overrides |= row.fields
    elif table.data == IMAGENET:
        config, overrides = file, _imagenet_on_digits(file, row)
    if table.config:
        overrides["data.name"] = data
    if table.validation:
        overrides |= HELD_OUT
    if data_dir:
        overrides["data.dir"] = data_dir
    return Variant({**overrides, **_shortened(config, overrides, budget)}, config)


def sweep(
    table: Table, data: str, seeds: int, data_dir: str = "", budget: float = 1.0
) -> tuple[Sweep, dict[str, str]]:
    """The sweep of a whole table, and the variant that each row takes: rows of one network and recipe share one."""
    variants: dict[str, Variant] = {}
    taken = {}
    for row in table.rows:
        own = variant(table, row, data, data_dir, budget)
        taken[row.name] = next((name for name, other in variants.items() if other == own), row.name)
        variants.setdefault(taken[row.name], own)
    return Sweep(config_file(table, data), variants, tuple(range(seeds))), taken


def config_file(table: Table, data: str) -> str:
    """The config file of a table on a data set, as a relative path if it lies below the current folder."""
    path = CONFIGS / (table.config or FILES[data])
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _imagenet_on_digits(file: str, row: Row) -> dict[str, Any]:
    """The fields in which an ImageNet network differs from the default network of the digits' config file."""
    base = network(cli.load([f"--config={file}"]))
    fitting = {name: getattr(base, name) for name in ("input_size", "input_channels", "num_classes")}
    fields = dataclasses.asdict(dataclasses.replace(imagenet(row.network), **{**row.model, **fitting}))
    return {f"model.{name}": value for name, value in fields.items() if value != getattr(base, name)}


def _shortened(config: str, overrides: dict[str, Any], budget: float) -> dict[str, Any]:
    """The fields that a budget changes, with their new values."""
    loaded = cli.load(arguments(Variant(overrides, config)))
    before = flatten(plain(loaded))
    shorten(loaded, budget)
    after = flatten(plain(loaded))
    return {field: value for field, value in after.items() if value != before[field]}
