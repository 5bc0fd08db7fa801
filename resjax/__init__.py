"""resjax: deep residual networks in JAX."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from resjax.predictor.predictor import Predictor

__version__ = "0.2.0"


def load(given: "str | os.PathLike[str]", *, arch: str | None = None, weights: str = "last") -> "Predictor":
    """A finished network to be asked about images: `load("runs/photos").predict(["cat.jpg"])`.

    Args:
      given: the workdir of a run, a file or folder of weights that `python -m resjax.weights` reads, or
        hf://OWNER/NAME[@REVISION].
      arch: the network, a name of configs/imagenet.py; needed for files that do not say it.
      weights: of a run: last, best (by validation) or ema (the latest moving average).

    Raises:
      BadInput: if there is no such run or file, it is damaged, or nobody says which network it is of.
    """
    from resjax.predictor import load  # JAX takes seconds to import, and not everybody asks for it

    return load.load(given, arch=arch, weights=weights)
