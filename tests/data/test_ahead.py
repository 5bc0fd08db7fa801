"""Threads that make batches ahead: in order, no more than they may, and none at work after the end."""

import gc
import threading
import time

import numpy as np
import pytest

from resjax.data.ahead import InThreads


class Make:
    """Makes {'step': [1]}; an odd step takes half as long as an even one."""

    def __init__(self, seconds=0.0, fails=()):
        self.seconds, self.fails, self.begun, self.ended = seconds, fails, [], []

    def __call__(self, step):
        self.begun.append(step)
        time.sleep(self.seconds * (2 if step % 2 == 0 else 1))
        if step in self.fails:
            raise ValueError(f"step {step}")
        self.ended.append(step)
        return {"step": np.array([step])}


def test_batches_come_in_order_and_not_too_far_ahead():
    make = Make(0.01)
    batches = InThreads(make, range(3, 23), threads=4, ahead=6)
    for expected in range(3, 23):
        assert next(batches)["step"] == expected
        assert len(make.begun) <= expected - 3 + 6
    for _ in range(2):
        assert next(batches, None) is None
    assert sorted(make.ended) == list(range(3, 23))


def test_nothing_is_at_work_once_it_is_closed():
    make = Make(0.1)
    batches = InThreads(make, range(100), threads=2, ahead=9)
    next(batches)
    for _ in range(2):
        batches.close()
        assert make.ended
        assert sorted(make.begun) == sorted(make.ended)
        assert len(make.begun) < 9
    assert next(batches, None) is None


def test_an_iterator_that_is_dropped_ends_its_threads():
    before = threading.active_count()
    batches = InThreads(Make(), range(100), threads=2, ahead=3)
    next(batches)
    assert threading.active_count() > before
    del batches
    gc.collect()
    deadline = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_error_is_raised_when_its_batch_is_due():
    batches = InThreads(Make(fails=(2,)), range(9), threads=2, ahead=3)
    assert [next(batches)["step"][0] for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="step 2"):
        next(batches)
    assert next(batches)["step"] == 3
    batches.close()
