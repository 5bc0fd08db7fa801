"""Photographs of many shapes, and saved networks that were never trained: what is tested is how they are judged."""

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from resjax import experiment
from resjax.config import default, plain
from resjax.data.resolve import resolve
from resjax.files import write_json
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.train.checkpoint import Checkpoints
from resjax.train.loop import record
from resjax.train.progress import Progress
from tests.data.conftest import build, encode

SIZE, CLASSES, TESTED = 32, 6, 13
NAMES = [f"kind{i}" for i in range(CLASSES)]
SHAPES = [(40, 40), (40, 61), (90, 40), (38, 40), (33, 64)]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with the set 'photos': 16 training, 5 validation and 13 test images of many shapes, in 6 classes."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(1)

    def picture(i):
        height, width = SHAPES[i % len(SHAPES)]
        pixels = np.kron(rng.integers(0, 256, (10, 10, 3)), np.ones((9, 9, 1))).astype(np.uint8)[:height, :width]
        return {"image": encode(pixels, "png"), "label": i % CLASSES}

    sizes = {"train": 16, "validation": 5, "test": TESTED}
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=NAMES)}
    folder = tmp_path_factory.mktemp("photos")
    build("photos", folder, features, {name: [picture(i) for i in range(n)] for name, n in sizes.items()})
    return folder


def save(workdir, config, steps=(0,), scores=(None,)):
    """A run's folder with the weights that training would start from, as if they were those of several steps."""
    workdir.mkdir(parents=True)
    run = experiment.open(config)
    write_json(workdir / "config.json", plain(run.config))
    state = run.program.init(np.uint32(config.seed))
    with closing(Checkpoints(workdir, keep=9)) as checkpoints:
        for step, score in zip(steps, scores, strict=True):
            params = jax.tree.map(lambda x, step=step: x * (1 + step / 10), state.params)
            after = state.replace(step=state.step + step, params=params)
            checkpoints.save(after, record(run, Progress(), step), score)
    return workdir


def make_config(seed=0, data="photos", folder="", **model):
    spec = {"units": (2,), "widths": (4,), "stem_width": 4} | model
    config = default(Spec(**spec))
    config.seed, config.batch_size, config.mesh.data, config.total_steps = seed, 8, 1, 4
    config.data.name, config.data.dir, config.data.test_split = data, str(folder), "test"
    config.data.image_size = SIZE if data == "photos" else 0
    return config


@pytest.fixture(scope="session")
def runs(photos, tmp_path_factory):
    """Workdirs of two networks on the photographs, and of one on the digits."""
    folder = tmp_path_factory.mktemp("runs")
    return SimpleNamespace(
        first=save(folder / "first", make_config(0, folder=photos), (1, 2), (0.9, 0.1)),
        second=save(folder / "second", make_config(1, folder=photos, widths=(6,))),
        digits=save(folder / "digits", make_config(2, "digits")),
    )


@pytest.fixture
def stored(photos):
    """The test images as they are stored, uint8 [H, W, 3] of many shapes, and their labels."""
    part = resolve(**make_config(folder=photos).data)
    return part.source.open(part.parts["test"]).read(np.arange(TESTED))


@pytest.fixture
def softmax():
    """What a network of a member says of uint8 images of one shape, in the plainest way: float [n, K]."""

    def of(member, images):
        with closing(Checkpoints(Path(member.opened.name))) as checkpoints:
            weights = checkpoints.weights(member.opened.step)
        own = member.preprocessing
        x = (np.stack(images).astype(np.float32) - own.mean) / own.std
        logits = np.asarray(ResNet(member.spec).apply(weights, x), np.float64)
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    return of
