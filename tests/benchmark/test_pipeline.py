"""How fast photos become batches: the arithmetic of the report on known times, and the command on a few photos."""

import itertools
import json
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from resjax.benchmark import __main__ as benchmark
from resjax.benchmark import pipeline
from resjax.benchmark.pipeline import Way


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten JPEGs of two classes, 40 x 30 pixels, and beside them a PNG."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(11):
        path = root / "train" / "ab"[i % 2] / f"{i}.{'png' if i == 10 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    (root / "val").symlink_to(root / "train")
    return root


@pytest.fixture(autouse=True)
def _lists_of_photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def of(photos):
    return [
        *("--input", "--config=configs/photos.py", f"--config.data.dir={photos}", "--config.data.image_size=16"),
        *("--config.batch_size=8", "--steps=3"),
    ]


def test_the_command_prints_tables_and_writes_json(call, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "ways", lambda: [Way(1, 0)])  # processes take seconds to start
    out = tmp_path / "input.json"
    code, text, err = call(*of(photos), f"--out={out}", command=benchmark.main)
    assert code == 0, err
    found = json.loads(out.read_text())
    assert (found["photos"], found["sample"], found["mean_pixels"]) == (11, 10, 1200)
    assert found["data"]["name"] == "folder"
    assert str(photos) not in out.read_text()
    (row,) = found["rows"]
    assert row["images_per_second"] > 0
    assert np.isclose(sum(found["stage_seconds"].values()), 1 / row["images_per_second"])
    assert text == pipeline.table(found) + "\n"
    assert {"simplejpeg", "pillow", "jax"} <= found["versions"].keys()


def test_what_is_reported_on_known_times(call, photos, tmp_path, monkeypatch):
    """Decoding alone does 900 images/s, then 1100 and 700; the pipeline 500 on one core and 1440 on two."""
    alone = iter([1, 900, 1100, 700])
    rates = {0: 500, 2: 1440}
    monkeypatch.setattr(pipeline, "decode_alone", lambda files: next(alone))
    monkeypatch.setattr(pipeline, "ways", lambda: [Way(1, 0), Way(2, 2)])
    monkeypatch.setattr(pipeline, "rate", lambda dataset, config, steps: rates[dataset.workers])
    seconds = {"read": 0.0002, "decode": 0.001, "resize": 0.0005}
    monkeypatch.setattr(pipeline, "stages", lambda *_: dict(seconds))
    code, text, err = call(*of(photos), f"--out={tmp_path / 'x.json'}", command=benchmark.main)
    assert code == 0, err
    found = json.loads((tmp_path / "x.json").read_text())
    keys = ("name", "images_per_second_per_core", "of_raw_decode")
    assert [tuple(row[key] for key in keys) for row in found["rows"]] == [
        ("threads", 500, 0.5),  # of the mean of 900 and 1100
        ("2 processes", 720, 0.8),
    ]
    assert (found["raw_decode_images_per_second"], found["raw_decode_range"]) == (900, [700, 1100])
    assert "700 to 1,100 images/s" in found["note"]
    assert found["note"] in text
    assert found["stage_seconds"] == seconds | {"collect": pytest.approx(0.0003)}
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["decoding alone, from memory", "1", "900", "900", "1.00"] in lines
    assert ["2 processes", "2", "1,440", "720", "0.80"] in lines
    assert ["crop, resize and stack", "500", "25 %"] in lines


def test_a_steady_machine_has_no_note(call, photos, tmp_path, monkeypatch):
    alone = iter([1, 1000, 1090, 1000])
    monkeypatch.setattr(pipeline, "decode_alone", lambda files: next(alone))
    monkeypatch.setattr(pipeline, "ways", lambda: [Way(1, 0), Way(1, 1)])
    monkeypatch.setattr(pipeline, "rate", lambda *_: 500)
    monkeypatch.setattr(pipeline, "stages", lambda *_: {"read": 0.001})
    assert call(*of(photos), f"--out={tmp_path / 'x.json'}", command=benchmark.main)[0] == 0
    assert "note" not in json.loads((tmp_path / "x.json").read_text())


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where the test says so."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    return now


@pytest.mark.parametrize(("workers", "together"), [(0, 4), (3, 3)])
def test_batches_that_are_made_at_once_count_together(clock, monkeypatch, workers, together):
    """Batches come in bursts every second, as many as are made at once: any other number would be off."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)

    def batches(*_):
        for i in itertools.count():
            clock.seconds += i % together == 0
            yield i

    data = SimpleNamespace(workers=workers, train=batches)
    config = SimpleNamespace(batch_size=10, seed=0)
    assert pipeline.rate(data, config, steps=5) == 10 * together


def test_stages_are_timed_for_whole_batches_after_one_that_does_not_count(clock, monkeypatch):
    """Reading takes 1 s, decoding 4 s, resizing 2 s for a batch of 10; all take 50 s longer the first time."""
    calls = {"read": 0, "both": 0, "resize": 0}

    def takes(name, seconds):
        def stage(*_):
            clock.seconds += seconds + (0 if calls[name] else 50)
            calls[name] += 1
            return [], None, None

        return stage

    class Photos:
        encoded = read = staticmethod(takes("read", 1.0))

        def __len__(self):
            return 10

    making = SimpleNamespace(
        draw=lambda step: {"index": np.arange(10)},
        records=Photos(),
        read=takes("both", 5.0),
        views=takes("resize", 2.0),
    )
    found = pipeline.stages(making, steps=3)
    assert found == {"read": pytest.approx(0.1), "decode": pytest.approx(0.4), "resize": pytest.approx(0.2)}
    assert set(calls.values()) == {4}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process to some cores")
def test_cores(monkeypatch):
    own = os.sched_getaffinity(0)
    with pipeline.on_cores(1):
        assert os.sched_getaffinity(0) == {min(own)}
    assert os.sched_getaffinity(0) == own
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert list(pipeline.ways()) == [Way(n, workers) for n in (1, 2, 4, 6) for workers in (0, n)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert [way.cores for way in pipeline.ways()] == [1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--config=configs/digits.py"], "lies decoded in memory"),
        (["--config=configs/photos.py"], "data.dir"),
        (["--config=configs/digits.py", "--suite=cifar"], "--suite and --input: give one of them"),
        (["--config=configs/digits.py", "--cold"], "--cold: nothing is trained"),
        (["--config=configs/digits.py", "--steps=1"], "--steps=1"),
        ([], "--config is missing"),
    ],
)
def test_mistakes_are_one_line(call, flags, says):
    code, out, err = call("--input", *flags, command=benchmark.main)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_photos_that_are_no_jpegs_are_refused(call, tmp_path):
    for i in range(8):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), i, np.uint8)).save(path)
    code, _, err = call(*of(tmp_path / "photos"), command=benchmark.main)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no photo of folder is a JPEG" in err
