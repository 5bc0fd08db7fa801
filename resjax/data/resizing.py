"""How images are resized: what the config asks for, and what there is to be resized."""

from dataclasses import dataclass, replace

from resjax.data.preprocess import CROP_SHARE, DECODINGS, INTERPOLATIONS, Preprocessing
from resjax.data.sources import Source
from resjax.errors import BadInput, unknown

LEAST_SHARE = 0.1  # less would enlarge photos to ten times what is kept of them


@dataclass(frozen=True)
class Resizing:
    """The fields of `config.data` about images that are resized; `resolve` explains them."""

    train_image_size: int
    interpolation: str | None
    crop_share: float | None
    decode: str

    def check(self) -> None:
        """Raises BadInput for a value that cannot be."""
        if self.train_image_size < 0:
            raise BadInput(f"data.train_image_size={self.train_image_size} is negative: use 0 or more")
        if self.interpolation not in (None, *INTERPOLATIONS):
            raise BadInput(unknown("data.interpolation", self.interpolation, tuple(INTERPOLATIONS)))
        if self.crop_share is not None and not LEAST_SHARE <= self.crop_share <= 1:
            raise BadInput(f"data.crop_share={self.crop_share}: must lie in {LEAST_SHARE} to 1, such as 0.875")
        if self.decode not in DECODINGS:
            raise BadInput(unknown("data.decode", self.decode, DECODINGS))

    def resolved(self, source: Source, resized: bool, preprocessing: Preprocessing | None) -> "Resizing":
        """With what is usual, or what the weights were trained with, where a field is left open.

        Args:
            resized: whether images are.

        Raises:
            BadInput: for what has no effect on this set, or is not what the weights were trained with.
        """
        if self.decode == "scaled" and source.image_shape:
            raise BadInput(
                f"data.decode='scaled' is for photos of different sizes, and images of {source.name!r} have one: "
                "use 'full'"
            )
        if not resized:
            for field in ("train_image_size", "interpolation", "crop_share"):
                if value := getattr(self, field):
                    raise BadInput(
                        f"data.{field}={value!r}, but images of {source.name!r} are not resized: leave it out"
                    )
            return self
        own = replace(
            self,
            interpolation=self.interpolation or (preprocessing.interpolation if preprocessing else "bilinear"),
            crop_share=float(self.crop_share or (preprocessing.crop_share if preprocessing else CROP_SHARE)),
        )
        for field in ("interpolation", "crop_share", "decode") if preprocessing else ():
            asked, trained = getattr(own, field), getattr(preprocessing, field)
            if asked != trained:
                raise BadInput(
                    f"data.{field}={asked!r}, but the weights were trained with {trained!r}: "
                    f"give --config.data.{field}={trained}"
                )
        return own
