"""Tiny networks that other libraries made (tests/fixtures/weights/make.py), and the specs that say the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from resjax.models.spec import Spec

FIXTURES = Path(__file__).parents[1] / "fixtures" / "weights"
BASE = {"stem": "conv7", "shortcut": "B", "stride_on": "3x3", "input_size": 35, "num_classes": 5}
BOTTLENECK = BASE | {"unit": "bottleneck"}
DEEP = BOTTLENECK | {"units": (1, 1, 1, 1), "widths": (8, 8, 8, 16), "stem": "deep"}
V2 = BASE | {"order": "full_preactivation", "stem_raw": True, "stem_width": 8}
HF = {"units": (1, 2), "widths": (8, 16), "stem_width": 4}
# Fixture -> whose names it has, and its network.
NETWORKS = {
    "torchvision.pth": ("torchvision", Spec(**BASE | {"units": (1, 2), "widths": (4, 6), "stem_width": 4})),
    "torchvision_grouped.pth": (
        "torchvision",
        Spec(**BOTTLENECK | {"units": (1, 1), "widths": (16, 32), "stem_width": 4, "squeeze": 2, "groups": 4}),
    ),
    "timm_d.safetensors": ("timm", Spec(**DEEP | {"stem_width": 8, "shortcut_pool": True})),
    "timm_se.safetensors": ("timm", Spec(**DEEP | {"stem_width": 4, "excitation": 4})),
    "timm_v2.safetensors": ("timm", Spec(**V2 | {"units": (1, 2), "widths": (32, 32), "unit": "bottleneck"})),
    "timm_v2_d.safetensors": (
        "timm",
        Spec(**V2 | {"units": (1, 1), "widths": (8, 16), "stem": "deep", "shortcut_pool": True}),
    ),
    "transformers": ("transformers", Spec(**BOTTLENECK | HF)),
    "transformers_v1": ("transformers", Spec(**BOTTLENECK | HF | {"stride_on": "1x1"})),
    "transformers_basic": ("transformers", Spec(**BASE | HF | {"widths": (4, 8)})),
}


@pytest.fixture(scope="session")
def images():
    """float32 [2, 35, 35, 3], the images of the stored logits."""
    sines = np.sin(np.arange(2 * 3 * 35 * 35) * 0.7).reshape(2, 3, 35, 35).astype(np.float32)
    return sines.transpose(0, 2, 3, 1)


@pytest.fixture(scope="session")
def logits():
    """Fixture -> what its library says of the images, [2, 5]."""
    found = json.loads((FIXTURES / "logits.json").read_text())
    return {name: np.array(found[name.partition(".")[0]]) for name in NETWORKS}
