"""The network as a table and as JSON."""

import json

import pytest

from resjax import describe


@pytest.mark.parametrize(
    ("config", "params", "macs", "depth"),
    [
        ("cifar10.py:v1-20", 269_722, 40.55e6, 20),
        ("cifar10.py:v2-164", 1_703_258, 244.5e6, 164),
        ("cifar10.py:v2-1001", 10_327_706, 1487.8e6, 1001),
        ("imagenet.py:v1-50", 25_557_032, 3.8580e9, 50),
    ],
)
def test_totals(call, config, params, macs, depth):
    code, out, err = call(f"--config=configs/{config}", "--json", command=describe.main)
    assert code == 0, err
    totals = json.loads(out)
    assert (totals["params"], totals["depth"]) == (params, depth)
    assert totals["macs"] == pytest.approx(macs, rel=2e-4)
    code, out, _ = call(f"--config=configs/{config}", command=describe.main)
    assert code == 0
    *rows, last = [line.split("  ") for line in out.splitlines()]
    assert last[0] == f"total, depth {depth}"
    columns = [[int(cell.replace(",", "")) for cell in row[-1:]] for row in rows[1:]]
    assert sum(column[0] for column in columns) == totals["macs"]
    assert f"{params:,}" in out.splitlines()[-1]


def test_overrides_and_errors(call):
    code, out, _ = call(
        "--config=configs/digits.py", "--config.model.num_classes=3", "--json", command=describe.main
    )
    assert code == 0
    assert json.loads(out)["params"] < 270_000
    code, out, err = call("--config=configs/cifar10.py:v1-21", command=describe.main)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
