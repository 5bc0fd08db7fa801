"""The network as a table and as JSON."""

import json

import matplotlib.pyplot as plt
import pytest

from resjax import describe
from resjax.analysis import figure
from resjax.models import counts, vgg


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


def test_vgg_has_its_published_parameters_and_depth():
    """The weights that the authors released; torchvision gives the same counts."""
    assert counts.added(vgg.layers(16)).params == 138_357_544
    assert counts.added(vgg.layers(19)).params == 143_667_240
    assert (len(vgg.layers(16)), len(vgg.layers(19))) == (16, 19)


# Parameters, 10^6 multiply-adds, and v1's 10^9: Table 1, and "15.3/19.6 billion FLOPs" of VGG in section 4.1.
COMPARED = {
    "VGG-16": (138_357_544, 15_470, 15.3),
    "VGG-19": (143_667_240, 19_632, 19.6),
    "ResNet-18 A": (11_515_688, 1_795, 1.8),
    "ResNet-34 A": (21_623_848, 3_644, 3.6),
    "ResNet-50": (25_557_032, 3_858, 3.8),
    "ResNet-101": (44_549_160, 7_570, 7.6),
    "ResNet-152": (60_192_808, 11_282, 11.3),
}


def test_vgg_beside_v1s_networks(call):
    code, out, err = call("--compare=vgg-16,vgg-19", "--json", command=describe.main)
    assert code == 0, err
    found = json.loads(out)
    networks = found["networks"]
    assert list(networks) == list(COMPARED)
    for label, (params, millions, printed) in COMPARED.items():
        own = networks[label]
        assert (own["params"], round(own["macs"] / 1e6), own["v1_billions"]) == (params, millions, printed)
        assert own["macs"] / 1e9 == pytest.approx(printed, abs=0.2 if label == "VGG-16" else 0.06)
    assert networks["VGG-16"]["convolution_macs"] / 1e9 == pytest.approx(15.3, abs=0.05)
    code, out, _ = call("--compare=vgg-16,vgg-19", command=describe.main)
    lines = [line.split() for line in out.splitlines()]
    assert ["VGG-16", "138,357,544", "15,470,264,320", "15,346,630,656", "15.3"] in lines
    assert [line[-2:] for line in lines[-3:]] == [["69,632", "1.00"], ["1,179,648", "16.94"], ["73,728", "1.06"]]
    assert "1x1x256x64 + 3x3x64x64 + 1x1x64x256" in out


def test_one_vgg_beside_a_network_of_ones_own(call):
    own = ("--config=configs/imagenet.py:v1.5-50", "--config.model.num_classes=10")
    code, out, err = call("--compare=vgg-16", *own, "--json", command=describe.main)
    assert code == 0, err
    networks = json.loads(out)["networks"]
    assert list(networks) == ["VGG-16", "imagenet-v1.5-50", *list(COMPARED)[2:]]
    assert networks["imagenet-v1.5-50"]["params"] == 25_557_032 - 990 * 2049
    assert networks["imagenet-v1.5-50"]["v1_billions"] is None


def test_costs_as_a_picture(call, monkeypatch, tmp_path):
    """A bar for each network, as long as its total, of which the convolutions are the first part."""
    monkeypatch.setattr(figure.plt, "close", lambda _: None)
    path = tmp_path / "costs.png"
    argv = ("--compare=vgg-19", "--config=configs/imagenet.py:v1.5-50", f"--plot={path}", "--json")
    code, out, err = call(*argv, command=describe.main)
    assert code == 0, err
    assert path.read_bytes().startswith(b"\x89PNG")
    networks = json.loads(out)["networks"]
    left, right = plt.gcf().axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(networks)
    for axes, kind, unit in ((left, "macs", 1e9), (right, "params", 1e6)):
        convolutions, rest = axes.containers
        for own, others, cost in zip(convolutions, rest, networks.values(), strict=True):
            assert own.get_width() * unit == pytest.approx(cost[f"convolution_{kind}"])
            assert (others.get_x() + others.get_width()) * unit == pytest.approx(cost[kind])
    printed = {tuple(point) for line in left.lines for point in line.get_xydata().tolist()}
    assert printed == {(v1, y) for y, cost in enumerate(networks.values()) if (v1 := cost["v1_billions"])}
    monkeypatch.undo()
    plt.close("all")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--compare=vgg16"], "--compare='vgg16' is unknown; did you mean vgg-16"),
        (["--compare="], "--compare='' is unknown"),
        (["--compare=vgg-16", "--config.model.num_classes=10"], "--config is missing"),
        (["--compare=vgg-16", "--plot=none/costs.png"], "--plot=none/costs.png: there is no such folder"),
        (["--config=configs/digits.py", "--plot=costs.png"], "--plot=costs.png is for --compare"),
        ([], "--config is missing"),
    ],
)
def test_what_cannot_be_compared(call, argv, says):
    code, out, err = call(*argv, command=describe.main)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
