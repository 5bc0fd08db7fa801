"""Sums from the device become means; means go to the terminal, to metrics.jsonl and to TensorBoard."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from resjax.errors import BadInput

SUMS = ("loss", "correct", "correct5", "count")


def add(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Adds up sums that were fetched from the device, in float64."""
    return {key: sum((float(part[key]) for part in parts if part), 0.0) for key in SUMS}


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Sums divided by their count: loss, accuracy, accuracy_top5."""
    count = sums["count"]
    return {
        "loss": sums["loss"] / count,
        "accuracy": sums["correct"] / count,
        "accuracy_top5": sums["correct5"] / count,
    }


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    replace(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
      BadInput: if it holds something else by now.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}): restore it, or choose another --workdir") from error


def replace(path: Path, text: str) -> None:
    """Puts `text` in the place of a file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a last line that a kill cut short is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class RunLog:
    """The logs of one run: a progress bar (or plain lines), metrics.jsonl and TensorBoard event files.

    A resumed run writes on where its checkpoint was: records of later steps, which will be trained again to the
    same values, are dropped first.
    """

    def __init__(self, workdir: Path, start: int, total: int) -> None:
        path = workdir / "metrics.jsonl"
        kept = [record for record in read_lines(path) if record["step"] <= start]
        replace(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", buffering=1)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self._total = total
        self._bar: tqdm | None = None
        self._bar_at = start
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, unit=" step", dynamic_ncols=True)
        self._began, self._start = time.monotonic(), start

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Records `values` of `split` (train, validation or test) after `step` steps."""
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)
        text = f"loss {values['loss']:.4f}  accuracy {100 * values['accuracy']:.2f} %"
        if split == "train":
            if "images_per_second" in values:  # not yet after the first step, whose time is compilation
                text += f"  {values['images_per_second']:,.0f} images/s"
            self._progress(step, text)
        else:
            self.say(f"step {step:>6}  {split} {text}")

    def say(self, text: str) -> None:
        """A line that stays on the terminal."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _progress(self, step: int, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar_at)
            self._bar_at = step
            return
        pace = (time.monotonic() - self._began) / max(1, step - self._start)
        self.say(f"step {step:>6}/{self._total}  {text}  {pace * (self._total - step):,.0f} s left")

    def close(self) -> None:
        """Ends the progress bar and flushes the files."""
        if self._bar is not None:
            self._bar.close()
        self._events.close()
        self._file.close()
