"""Whether weights can be used on a set: what they were trained on is saved with them."""

from resjax.data import sources
from resjax.data.preprocess import Preprocessing
from resjax.errors import BadInput


def check(
    preprocessing: Preprocessing,
    source: sources.Source,
    image_shape: tuple[int, int, int],
    resized: bool,
    augment: str,
    normalize: str | None,
) -> None:
    """Raises BadInput if weights that were trained with this preprocessing cannot be used on the set."""
    whose = f"data.name={source.name!r}"
    channels, names, size = preprocessing.channels, preprocessing.class_names, preprocessing.size
    own = kind(preprocessing)
    if normalize not in (None, own):
        raise BadInput(f"data.normalize={normalize!r}, but the weights were trained with {own!r}: leave it out")
    if channels != image_shape[2]:
        raise BadInput(
            f"{whose} has images of {image_shape[2]} channels, the weights take {channels}: use another set"
        )
    if size and image_shape[0] != size:
        raise BadInput(f"data.image_size={image_shape[0]}, but the weights take {size}: leave it out")
    if not size and resized:
        raise BadInput(
            f"{whose} would be resized (data.image_size={image_shape[0]}, data.augment={augment!r}), but the "
            "weights take images as they are stored: use a set of their size"
        )
    mean = preprocessing.mean.shape
    if len(mean) == 3 and mean != image_shape:
        raise BadInput(
            f"{whose} has images of {_times(image_shape)}, the weights' mean image has {_times(mean)}: "
            "use a set of that size"
        )
    if names and len(names) != source.num_classes:
        raise BadInput(f"{whose} has {source.num_classes} classes, the weights have {len(names)}: use another set")
    if names and source.class_names and names != source.class_names:
        label = next(i for i, pair in enumerate(zip(names, source.class_names, strict=True)) if pair[0] != pair[1])
        raise BadInput(
            f"{whose}: class {label} is {source.class_names[label]!r}, the weights' is {names[label]!r}: "
            "use a set with the same classes"
        )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def kind(preprocessing: Preprocessing) -> str:
    """The `data.normalize` that it was made by."""
    return "pixel_mean" if preprocessing.mean.ndim == 3 else "channel"
