"""oneDNN, the library that PyTorch's convolutions on a CPU are: XLA has it since jaxlib 0.11, on x86, unasked.

XLA calls it in programs that are compiled for it. A step of ResNet-20 on images of 32x32 takes 0.85 of the time.
But such a program cannot be stored in the compilation cache: every process compiles its own.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from resjax.errors import BadInput
from resjax.models import counts
from resjax.models.spec import Spec

OPTIONS: dict[str, Any] = {
    "xla_cpu_experimental_onednn_custom_call": True,
    # Unless only the sums are left to it, YNNPACK has the first choice, and takes most of the work.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}
WORTH = 2**31  # multiply-adds of a forward pass from which on it pays within the first hundreds of steps
TYPES = ("float32", "bfloat16")

# JAX says so each time that it cannot store one.
warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry .*: MemoryError", UserWarning)


def choose(spec: Spec, images: int) -> tuple[Spec, dict[str, Any]]:
    """How to compile a network for so many images at a time: as which spec, and with which options of `jax.jit`.

    Both name oneDNN, or neither. It is a matter of the size alone, so that a run that goes on has the same program.

    Raises:
      BadInput: if the spec asks for oneDNN where there is none.
    """
    if spec.convolution == "onednn" and not is_there():
        raise BadInput(
            "model.convolution=onednn: XLA has none here (jaxlib 0.11 or later has it, for CPUs of x86); leave it "
            "at auto, which chooses it where it pays"
        )
    pays = spec.dtype in TYPES and counts.total(spec).macs * images >= WORTH
    if spec.convolution == "auto" and pays and is_there():
        spec = dataclasses.replace(spec, convolution="onednn")
    return spec, OPTIONS if spec.convolution == "onednn" else {}


@functools.cache
def is_there() -> bool:
    """Whether this process computes on a CPU whose XLA has oneDNN and its options; compiles a product to know."""
    if jax.default_backend() != "cpu":
        return False
    a = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    try:
        program = jax.jit(jnp.matmul, compiler_options=OPTIONS).lower(a, a).compile()
    except jax.errors.JaxRuntimeError:  # options of this XLA have other names
        return False
    return "__onednn$" in (program.as_text() or "")
