"""Plans of a network small enough to count by hand, and the command."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter

import pytest

from resjax import checks
from resjax.cli import load
from resjax.plan import __main__ as command
from resjax.plan import memory
from resjax.plan.collectives import Collective, read
from resjax.plan.compile import measure
from resjax.plan.devices import KINDS
from resjax.plan.estimate import Assumed, estimate, scaling, seconds
from resjax.plan.report import as_text

NETWORK = (
    "--config=configs/digits.py",
    "--config.model.units=1,1",
    "--config.model.widths=16,32",
    "--config.model.bn_group=8",
)
# Weights and biases, by hand. Only kernels of 4,096 elements and more are split over fsdp.
SMALL = 9 * 16 + 2 * 9 * 16 * 16 + 2 * (3 * 16 + 2 * 32) + 32 * 10 + 10  # stem, stage1, BN, head
LARGE = 9 * 16 * 32 + 9 * 32 * 32  # stage2
WHOLE = 4 * (SMALL + LARGE)
STATISTICS = 4 * 2 * (3 * 16 + 2 * 32)
SHARE = Assumed()


def measured(*changes):
    config = checks.described(load([*NETWORK, *(f"--config.{change}" for change in changes)]))
    return measure(config)


@pytest.fixture(scope="module")
def eight():
    return measured("batch_size=512", "mesh.data=8")


@pytest.fixture(scope="module")
def split():
    return measured("batch_size=512", "mesh.data=2", "mesh.fsdp=4")


def test_state_of_a_device_by_hand(eight, split):
    whole, _ = eight
    assert whole.fixed["parameters"] == whole.fixed["gradients"] == WHOLE
    part, compiled = split
    assert part.fixed["parameters"] == 4 * (SMALL + LARGE // 4)
    assert part.fixed["optimizer"] == part.fixed["parameters"] + 4  # the momentum, and a count of steps
    assert part.fixed["batch_statistics"] == STATISTICS
    assert part.memory["batch"] == 64 * (8 * 8 + 4)
    # What normalises, the step, the seed and the number of steps are not in ours.
    assert compiled.arguments == pytest.approx(part.arguments, abs=20)


def test_activations_by_hand(eight):
    """What every convolution, BN and the classifier read, once: on 64 pixels, then on 16."""
    stem = 64 * (1 + 16)
    stage1 = 64 * 4 * 16
    stage2 = 64 * 16 + 16 * 3 * 32
    found, _ = eight
    assert found.memory["activations"] == 64 * 4 * (stem + stage1 + stage2 + 32)
    assert found.memory["working_maps"] == 64 * 4 * 2 * 64 * 16


def test_a_projection_keeps_no_input_of_its_own(eight):
    """It reads what the branch reads; its BN reads 16 pixels of 32 channels."""
    spec = eight[0].spec
    assert spec.shortcut == "A"
    assert memory.kept(dataclasses.replace(spec, shortcut="B")) == memory.kept(spec) + 4 * 16 * 32


@pytest.mark.parametrize("plan", ["eight", "split"])
def test_the_compiler_agrees(plan, request):
    found, compiled = request.getfixturevalue(plan)
    assert compiled.temporaries == pytest.approx(found.temporaries, rel=0.15)
    assert compiled.flop == pytest.approx(found.flop, rel=0.25)  # the first layer has no gradient, edges are cut


def test_microbatches_and_remat(eight):
    """Microbatches keep less at a time and stack their gradients; `remat` keeps what units read."""
    whole, _ = eight
    found, compiled = measured("batch_size=512", "mesh.data=8", "optimizer.accumulate=4")
    assert found.memory["activations"] == whole.memory["activations"] / 4
    assert found.fixed["gradients"] == 5 * WHOLE
    assert compiled.temporaries == pytest.approx(found.temporaries, rel=0.3)
    again = dataclasses.replace(whole, spec=dataclasses.replace(whole.spec, remat=True))
    # Stem and head, what both units read, and the inside of the first unit.
    assert again.memory["activations"] == 64 * 4 * (64 + 64 * 16 + 32 + 2 * 64 * 16 + 4 * 64 * 16)
    assert again.flop == whole.flop * 4 / 3


def test_data_parallel_devices_send_their_gradients(eight):
    """And the running statistics, and a handful of sums; all of it to all."""
    found, _ = eight
    assert {(c.kind, c.group) for c in found.collectives} == {("all-reduce", 8)}
    sent = sum(c.size * times for c, times in found.collectives.items())
    assert 0 <= sent - WHOLE - STATISTICS <= 64


def test_split_parameters_are_gathered(split):
    found, _ = split
    gathered = {(c.group, c.apart) for c in found.collectives if c.kind == "all-gather"}
    assert gathered == {(4, 1)}
    assert sum(c.size * times for c, times in found.collectives.items() if c.kind == "all-gather") >= 4 * LARGE


def test_what_one_compilation_says_of_another_size(eight, split, tmp_path):
    """Scaled by formula from 8 devices, and compiled for 64 by the command."""
    for (found, compiled), mesh in ((eight, (64, 1)), (split, (16, 4))):
        out = tmp_path / f"{mesh[1]}.json"
        flags = [
            *NETWORK,
            "--config.batch_size=4096",
            f"--config.mesh.data={mesh[0]}",
            f"--config.mesh.fsdp={mesh[1]}",
        ]
        subprocess.run(
            [sys.executable, "-m", "resjax.plan", *flags, "--devices=64", f"--out={out}"], check=True, timeout=120
        )
        real = json.loads(out.read_text())
        then = found.at(64, 64)
        assert real["mesh"] == {"data": then.data, "fsdp": then.fsdp}
        assert real["memory"] == then.memory
        assert real["flop"] == then.flop
        assert real["compiler"]["temporaries"] == pytest.approx(compiled.temporaries, rel=0.02)
        sent = Counter(
            {Collective(*(c[key] for key in Collective._fields)): c["times"] for c in real["collectives"]}
        )
        assert sum(c.size * n for c, n in sent.items()) == sum(c.size * n for c, n in then.collectives.items())
        assert sent == then.collectives


def test_messages_on_another_number_of_devices(eight):
    """Those over fsdp stay as they are; those over data, or over all, are among more, and gather more from them."""
    found = Counter(
        {
            Collective("all-gather", 4, 1, 100): 1,
            Collective("all-reduce", 4, 1, 200): 2,
            Collective("all-reduce", 4, 4, 300): 3,
            Collective("all-reduce", 2, 1, 400): 4,  # within a group of BN
            Collective("all-gather", 16, 1, 500): 5,
        }
    )
    square = dataclasses.replace(eight[0], data=4, fsdp=4, collectives=found)
    assert square.at(64, 64).collectives == Counter(
        {
            Collective("all-gather", 4, 1, 100): 1,
            Collective("all-reduce", 4, 1, 200): 2,
            Collective("all-reduce", 16, 4, 300): 3,
            Collective("all-reduce", 2, 1, 400): 4,
            Collective("all-gather", 64, 1, 2000): 5,
        }
    )
    row = dataclasses.replace(square, data=1, fsdp=4)
    assert {c.group for c in row.at(64, 64).collectives if c.kind == "all-reduce" and c.size == 200} == {64}
    assert not square.at(1, 64).collectives


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_is_monotone(split, kind):
    load, _ = split
    strong = list(scaling(load, KINDS[kind], SHARE, 4096))
    weak = list(scaling(load, KINDS[kind], SHARE))
    for rows in (strong, weak):
        assert [row.devices for row in rows] == [2**i for i in range(11)]
        shares = [row.efficiency for row in rows]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == 1
        memory = [row.estimate.memory_bytes for row in rows]
        assert memory == sorted(memory, reverse=True)
    assert [row.bn_spans for row in strong] == [row.images < 8 for row in strong]
    assert not any(row.bn_spans for row in weak)


def test_the_time_of_a_ring_by_hand():
    h100 = KINDS["h100"]  # 450 GB/s to the 8 GPUs of a server, 50 GB/s beyond
    assert seconds(Collective("all-reduce", 8, 1, 9 * 10**9), h100) == pytest.approx(2 * 7 / 8 * 9 / 450)
    assert seconds(Collective("all-gather", 4, 1, 9 * 10**9), h100) == pytest.approx(3 / 4 * 9 / 450)
    # 16 servers: 1/8 of it crosses the network; groups of devices in as many servers cross it whole.
    two_levels = 2 * (7 / 8 * 9 / 450 + 15 / 16 * 9 / 8 / 50)
    assert seconds(Collective("all-reduce", 128, 1, 9 * 10**9), h100) == pytest.approx(two_levels)
    assert seconds(Collective("all-reduce", 16, 8, 9 * 10**9), h100) == pytest.approx(2 * 15 / 16 * 9 / 50)


def test_a_step_is_a_roofline(eight):
    load, _ = eight
    kind = KINDS["h100"]
    full, half = estimate(load, kind, Assumed(1.0, 0.0)), estimate(load, kind, Assumed(0.5, 0.0))
    assert full.arithmetic_seconds == pytest.approx(load.flop / 494.5e12)  # float32 is multiplied in TF32
    assert full.traffic_seconds == pytest.approx(load.traffic / 3.35e12)
    assert full.step_seconds == max(full.arithmetic_seconds, full.traffic_seconds) + full.communication_seconds
    assert half.step_seconds == pytest.approx(2 * full.step_seconds)
    hidden = estimate(load, kind, Assumed(1.0, 1.0))
    assert hidden.step_seconds == max(full.arithmetic_seconds, full.traffic_seconds, full.communication_seconds)
    assert full.images_per_second == pytest.approx(512 / full.step_seconds)


def test_the_largest_batch_just_fits(eight):
    load, _ = eight
    kind = KINDS["v5e"]._replace(memory=3 * 10**6)
    most = estimate(load, kind, SHARE).largest
    assert most > 1
    assert estimate(load.at(8, most), kind, SHARE).fits
    assert not estimate(load.at(8, most + 1), kind, SHARE).fits
    assert estimate(load, kind._replace(memory=10**4), SHARE).largest == 0


HLO = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: (s32[])) -> (s32[]) {
  %x = bf16[4,2]{1,0} all-gather(%y), channel_id=1, replica_groups={{0,2},{1,3}}, dimensions={0}
}

%c (p: (s32[])) -> pred[] {
  ROOT %l = pred[] compare(%i, %n), direction=LT
}

%outer (p: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%t), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %r = (f32[8]{0}, /*index=1*/s32[]) all-reduce(%p, %q), replica_groups={}, to_apply=%add
  %s = f32[2]{0} reduce-scatter(%p), channel_id=2, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}, to_apply=%add
  %m = f32[2]{0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, to_apply=%add
  %n = f32[2]{0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=2] {'a'}, use_global_device_ids=true, to_apply=%add
  %v = (s32[]) while(%u), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"2"}}
  ROOT %e = pred[3]{0} collective-permute(%b), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_are_read_from_the_text():
    assert read(HLO, 4) == Counter(
        {
            Collective("all-reduce", 4, 1, 36): 1,
            Collective("reduce-scatter", 2, 2, 16): 1,
            Collective("all-reduce", 2, 1, 8): 1,
            Collective("all-reduce", 2, 2, 8): 1,
            Collective("all-gather", 2, 2, 16): 6,
            Collective("collective-permute", 4, 1, 3): 1,
        }
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ((), "--devices=None: give the number"),
        (("--devices=0",), "--devices=0: give the number"),
        (("--devices=3",), "use a multiple of 3"),
        (
            ("--devices=8", "--config.mesh.data=4"),
            "--devices=8: the mesh of 4 x 1 takes 4 of them; give --devices=4",
        ),
        (("--devices=8", "--config.mesh.data=16"), "needs 16 devices, but there are 8"),
        (("--devices=8", "--kind=v5"), "--kind='v5' is unknown; did you mean v5"),
        (("--devices=8", "--efficiency=0"), "--efficiency=0.0: must lie in (0, 1]"),
        (("--devices=8", "--overlap=2"), "--overlap=2.0: must lie in [0, 1]"),
        (("--devices=8192", "--kind=v4", "--config.batch_size=8192"), "beyond 4096 devices"),
        (("--devices=8", "--config.data.name=flowers"), "flowers"),
        (("--devices=8", "--mesh.data=4"), "did you mean --config.mesh.data?"),
        (("--devices=8", "--out=nowhere/plan.json"), "--out=nowhere/plan.json: there is no such folder"),
    ],
)
def test_mistakes_are_one_line(call, flags, line):
    code, out, err = call("--config=configs/digits.py", *flags, command=command.main)
    assert (code, out) == (2, "")
    assert line in err
    assert len(err.splitlines()) == 1


def test_the_text_says_it_all(eight, capsys, monkeypatch):
    """A set that is not there: its size and classes are published."""
    monkeypatch.setattr(command, "measure", lambda config: eight)
    config = checks.described(load(["--config=configs/imagenet.py:v1.5-50", "--config.batch_size=512"]))
    found = command.plan(config, "v6e", SHARE)
    text = as_text(json.loads(json.dumps(found)))
    for part in ("optimizer", "gradients", "all-reduce", "Scaling on v6e", "1,024", *KINDS):
        assert part in text
    assert max(map(len, text.splitlines())) <= 120
