"""Views of test images, and what a network says of every image over all of its views.

centre   the view that training's own evaluations take: the centre of the image
ten      v1 section 4.1: the short side at size / crop_share (256 for 224), four corners and the centre, each as it
         is and mirrored; softmax is averaged over the ten
scales   v1 section 3.4, as in VGG (arXiv 1409.1556, section 3.2): the whole image with its short side at each
         scale, as it is and mirrored; softmax is averaged over all of them. Global pooling and the classifier are
         linear, so the average over the last map's pixels is that of their scores, before softmax, as VGG has it.
         The long side is cropped at the centre to a multiple of 32, so that photographs share shapes and programs.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.data import sources
from resjax.data.augment.device import Normalization, normalize
from resjax.data.jpeg import Shape
from resjax.data.preprocess import Preprocessing, resize, with_shapes
from resjax.data.sources import Records
from resjax.errors import BadInput
from resjax.models.resnet import ResNet
from resjax.models.spec import Spec

KINDS = ("centre", "ten", "scales")
SCALES = (224, 256, 384, 480, 640)  # v1 section 3.4
GRID = 32  # pixels: what a network of five strides of 2 makes one pixel of
CHUNK = 8  # images that a thread reads at a time


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views of an image are taken.

    Attributes:
      kind: one of KINDS.
      scales: of `scales`: short sides in pixels, ascending.
    """

    kind: str = "centre"
    scales: tuple[int, ...] = ()

    @property
    def mirrored(self) -> bool:
        """Whether every view is also taken mirrored, left to right."""
        return self.kind != "centre"

    def check(self, spec: Spec, preprocessing: Preprocessing, whose: str) -> None:
        """Raises BadInput for a network whose input leaves no such views; `whose` names it."""
        if self.kind != "centre" and not preprocessing.size:
            raise BadInput(
                f"--views={self.kind}: the weights of {whose} take images as they are stored, which leaves one "
                "view: use --views=centre"
            )
        if self.kind == "scales" and spec.dense:
            raise BadInput(f"--views=scales: the network of {whose} takes one size: use --views=centre or ten")

    def of(self, image: np.ndarray, preprocessing: Preprocessing, shape: Shape) -> list[np.ndarray]:
        """An image, uint8 [H, W, C], as groups [V, H', W', C] of views of one shape; mirror images are left out.

        `shape` is that of the photo, of whose pixels the centre needs not all.
        """
        if self.kind == "centre":
            return [preprocessing.view([image], [shape])]
        size, how = preprocessing.size, preprocessing.interpolation
        if self.kind == "ten":
            return [corners_and_centre(short_side(image, round(size / preprocessing.crop_share), how), size)]
        return [on_grid(short_side(image, scale, how), scale)[None] for scale in self.scales]


def short_side(image: np.ndarray, side: int, interpolation: str) -> np.ndarray:
    """The image, uint8 [H, W, C], resized so that its short side has `side` pixels."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    h, w = max(side, round(height * scale)), max(side, round(width * scale))
    return resize(image, (0, 0, width, height), (w, h), interpolation)


def corners_and_centre(image: np.ndarray, size: int) -> np.ndarray:
    """[H, W, C] -> [5, size, size, C]: upper left, upper right, lower left, lower right, centre."""
    bottom, right = image.shape[0] - size, image.shape[1] - size
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
    return np.stack([image[top : top + size, left : left + size] for top, left in places])


def on_grid(image: np.ndarray, short: int) -> np.ndarray:
    """Crops the long side of [H, W, C] at the centre to a multiple of GRID, or to `short` if that is more."""
    h, w = (max(short, side // GRID * GRID) for side in image.shape[:2])
    top, left = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    return image[top : top + h, left : left + w]


class Batch(NamedTuple):
    """Groups of views of one shape, each of another image.

    Attributes:
      rows: int [n], which images.
      views: uint8 [B, V, H, W, C], of which the first n count: the others fill up the devices' parts.
    """

    rows: np.ndarray
    views: np.ndarray


def batches(
    records: Records,
    preprocessing: Preprocessing,
    views: Views,
    labels: np.ndarray,
    batch_size: int,
    devices: int,
    threads: int,
) -> Iterator[Batch]:
    """All groups of views of every image, each once, by shape; images are read ahead in stored order.

    Args:
      labels: int32 [N], filled in while images are read.
      batch_size: of single views of the network's own size; a batch of more pixels is of fewer images.
      devices: divides the size of every batch.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    full: set[tuple[int, ...]] = set()  # shapes of which there was a whole batch

    def read(chunk: np.ndarray) -> list[list[np.ndarray]]:
        least = preprocessing.least if views.kind == "centre" else None
        images, labels[chunk], shapes = sources.read(records, chunk, least)
        return [views.of(image, preprocessing, shape) for image, shape in with_shapes(images, shapes)]

    def room(shape: tuple[int, ...]) -> int:
        own = preprocessing.size**2 or math.prod(shape[1:3])
        pixels = math.prod(shape[:3]) * (2 if views.mirrored else 1)
        return max(devices, batch_size * own // pixels // devices * devices)

    def batch(shape: tuple[int, ...], size: int) -> Batch:
        taken, waiting[shape] = waiting[shape][:size], waiting[shape][size:]
        filled = np.zeros((size, *shape), np.uint8)
        filled[: len(taken)] = [group for _, group in taken]
        return Batch(np.array([row for row, _ in taken]), filled)

    chunks = [np.arange(start, min(start + CHUNK, len(labels))) for start in range(0, len(labels), CHUNK)]
    for chunk, groups in zip(chunks, ahead(read, chunks, threads), strict=True):
        for row, of_image in zip(chunk.tolist(), groups, strict=True):
            for group in of_image:
                waiting.setdefault(group.shape, []).append((row, group))
                if len(waiting[group.shape]) == room(group.shape):
                    full.add(group.shape)
                    yield batch(group.shape, room(group.shape))
    for shape, rest in waiting.items():
        if rest:  # in the size that there is a program for, else as small as the devices allow
            yield batch(shape, room(shape) if shape in full else -(-len(rest) // devices) * devices)


def ahead(work: Callable[[Any], Any], items: Sequence[Any], threads: int) -> Iterator[Any]:
    """`map(work, items)`, worked on ahead by threads."""
    with ThreadPoolExecutor(threads, "views") as pool:
        due: collections.deque[Future[Any]] = collections.deque()
        try:
            for item in items:
                due.append(pool.submit(work, item))
                if len(due) > 2 * threads:
                    yield due.popleft().result()
            while due:
                yield due.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def make_score(spec: Spec, mirrored: bool) -> Callable[[Any, Any, Normalization], jax.Array]:
    """The function that `scores` calls for every batch, jitted; compiled once for a shape."""
    model = ResNet(spec)

    def score(variables: Any, views: jax.Array, normalization: Normalization) -> jax.Array:
        """uint8 [B, V, H, W, C] -> float32 [B, K] whose softmax is the mean of softmax over an image's views.

        Of a single view they are its logits, so that nothing is rounded twice.
        """
        count = len(views)
        images = normalize(views, normalization)  # as the run's own evaluation does
        if mirrored:
            images = jnp.concatenate([images, images[:, :, :, ::-1]], 1)
        logits: Any  # [B V, K]
        logits = model.apply(variables, images.reshape(-1, *images.shape[2:]), train=False)
        logits = logits.reshape(count, -1, logits.shape[-1])
        if logits.shape[1] == 1:
            return logits[:, 0]
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1) - math.log(logits.shape[1])

    return jax.jit(score)


def scores(
    spec: Spec,
    variables: Any,
    preprocessing: Preprocessing,
    records: Records,
    views: Views,
    place: Callable[[np.ndarray], jax.Array],
    *,
    batch_size: int,
    devices: int,
    threads: int,
    seen: Callable[[int], object] = lambda images: None,
) -> tuple[np.ndarray, np.ndarray]:
    """What a network says of every image, each once: log-probabilities float64 [N, K], and labels int32 [N].

    Args:
      variables: `params` and `batch_stats`, on the devices.
      place: lays an array over the devices, along its first axis.
      batch_size, devices, threads: as in `batches`.
      seen: is told now and then how many images are done.

    Raises:
      BadInput: for a record that is damaged.
    """
    score = make_score(spec, views.mirrored)
    normalization = Normalization.of(preprocessing)
    labels = np.zeros(len(records), np.int32)
    total = np.full((len(records), spec.num_classes), -np.inf)
    groups = max(1, len(views.scales))
    done, pending = 0.0, collections.deque[tuple[np.ndarray, jax.Array]]()

    def add(rows: np.ndarray, found: jax.Array) -> None:
        own = np.asarray(found, np.float64)[: len(rows)]
        total[rows] = own if groups == 1 else np.logaddexp(total[rows], own - math.log(groups))

    for batch in batches(records, preprocessing, views, labels, batch_size, devices, threads):
        pending.append((batch.rows, score(variables, place(batch.views), normalization)))
        if len(pending) > 1:  # the devices work on the next while this one is fetched
            add(*pending.popleft())
        done += len(batch.rows) / groups
        seen(round(done))
    while pending:
        add(*pending.popleft())
    return log_softmax(total), labels


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Of float64 [N, K], in its place; the order of classes stays, to the last bit of a float32."""
    scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
    return scores
