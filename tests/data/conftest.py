"""Small prepared sets of each kind, built with TFDS once a run."""

import io

import numpy as np
import pytest
from PIL import Image

SETTINGS = {
    "name": "digits",
    "dir": "",
    "train_split": "train",
    "validation_split": "",
    "test_split": "test",
    "augment": "crop_flip",
    "pad": 1,
    "normalize": "pixel_mean",
    "image_size": 0,
    "workers": 0,
}


@pytest.fixture
def settings():
    """Keyword arguments of open_dataset for digits, to be changed by the test."""
    return dict(SETTINGS)


def encode(pixels, kind, mode=None):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind)
    file.seek(0)
    return file


def build(name, data_dir, features, splits):
    """Prepares a TFDS set in ArrayRecord format; `splits` maps a split to its examples."""
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def split_generators(self, download_manager):
        return {split: self._generate_examples(examples) for split, examples in splits.items()}

    def generate_examples(self, examples):
        yield from enumerate(examples)

    methods = {"_info": info, "_split_generators": split_generators, "_generate_examples": generate_examples}
    with tfds.core.registered.skip_registration():
        kind = type(
            name.capitalize(),
            (tfds.core.GeneratorBasedBuilder,),
            {"VERSION": tfds.core.Version("1.0.0"), "__module__": __name__, **methods},
        )
    tfds.disable_progress_bar()
    kind(data_dir=str(data_dir), file_format="array_record").download_and_prepare()
    return data_dir / name / "1.0.0"


@pytest.fixture(scope="session")
def photos_dir(tmp_path_factory):
    """A folder with 'photos': 24 training and 7 test pictures of many sizes and kinds, in 5 classes."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(1)

    def picture(i):
        height, width = rng.integers(20, 60, 2)
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((15, 15, 1))).astype(np.uint8)[:height, :width]
        kind, mode = [("jpeg", None), ("jpeg", "L"), ("png", None), ("jpeg", "CMYK")][i % 4]
        return {"image": encode(pixels, kind, mode), "label": i % 5}

    data_dir = tmp_path_factory.mktemp("photos")
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=5),
    }
    build(
        "photos",
        data_dir,
        features,
        {"train": [picture(i) for i in range(24)], "test": [picture(i) for i in range(7)]},
    )
    return data_dir
