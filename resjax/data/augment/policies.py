"""Augmentation policies: some of a list of operations on an image, each at random and with a random strength.

Three definitions, by their names in a config:

    rand-m7-mstd0.5-inc1      RandAugment (Cubuk et al. 2020) as timm has it
    torchvision-rand-n2-m9    RandAugment as torchvision has it
    trivial-wide              TrivialAugment, wide space (Müller and Hutter 2021), as torchvision has it

What an operation does is in `ops`. All that is random is drawn for the whole batch, so row i depends only on the
batch's generator and on image i.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np
from PIL import Image

from resjax.data.augment import ops
from resjax.data.order import Share
from resjax.errors import BadInput

NAMES = ("rand-m7-mstd0.5-inc1", "torchvision-rand-n2-m9", "trivial-wide")

MEAN_COLOUR = (124, 116, 104)  # of ImageNet, 255 * (0.485, 0.456, 0.406)
BLACK = (0, 0, 0)
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A way to draw operations.

    Attributes:
        ops: by name; each is drawn as often as the others, with replacement.
        count: N, operations in a row.
        probability: with which each of them is applied.
        magnitudes: least and greatest, both included; uniform in whole numbers between them.
        deviation: of a normal distribution that is added to the magnitude.
        strongest: the magnitude at which an operation has its full strength; greater ones count as this one.
        filters: of interpolation; each is drawn as often as the others.
        fill: colour of pixels from beyond the image.
    """

    ops: Mapping[str, ops.Op]
    count: int
    probability: float
    magnitudes: tuple[int, int]
    deviation: float
    strongest: int
    filters: tuple[Image.Resampling, ...]
    fill: tuple[int, int, int]


# timm's `increasing` operations: a greater magnitude always changes more.
TIMM = {
    "AutoContrast": ops.autocontrast,
    "Equalize": ops.equalize,
    "Invert": ops.invert,
    "Rotate": ops.rotate(30),
    "Posterize": ops.posterize(lambda level: 4 - int(level * 4)),
    "Solarize": ops.solarize(lambda level: 256 - int(level * 256)),
    "SolarizeAdd": ops.solarize_add(110),
    "Color": ops.colour(0.9),
    "Contrast": ops.contrast(0.9),
    "Brightness": ops.brightness(0.9),
    "Sharpness": ops.sharpness(0.9),
    "ShearX": ops.shear_x(0.3),
    "ShearY": ops.shear_y(0.3),
    "TranslateX": ops.shift_x(0.45),
    "TranslateY": ops.shift_y(0.45),
}


def _torchvision(
    shear: float, move_x: ops.Op, move_y: ops.Op, degrees: float, tone: float, bits: int
) -> dict[str, ops.Op]:
    """Torchvision's operations: both of its policies have the same ones, at different strengths."""
    return {
        "Identity": ops.identity,
        "ShearX": ops.shear_x(shear),
        "ShearY": ops.shear_y(shear),
        "TranslateX": move_x,
        "TranslateY": move_y,
        "Rotate": ops.rotate(degrees),
        "Brightness": ops.brightness(tone),
        "Color": ops.colour(tone),
        "Contrast": ops.contrast(tone),
        "Sharpness": ops.sharpness(tone),
        "Posterize": ops.posterize(lambda level: 8 - round(level * bits)),
        "Solarize": ops.solarize(lambda level: round(255 * (1 - level), 3)),  # 8.5 times a whole number
        "AutoContrast": ops.autocontrast,
        "Equalize": ops.equalize,
    }


TORCHVISION = _torchvision(0.3, ops.move_x(share=150 / 331), ops.move_y(share=150 / 331), 30, 0.9, 4)
# At level 1/2 torchvision moves by 15 pixels, not by 16, which it gets as 15.999999 in float32.
WIDE = _torchvision(0.99, ops.move_x(pixels=32), ops.move_y(pixels=32), 135, 0.99, 6)


@functools.cache
def policy(name: str) -> Policy:
    """The policy of that name.

    'rand-mM-mstdS-inc1', also with -nN: 2 or N of 15 operations, each applied with probability 1/2, at a magnitude
    that is normal around M with deviation S (0 if not given) and clipped to 0 ... 10; fills with ImageNet's mean
    colour; bilinear or bicubic at random.
    'torchvision-rand-nN-mM': N of 14 operations at magnitude M of 0 ... 30; fills with black; bilinear, as in
    torchvision's reference script.
    'trivial-wide': one of the same 14 at greater strengths, a uniform magnitude of 0 ... 30; else the same.

    Raises:
        BadInput: for any other name.
    """
    if found := re.fullmatch(
        r"rand-m([0-9]{1,3})(?:-n([0-9]{1,3}))?(?:-mstd([0-9]{1,3}(?:\.[0-9]{1,6})?))?-inc1", name
    ):
        magnitude, count, deviation = int(found[1]), int(found[2] or 2), float(found[3] or 0)
        made = Policy(TIMM, count, 0.5, (magnitude, magnitude), deviation, 10, (BILINEAR, BICUBIC), MEAN_COLOUR)
    elif found := re.fullmatch(r"torchvision-rand-n([0-9]{1,3})-m([0-9]{1,3})", name):
        count, magnitude = int(found[1]), int(found[2])
        made = Policy(TORCHVISION, count, 1.0, (magnitude, magnitude), 0.0, 30, (BILINEAR,), BLACK)
    elif name == "trivial-wide":
        made = Policy(WIDE, 1, 1.0, (0, 30), 0.0, 30, (BILINEAR,), BLACK)
    else:
        raise BadInput(f"data.policy={name!r} is none that is known: give one such as {', '.join(NAMES)}")
    if made.magnitudes[1] > made.strongest:
        raise BadInput(
            f"data.policy={name!r}: magnitude {made.magnitudes[1]} is beyond full strength: use at most "
            f"m{made.strongest}"
        )
    if not 1 <= made.count <= 10 or made.deviation > made.strongest:
        raise BadInput(f"data.policy={name!r}: use n1 to n10, and a deviation of at most mstd{made.strongest}")
    return made


def draw(share: Share, policy: Policy, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All that is random in a policy's views of a batch, for the B rows of a share.

    Returns:
        'policy_op' int32 [B, N], which operation, -1 for none; 'policy_level' float64 [B, N] in [-1, 1], a share
        of its full strength, of either sign with probability 1/2; 'policy_filter' int32 [B, N], which of the
        filters.
    """
    shape = (share.batch_size, policy.count)
    op = rng.integers(len(policy.ops), size=shape)
    op[rng.random(shape) >= policy.probability] = -1
    least, greatest = policy.magnitudes
    magnitude = rng.integers(least, greatest + 1, size=shape) + policy.deviation * rng.standard_normal(shape)
    level = np.clip(magnitude, 0, policy.strongest) / policy.strongest
    level[rng.random(shape) < 0.5] *= -1
    which = rng.integers(len(policy.filters), size=shape)
    return {
        "policy_op": op[share.rows].astype(np.int32),
        "policy_level": level[share.rows],
        "policy_filter": which[share.rows].astype(np.int32),
    }


def apply(
    image: np.ndarray, policy: Policy, op: np.ndarray, level: np.ndarray, which_filter: np.ndarray
) -> np.ndarray:
    """What a policy makes of one uint8 image [H, W, 3], by its rows [N] of what `draw` returned."""
    changes = tuple(policy.ops.values())
    changed = Image.fromarray(image)
    for i, own, chosen in zip(op.tolist(), level.tolist(), which_filter.tolist(), strict=True):
        if i >= 0:
            changed = changes[i](changed, own, ops.Fabric(policy.filters[chosen], policy.fill))
    return np.asarray(changed)
