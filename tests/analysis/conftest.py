"""Tiny runs: a residual one that was really trained; a plain and a scanned one of which only the start was saved.

Everything here is measured on 32 images and a few networks, so that the tests share their compilations.
"""

from contextlib import closing

import jax
import jax.numpy as jnp
import pytest

from resjax import experiment
from resjax.checks import described
from resjax.config import default, network, plain
from resjax.files import write_json
from resjax.models.resnet import init_variables
from resjax.models.spec import Spec
from resjax.train.checkpoint import Checkpoints
from resjax.train.loop import train
from resjax.train.step import TrainState
from tests.conftest import jax_flags

TINY = {"units": (2, 2), "widths": (4, 8), "stem_width": 4, "input_size": 8, "input_channels": 1}
IMAGES = 32

fresh = jax.jit(init_variables, static_argnums=0)


def make_config(**model):
    config = default(Spec(**TINY | model))
    config.batch_size, config.mesh.data = IMAGES, 1
    config.total_steps, config.eval_every_steps, config.checkpoint_every_steps = 4, 4, 2
    config.data.name, config.data.augment, config.data.pad = "digits", "crop", 1
    return described(config)  # as a run saves it: with the input and the classes of its set


def make_workdir(parent, config):
    parent.mkdir(parents=True)
    write_json(parent / "config.json", plain(config))
    return parent


def save_start(workdir, config, seed=0):
    """A run whose weights after two steps are those of its start."""
    config.seed = seed
    make_workdir(workdir, config)
    state = TrainState(jnp.int32(2), **fresh(network(config), config.seed), opt_state={"none": jnp.zeros(1)})
    with closing(Checkpoints(workdir, 2)) as checkpoints:
        checkpoints.save(state, {"config": plain(config)})
    return workdir


@pytest.fixture(autouse=True, scope="module")
def _compile_fast(quick_compilation):
    pass


@pytest.fixture(scope="session")
def residual(tmp_path_factory):
    config = make_config()
    workdir = make_workdir(tmp_path_factory.mktemp("runs") / "residual", config)
    with jax_flags(jax_disable_most_optimizations=True):  # this fixture comes before those of the module
        train(experiment.open(config), workdir)
    return workdir


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("runs") / "plain", make_config(shortcut="none"))


@pytest.fixture(scope="session")
def scanned(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("runs") / "scanned", make_config(scan=True))


@pytest.fixture(scope="session")
def batch():
    images = jax.random.normal(jax.random.key(0), (IMAGES, 8, 8, 1))
    return {"image": images, "label": jnp.arange(IMAGES) % 10}


@pytest.fixture(scope="session")
def images(batch):
    return batch["image"]
