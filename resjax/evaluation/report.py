"""What is said of an evaluation: accuracies with their intervals, the classes one by one, and what is confused."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resjax import markdown
from resjax.errors import BadInput

RESAMPLES = 10_000
SHARE = 0.95
SEED = 0
INTERVAL = (
    f"{100 * SHARE:g} % percentile interval of {RESAMPLES:,} resamples of the images with replacement, seed {SEED}"
)
SHOWN = 10  # classes at either end of a long table


def measure(log_probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """All numbers of an evaluation, as JSON values.

    Args:
      log_probabilities: float64 [N, K].
      labels: int32 [N].
      names: of the K classes, or empty.

    Returns:
      `n`, `loss`, `top1` and `top5` (each `accuracy`, `error` and the `interval` of the accuracy), and `per_class`:
      `class`, `n`, `accuracy`, and how often the network said what other class, by its number.

    Raises:
      BadInput: for a network whose output is not finite.
    """
    n, classes = log_probabilities.shape
    if bad := int((~np.isfinite(log_probabilities).all(1)).sum()):
        raise BadInput(f"the network's output is not finite for {bad:,} of {n:,} images: its run has diverged")
    own = log_probabilities[np.arange(n), labels]
    place, said = ranks(log_probabilities, labels), log_probabilities.argmax(1)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, said), 1)
    right = np.bincount(labels[place < 1], minlength=classes)
    per_class = []
    for label, row in enumerate(counts):
        wrong = {int(other): int(row[other]) for other in np.flatnonzero(row) if other != label}
        total = int(row.sum())
        per_class.append(
            {
                "class": names[label] if names else str(label),
                "n": total,
                "accuracy": float(right[label] / total) if total else None,
                "said_instead": dict(sorted(wrong.items(), key=lambda item: -item[1])),
            }
        )
    return {
        "n": n,
        "loss": float(-own.mean()),
        "top1": share(int((place < 1).sum()), n),
        "top5": share(int((place < 5).sum()), n),
        "interval": INTERVAL,
        "per_class": per_class,
    }


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes beat the label, int [N]; among equals the first wins, as in `evaluate.sums`."""
    own = scores[np.arange(len(labels)), labels][:, None]
    return ((scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))).sum(1)


def share(right: int, n: int) -> dict[str, Any]:
    return {"accuracy": right / n, "error": 1 - right / n, "interval": list(bootstrap(right, n))}


def bootstrap(right: int, n: int) -> tuple[float, float]:
    """The bootstrap interval of an accuracy, see INTERVAL.

    Of n images drawn with replacement a binomial number are of those that were right, so these numbers are drawn.
    At 0 and at 100 % all resamples are alike, and the interval has no width.
    """
    drawn = np.random.default_rng(SEED).binomial(n, right / n, RESAMPLES) / n
    low, high = np.quantile(drawn, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)


def confusion(per_class: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """How often class i was taken for class j: int [K, K], rows are the true classes."""
    counts = np.zeros((len(per_class), len(per_class)), np.int64)
    for label, row in enumerate(per_class):
        for other, times in row["said_instead"].items():
            counts[label, int(other)] = times
        counts[label, label] = row["n"] - counts[label].sum()
    return counts


def text(found: Mapping[str, Any]) -> str:
    """The accuracies in a line each, and the table of classes; of many, those at either end."""
    lines = []
    for name in ("top1", "top5"):
        one, (low, high) = found[name], found[name]["interval"]
        if name == "top1" or len(found["per_class"]) > 5:
            lines.append(
                f"{name[:3]}-{name[3:]}  {100 * one['accuracy']:.2f} %  [{100 * low:.2f}, {100 * high:.2f}]  "
                f"error {100 * one['error']:.2f} %"
            )
    lines += [f"loss   {found['loss']:.4f}", f"n      {found['n']:,} images; [ ]: {found['interval']}", ""]
    rows = sorted((row for row in found["per_class"] if row["n"]), key=lambda row: row["accuracy"])
    left_out = len(rows) - 2 * SHOWN
    shown = rows if left_out <= 0 else [*rows[:SHOWN], None, *rows[-SHOWN:]]
    cells = [_cells(row, found["per_class"]) if row else [f"... {left_out:,} more", "", "", ""] for row in shown]
    return "\n".join([*lines, markdown.table(["class", "n", "accuracy", "taken for most often"], cells)])


def _cells(row: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> list[str]:
    other, times = next(iter(row["said_instead"].items()), (None, 0))
    most = "" if other is None else f"{classes[int(other)]['class']} ({times})"
    return [row["class"], f"{row['n']:,}", f"{100 * row['accuracy']:.2f} %", most]
