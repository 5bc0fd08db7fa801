"""The trainings around the tables: rows differ in what they compare, and in nothing else."""

from resjax.config import flatten, network, plain
from resjax.models import counts
from resjax.papers import claims
from resjax.papers.recipe import sweep
from resjax.sweep.plan import plan

NAMED = {"name"}  # a run's default name is its network's


def differences(table, tmp_path):
    """Row -> the fields in which it differs from the first."""
    whole, taken = sweep(table, "digits", 1)
    by_variant = {run.variant: flatten(plain(run.resolved)) for run in plan(whole, tmp_path)}
    rows = {row: by_variant[variant] for row, variant in taken.items()}
    first = next(iter(rows.values()))
    return {
        row: {field for field, value in config.items() if value != first[field]} - NAMED
        for row, config in rows.items()
    }


def test_rows_differ_in_what_they_compare(tmp_path):
    tables = {table.name: table for table in claims.TABLES}
    depth, family, width = {"model.units"}, {"model.shortcut"}, {"model.widths", "model.stem_width"}
    solver = {"optimizer.name", "optimizer.learning_rate", "optimizer.weight_decay"}
    found = {name: differences(table, tmp_path) for name, table in tables.items()}
    assert found["claim-speed"]["resnet-20"] == depth | family
    assert found["claim-width"]["resnet-20"] == depth | family | width
    assert found["claim-optimizer"]["plain-adamw-8"] == solver
    assert found["claim-optimizer"]["resnet-sgd-32"] == depth | family
    assert found["claim-start"]["plain-no-bn-he-8"] == {"model.norm"}
    assert found["claim-start"]["plain-no-bn-lecun-20"] == {"model.norm", "model.init_gain"} | depth


def test_depth_against_width_at_equal_parameters(tmp_path):
    [table] = [table for table in claims.TABLES if table.name == "claim-width"]
    runs = plan(sweep(table, "digits", 1)[0], tmp_path)
    params = [counts.total(network(run.resolved)).params for run in runs]
    assert len(params) == 8
    assert max(params) < 1.04 * min(params)
