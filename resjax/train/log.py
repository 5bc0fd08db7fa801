"""What a run reports: means go to the terminal, to metrics.jsonl and to TensorBoard."""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from resjax import files


def is_own(record: Mapping[str, Any]) -> bool:
    """Whether a run wrote this record; another tool, or a hand, may have added some of its own."""
    return type(record.get("step")) is int and isinstance(record.get("split"), str)


class RunLog:
    """The logs of one run: a progress bar (or plain lines), metrics.jsonl and TensorBoard event files.

    A resumed run continues at its checkpoint: its records of later steps are dropped first, because those steps run
    again and give the same values. All other lines stay as they are, also damaged ones and those of others.

    Raises:
      BadInput: here, in `write` and in `close`, if the files cannot be written.
    """

    def __init__(self, workdir: Path, start: int, total: int) -> None:
        from resjax.train.events import Events  # with tensorboardX, which only what logs needs

        self._workdir = workdir
        path = workdir / "metrics.jsonl"
        with files.writing(workdir):
            found = files.lines(path)
            files.say_damaged(path, found)
            kept = [
                line for line, record in found if record is None or not is_own(record) or record["step"] <= start
            ]
            files.replace(path, b"".join(line + b"\n" for line in kept))
            self._file = path.open("a", buffering=1)
            self._events = Events(workdir / "tensorboard", purge_step=start + 1)
        self._total = total
        self._bar: tqdm | None = None
        self._bar_at = start
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, unit=" step", dynamic_ncols=True)
        self._began, self._start = time.monotonic(), start

    def begin(self, step: int, text: str) -> None:
        """Says `text` and measures the pace from here, after what happens only once, such as compilation."""
        self.say(text)
        self._began, self._start = time.monotonic(), step
        if self._bar is not None:
            self._bar.unpause()

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Records `values` of `split` (train, validation or test) after `step` steps."""
        with files.writing(self._workdir):
            self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            for name, value in values.items():
                self._events.scalar(f"{split}/{name}", value, step)
        text = f"loss {values['loss']:.4f}  accuracy {100 * values['accuracy']:.2f} %"
        if split == "train":
            if "images_per_second" in values:  # not after the first step, which compiles
                text += f"  {values['images_per_second']:,.0f} images/s"
            self._progress(step, text)
        else:
            self.say(f"step {step:>6}  {split} {text}")

    def say(self, text: str) -> None:
        """Writes a line that stays on the terminal."""
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
        if step > self._start:
            pace = (time.monotonic() - self._began) / (step - self._start)
            text += f"  {pace * (self._total - step):,.0f} s left"
        self.say(f"step {step:>6}/{self._total}  {text}")

    def close(self) -> None:
        """Ends the progress bar and flushes the files."""
        if self._bar is not None:
            self._bar.close()
        with files.writing(self._workdir), closing(self._file), closing(self._events):
            pass


class Silence:
    """The log of every process but the first of a job."""

    def begin(self, step: int, text: str) -> None:
        """Says nothing."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Records nothing."""

    def say(self, text: str) -> None:
        """Says nothing."""

    def close(self) -> None:
        """There is nothing to close."""
