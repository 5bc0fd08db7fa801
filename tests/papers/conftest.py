"""The tables as the command sees them, from the checkout's root."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from resjax.config import plain
from resjax.sweep import local, plan

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = {
    **{"test_accuracy_top5": 1.0, "test_accuracy": 0.9, "train_accuracy": 0.5, "seconds": 1.0, "steps": 1},
    **{"images_per_second": 100.0, "params": 9, "state_digest": "0", "device": "1 x cpu"},
}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def data_sets():
    """The papers' data sets seem to be prepared; no image of theirs is read."""
    shapes = {
        **{"cifar10": (32, 3, 10, 50_000), "cifar100": (32, 3, 100, 50_000)},
        **{"mnist": (28, 1, 10, 60_000), "imagenet2012": (224, 3, 1000, 1_281_167)},
    }
    digits = plan.look_up

    def look_up(config):
        if config.data.name not in shapes:
            return digits(config)
        side, channels, classes, size = shapes[config.data.name]
        usual = {"augment": "crop_flip", "pad": 4, "normalize": "pixel_mean"}
        usual |= {"interpolation": None, "crop_share": None}  # nothing is resized
        given = {field: config.data[field] for field in usual if config.data[field] is not None}
        usual |= given | {"image_size": side, "source": SimpleNamespace(listing=None)}
        return SimpleNamespace(
            image_shape=(side, side, channels), num_classes=classes, train_size=size, test_split="test", **usual
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "look_up", look_up)
        yield


@pytest.fixture
def finish(data_sets, monkeypatch):
    """Runs end at once: `errors` maps a row's run to its test error in percent by seed, or to an exit code."""
    errors = {}

    def execute(runs, jobs, together, progress, workdir, lock, changed):
        for run in runs:
            error = errors[run.variant][run.seed]
            run.workdir.mkdir(parents=True)
            if isinstance(error, str):
                run.log.write_text("error: the loss is nan at step 9\n")
                run.exit.write_text(error)
                progress.ended(run, int(error))
            else:
                (run.workdir / "config.json").write_text(json.dumps(plain(run.config)))
                summary = SUMMARY | {"test_accuracy": 1 - error / 100}
                summary |= {"train_clean_accuracy": 0.75} if run.config.eval_train else {}
                if run.config.data.validation_split:
                    summary |= {"validation_accuracy": 1 - error / 200}
                (run.workdir / "summary.json").write_text(json.dumps(summary))
                record = {"accuracy": 0.5, "loss": 0.7}
                records = [{"step": s, "split": split, **record} for s in (1, 2) for split in ("train", "test")]
                (run.workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
                progress.ended(run, 0)
            changed()

    monkeypatch.setattr(local, "execute", execute)
    return errors
