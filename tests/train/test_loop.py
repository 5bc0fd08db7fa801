"""The loop, driven by a stand-in program: steps, evaluations and saves take known times on a clock of our own."""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from resjax import config as configs
from resjax.evaluation.evaluate import Evaluation
from resjax.train import log as logs
from resjax.train import loop, progress
from resjax.train.preemption import Preempted
from resjax.train.progress import NonFinite, Progress

STEP, WAIT, EVALUATION, SAVE, COMPILATION = 2.0, 0.5, 100.0, 1000.0, 30.0  # seconds
BATCH = 10
TIMELESS = ("loss", "accuracy", "accuracy_top5", "learning_rate", "gradient_norm", "weight_norm")


class Time:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


class Checkpoints:
    """Records what is saved, and by what it is scored."""

    def __init__(self, time):
        self.time, self.saved = time, []

    def save(self, state, meta, score=None):
        self.time.now += SAVE
        self.saved.append((int(state.step), score, meta))


@pytest.fixture
def time(monkeypatch):
    clock = Time()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def fit(time, monkeypatch, tmp_path):
    """Runs the loop and returns (scores by saved step, progress, records of the log).

    `found` gives the means of an evaluation, by its name and the step; `losses` the training losses by step.
    """

    def run(
        total=8,
        every=4,
        saving=2,
        logging=1,
        names=("validation", "test"),
        found=None,
        losses=None,
        start=0,
        stride=1,
        stopping=lambda step: False,
    ):
        class Batches:
            def __next__(self):
                time.now += WAIT
                return {}

            def close(self):
                pass

        def one(step):
            loss = (losses or {}).get(step, 1.0)
            sums = {"loss": loss * BATCH, "correct": 5.0, "correct5": 9.0, "count": float(BATCH)}
            norms = {"learning_rate": 0.1 * step, "gradient_norm": 2.0, "weight_norm": float(step)}
            return {"loss": loss, "sums": sums, **norms}

        def train_step(state, feed, seed):
            time.now += COMPILATION * (state.step == start) + STEP * feed
            steps = [one(state.step + 1 + i) for i in range(stride)]
            metrics = jax.tree.map(lambda *xs: np.array(xs), *steps)
            return of_step(state.step + feed), metrics

        def of_step(step):
            return SimpleNamespace(step=step, weights=lambda averaged: (None, None))

        def take(batches, count):
            for _ in range(count):
                next(batches)
            return count

        def evaluate(eval_step, params, batch_stats, batches):
            time.now += EVALUATION
            name, step = batches, records[-1][0]
            means = {"loss": 1.0, "accuracy": 0.5, "accuracy_top5": 0.9}
            return means | (found or (lambda name, step: {}))(name, step)

        records = []
        monkeypatch.setattr(loop, "evaluate", evaluate)
        log = SimpleNamespace(
            write=lambda step, name, values: records.append((step, name, values)), begin=lambda *_: None, say=print
        )
        durations = configs.Durations(total, (), 0, every, saving, logging, 1.0)
        experiment = loop.Experiment(
            config=SimpleNamespace(seed=0, batch_size=BATCH, to_dict=dict),
            spec=None,
            dataset=SimpleNamespace(train=lambda *_: Batches()),
            durations=durations,
            evaluations=tuple(Evaluation(name, lambda name=name: name, every) for name in names),
            program=SimpleNamespace(
                train_step=train_step, eval_step=None, rows=None, take=take, stride=stride, data=None
            ),
        )
        monkeypatch.setattr(loop, "record", lambda experiment, progress, step: progress.json())
        own, checkpoints = Progress(), Checkpoints(time)
        loop.fit(experiment, of_step(start), own, log, checkpoints, SimpleNamespace(at=stopping))
        return checkpoints.saved, own, records

    return run


def test_the_best_is_scored_by_the_validation_accuracy_of_its_own_step(fit):
    """Neither by loss, nor top-5, nor the test split, nor by what was validated some steps before."""

    def found(name, step):
        accuracy = {"validation": {4: 0.25, 8: 0.75}, "test": {4: 0.875, 8: 0.125}}[name][step]
        return {"accuracy": accuracy, "accuracy_top5": 1 - accuracy / 2, "loss": 3 - accuracy}

    saved, _, _ = fit(found=found)
    assert [(step, score) for step, score, _ in saved] == [(2, None), (4, 0.25), (6, None), (8, 0.75)]
    saved, _, _ = fit(found=found, names=("test",))
    assert {score for _, score, _ in saved} == {None}


@pytest.mark.parametrize(
    ("total", "every", "expected"),
    [(8, 4, [4, 8]), (9, 4, [4, 9]), (10, 4, [4, 10]), (11, 4, [4, 8, 11]), (3, 4, [3]), (5, 1, [1, 2, 3, 4, 5])],
)
def test_an_evaluation_shortly_before_the_end_is_left_out(fit, total, every, expected):
    _, _, records = fit(total, every)
    for name in ("validation", "test"):
        assert [step for step, split, _ in records if split == name] == expected


def test_the_clock_counts_training_and_nothing_else(fit):
    """Not compilation, evaluations or saves, which all come in between."""
    _, own, records = fit(total=8, every=2, saving=1)
    assert (own.clock.steps, own.clock.seconds) == (7, 7 * (STEP + WAIT))
    told = [values for _, split, values in records if split == "train"]
    assert "images_per_second" not in told[0]  # the first step compiles
    for values in told[1:]:
        assert values["images_per_second"] == pytest.approx(BATCH / (STEP + WAIT))
        assert values["input_wait"] == pytest.approx(WAIT / (STEP + WAIT))


def test_what_is_logged_of_several_steps(fit):
    _, _, records = fit(logging=4, losses={1: 4.0, 2: 2.0, 3: 1.0, 4: 1.0}, saving=8)
    [first, _] = [values for _, split, values in records if split == "train"]
    assert first["loss"] == 2.0
    assert first["accuracy"] == 0.5
    assert first["learning_rate"] == pytest.approx(0.4)  # the last, as is the norm of the weights
    assert (first["gradient_norm"], first["weight_norm"]) == (2.0, 4.0)


STRIDES = [(7, 8, 8, 3), (7, 4, 6, 1), (3, 4, 2, 5), (5, 100, 100, 4), (100, 5, 7, 2)]


@pytest.mark.parametrize(("stride", "every", "saving", "logging"), STRIDES)
def test_steps_of_a_call_change_no_step_and_no_record(fit, stride, every, saving, logging):
    """Evaluations, checkpoints and log lines fall on the steps on which they fall one by one."""

    def timeless(records):
        return [(s, n, {k: v for k, v in values.items() if k in TIMELESS}) for s, n, values in records]

    losses = {step: float(step % 5) for step in range(40)}
    asked: list[int] = []
    for start in (0, 9):
        options = {
            "total": 23,
            "every": every,
            "saving": saving,
            "logging": logging,
            "losses": losses,
            "start": start,
        }
        expected, one, records = fit(**options)
        asked.clear()
        saved, own, found = fit(stride=stride, stopping=asked.append, **options)
        assert timeless(found) == timeless(records)
        assert [(step, score, meta["interval"]) for step, score, meta in saved] == [
            (step, score, meta["interval"]) for step, score, meta in expected
        ]
        assert own.latest == one.latest
        assert own.unlogged is None
        # Asked once a call, in ascending order: processes of a job agree at every one of these steps.
        assert asked == sorted(set(asked))
        assert {step for step, _, _ in saved} <= set(asked)
        assert max(b - a for a, b in itertools.pairwise([start, *asked])) <= stride


def test_a_call_ends_where_a_run_stops(fit):
    """After a whole call, at the step that is saved."""
    saves = []
    with pytest.raises(Preempted, match="stopped at step 14 of 100"):
        fit(total=100, every=50, saving=50, stride=7, stopping=lambda step: saves.append(step) or step > 7)
    assert saves == [7, 14]


@pytest.mark.parametrize("stride", [2, 4, 5])
def test_a_non_finite_loss_within_a_call_names_its_step(fit, stride):
    with pytest.raises(NonFinite, match="training loss is inf at step 7"):
        fit(total=20, every=20, saving=20, logging=20, stride=stride, losses={7: float("inf"), 8: float("nan")})


def test_what_fills_a_call_up_is_not_looked_at(fit):
    """A call of 5 before an evaluation at 4 computes a fifth step; that of the next call is another."""
    fit(total=4, every=4, saving=4, stride=5, losses={5: float("nan")})


def test_training_means_are_of_the_interval_since_the_last_evaluation(fit):
    _, own, _ = fit(losses={5: 3.0, 6: 3.0, 7: 3.0, 8: 7.0})
    assert own.latest["train"]["loss"] == 4.0
    assert own.interval == {}
    saved, _, _ = fit(losses={5: 3.0, 6: 5.0})
    assert saved[2][2]["interval"] == {"loss": 8.0 * BATCH, "correct": 10.0, "correct5": 18.0, "count": 2.0 * BATCH}


@pytest.mark.parametrize("logging", [1, 3, 100])
def test_a_non_finite_training_loss_names_its_step(fit, logging):
    with pytest.raises(NonFinite, match="training loss is nan at step 6"):
        fit(logging=logging, losses={6: float("nan"), 7: float("nan")})


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_non_finite_evaluation_loss_stops_before_the_save(fit, name, monkeypatch):
    saves = []
    monkeypatch.setattr(Checkpoints, "save", lambda *args: saves.append(args))
    with pytest.raises(NonFinite, match=f"{name} loss is inf at step 4"):
        fit(saving=4, found=lambda own, step: {"loss": float("inf")} if own == name else {})
    assert saves == []


def test_progress_goes_on_where_it_was(time):
    time.now = 50.0
    saved = {
        "interval": {"loss": 1.0},
        "latest": {"test": {}},
        "seconds": 70.0,
        "train_seconds": 40.0,
        "train_steps": 9,
    }
    own = Progress.from_json(saved, began=45.0)
    assert own.seconds == 75.0
    assert own.json() == saved | {"seconds": 75.0}
    own.clock.restart()
    with own.clock.waiting():
        time.now += WAIT
    time.now += STEP
    own.clock.tick()
    assert own.json() == saved | {"seconds": 77.5, "train_seconds": 42.5, "train_steps": 10}


def test_tensorboard_drops_what_will_be_trained_again(tmp_path):
    """A resumed run says so in its events: those of later steps, which come again, would stand there twice."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    logs.RunLog(tmp_path, 6, 10).close()
    [path] = (tmp_path / "tensorboard").iterdir()
    data, starts = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            starts.append(event.step)
    assert starts == [7]
