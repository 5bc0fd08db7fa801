"""Accuracies, intervals, classes and the picture, against what is counted by hand."""

import numpy as np
import pytest

from resjax.analysis import confusion
from resjax.errors import BadInput
from resjax.evaluation import report

P = np.log(
    [
        [0.6, 0.3, 0.05, 0.02, 0.02, 0.01],
        [0.1, 0.5, 0.2, 0.1, 0.05, 0.05],
        [0.7, 0.1, 0.05, 0.05, 0.05, 0.05],
        [0.5, 0.2, 0.15, 0.1, 0.04, 0.01],
        [0.2, 0.2, 0.2, 0.2, 0.1, 0.1],
    ]
)
LABELS = np.array([0, 1, 2, 5, 1])
NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")


def test_the_numbers():
    found = report.measure(P, LABELS, NAMES)
    assert (found["n"], found["top1"]["accuracy"], found["top5"]["accuracy"]) == (5, 2 / 5, 4 / 5)
    assert found["loss"] == pytest.approx(-np.log([0.6, 0.5, 0.05, 0.01, 0.2]).mean())
    rows = {row["class"]: (row["n"], row["accuracy"], row["said_instead"]) for row in found["per_class"]}
    assert rows["ant"] == (1, 1.0, {})
    assert rows["bee"] == (2, 0.5, {0: 1})  # of equal classes the first is said
    assert rows["fox"] == (1, 0.0, {0: 1})
    assert rows["dog"] == (0, None, {})
    counts = report.confusion(found["per_class"])
    assert (counts.sum(), counts.trace(), counts[1, 0], counts[5, 0]) == (5, 2, 1, 1)
    lines = report.text(found).splitlines()
    assert lines[0].startswith("top-1  40.00 %  [0.00, 80.00]")
    assert next(line.split() for line in lines if "| bee" in line) == [
        "|",
        "bee",
        "|",
        "2",
        "|",
        "50.00",
        "%",
        "|",
        "ant",
        "(1)",
        "|",
    ]
    with pytest.raises(BadInput, match="not finite for 1 of 5 images"):
        report.measure(np.where(np.arange(5)[:, None] == 3, np.nan, P), LABELS, NAMES)


@pytest.mark.parametrize(("right", "n"), [(1, 7), (180, 200), (0, 5), (5, 5)])
def test_the_interval_is_that_of_resampled_images(right, n):
    images = np.arange(n) < right
    rng = np.random.default_rng(3)
    means = sorted(images[rng.integers(0, n, n)].mean() for _ in range(4000))
    low, high = report.bootstrap(right, n)
    assert low == pytest.approx(means[100], abs=0.6 / n)
    assert high == pytest.approx(means[3899], abs=0.6 / n)


def test_the_picture_names_what_is_confused(drawn, tmp_path):
    found = report.measure(P, LABELS, NAMES)
    confusion.draw(found, tmp_path / "few.png")
    left, right, *_ = drawn[0].axes
    assert sorted(text.get_text() for text in left.texts) == ["1"] * 5
    assert [label.get_text() for label in right.get_yticklabels()] == ["bee as ant", "cat as ant", "fox as ant"]
    labels = np.arange(1000)
    said = np.full((1000, 1000), -20.0)
    said[labels, np.where(labels % 2, labels - 1, labels)] = 0.0
    confusion.draw(report.measure(said, labels, ()), tmp_path / "many.png")
    left, right, *_ = drawn[1].axes
    assert not left.texts
    assert len(right.get_yticklabels()) == confusion.PAIRS
    assert right.get_yticklabels()[0].get_text() == "1 as 0"
