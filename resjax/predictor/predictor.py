"""A finished network to be asked about images, from Python: what `resjax.load` returns.

model = resjax.load("runs/photos")
for path, classes in zip(paths, model.predict(paths)):
    print(path, classes[0].name, classes[0].probability)
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.data.augment.device import Normalization, normalize
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput
from resjax.evaluation import views
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec
from resjax.predictor import pictures
from resjax.predictor.pictures import Picture


class Class(NamedTuple):
    """A class that an image may be of.

    Attributes:
      label: its number.
      name: that of the run's data set, or the number where the classes have no names.
      probability: softmax of the logits.
    """

    label: int
    name: str
    probability: float


class Answer(NamedTuple):
    """What is found of one image: the error of one that cannot be read, or the other two.

    Attributes:
      view: uint8 [S, S, C], what the network has seen of it.
      classes: the likeliest first.
    """

    view: np.ndarray | None
    classes: list[Class]
    error: BadInput | None


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A network with its weights and the preprocessing that they were trained with.

    Images are read as in training: turned as their EXIF says, and made grey or RGB as the network takes them. Its
    fixed view is the central crop at `preprocessing.size`. A network of size 0 takes images as they are stored, so
    of its own size, with pixels in the range of its data set (0 to 16 for the digits).

    Attributes:
      variables: `params` and `batch_stats`.
      notes: what a person should know about the weights, a line each.
    """

    spec: Spec
    variables: dict[str, Any]
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()

    def predict(
        self, images: Sequence[Picture] | np.ndarray, top: int = 5, batch_size: int = 32
    ) -> list[list[Class]]:
        """The `top` likeliest classes of every image, the likeliest first.

        Args:
          images: a sequence of pictures, or pixels uint8 [N, H, W, C].

        Raises:
          BadInput: for an image that cannot be read or is not of the size that the network takes.
        """
        return [self.ranked(row, top) for row in self.probabilities(images, batch_size)]

    def probabilities(self, images: Sequence[Picture] | np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Softmax of the logits, float64 [N, K]; takes and raises as `predict`."""
        return softmax(self._of(images, batch_size)[0])

    def features(self, images: Sequence[Picture] | np.ndarray, batch_size: int = 32) -> np.ndarray:
        """What the classifier takes, float32 [N, C]: the means of the last map; takes and raises as `predict`."""
        return self._of(images, batch_size)[1]

    def answers(self, images: Sequence[Picture], top: int = 5, batch_size: int = 32) -> Iterator[Answer]:
        """What is found of each image, in order; one that cannot be read keeps no other back."""
        pictures.check_list(images)
        for found, logits, _ in self._batches(images, batch_size):
            rows = iter(softmax(logits))
            for view in found:
                if isinstance(view, BadInput):
                    yield Answer(None, [], view)
                else:
                    yield Answer(view, self.ranked(next(rows), top), None)

    def ranked(self, probabilities: np.ndarray, top: int) -> list[Class]:
        """The `top` likeliest classes by probabilities [K]; of equal ones the first in label order."""
        names = self.preprocessing.class_names
        return [
            Class(label, names[label] if names else str(label), float(probabilities[label]))
            for label in np.argsort(-probabilities, kind="stable")[:top].tolist()
        ]

    def view(self, image: Picture) -> np.ndarray:
        """What the network sees of an image, not yet normalised: uint8 [S, S, C].

        Raises:
          BadInput: for an image that cannot be read or is not of the size that the network takes.
        """
        least = self.preprocessing.resized if self.preprocessing.decode == "scaled" else None
        pixels, shape = pictures.pixels(image, self.preprocessing.channels, least)
        height, width = pixels.shape[:2]
        if not self.preprocessing.size and (height, width) != (self.side, self.side):
            raise BadInput(
                f"{pictures.named(image)} has {height} x {width} pixels, and this network takes images of "
                f"{self.side} x {self.side} as they are stored: resize it to that"
            )
        return self.preprocessing.view([pixels], [shape])[0]

    def _of(self, images: Sequence[Picture] | np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 [N, K] and features float32 [N, C] of images that must all be sound."""
        pictures.check_list(images)
        logits, features = [], []
        for found, of_batch, taken in self._batches(images, batch_size):
            for view in found:
                if isinstance(view, BadInput):
                    raise view
            logits.append(of_batch)
            features.append(taken)
        if not logits:
            raise BadInput("there are no images: give at least one")
        return np.concatenate(logits), np.concatenate(features)

    def _batches(
        self, images: Sequence[Picture] | np.ndarray, batch_size: int
    ) -> Iterator[tuple[list[np.ndarray | BadInput], np.ndarray, np.ndarray]]:
        """Views of so many images at a time, and logits and features of those that can be read.

        Images are read ahead by threads. A small batch is filled up to a power of two: few programs do for all.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size={batch_size}: must be at least 1")
        normalization = Normalization.of(self.preprocessing)
        found: list[np.ndarray | BadInput] = []
        threads = min(16, os.cpu_count() or 1)
        for i, view in enumerate(views.ahead(self._sound_view, list(images), threads), 1):
            found.append(view)
            if i % batch_size and i < len(images):
                continue
            sound = [view for view in found if not isinstance(view, BadInput)]
            size = min(batch_size, 2 ** max(0, len(sound) - 1).bit_length())
            filled = np.zeros((size, self.side, self.side, self.preprocessing.channels), np.uint8)
            if sound:
                filled[: len(sound)] = sound
                results = jax.device_get(self._network(self.variables, filled, normalization))
            else:
                results = np.zeros((0, self.spec.num_classes), np.float32), np.zeros((0, 1), np.float32)
            yield found, results[0][: len(sound)], results[1][: len(sound)]
            found = []

    def _sound_view(self, image: Picture) -> np.ndarray | BadInput:
        try:
            return self.view(image)
        except BadInput as error:
            return error

    @property
    def side(self) -> int:
        """S, of the images that the network sees, in pixels."""
        return self.preprocessing.size or self.spec.input_size

    @functools.cached_property
    def _network(self) -> Callable[[Any, Any, Normalization], tuple[jax.Array, jax.Array]]:
        """The jitted network: variables and images uint8 [B, S, S, C] -> logits [B, K] and features [B, C']."""
        model = ResNet(self.spec)

        def run(variables: Any, images: jax.Array, normalization: Normalization) -> tuple[jax.Array, jax.Array]:
            taken: list[jax.Array] = []

            def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
                if context.module.path == ("head",):
                    taken.append(args[0])
                return call(*args, **kwargs)

            with nn.intercept_methods(keep):
                logits: Any = model.apply(variables, normalize(images, normalization), train=False)
            return logits, taken[0].astype(jnp.float32)

        return jax.jit(run)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of float32 [N, K], in float64."""
    return np.exp(views.log_softmax(logits.astype(np.float64)))
