"""oneDNN, the library that PyTorch's convolutions on a CPU are: XLA has it since jaxlib 0.11, on x86, unasked for.

XLA computes with it those programs that are compiled for it: `jax.jit(f, compiler_options=onednn.options())`. Of
float32 its convolutions and products take about two thirds of the time of those that XLA chooses by itself; of
bfloat16 half.
"""

import functools

import jax
import jax.numpy as jnp

OPTIONS = {
    "xla_cpu_experimental_onednn_custom_call": True,
    # Unless only the sums are left to it, YNNPACK has the first choice, and takes most of the work.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def options() -> dict[str, bool | str]:
    """The options to compile a network with: those that choose oneDNN where there is one, none elsewhere."""
    return OPTIONS if is_there() else {}


@functools.cache
def is_there() -> bool:
    """Whether this process computes on a CPU whose XLA has oneDNN and its options; compiles a product to know."""
    if jax.default_backend() != "cpu":
        return False
    a = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    try:
        return "__onednn$" in jax.jit(jnp.matmul, compiler_options=OPTIONS).lower(a, a).compile().as_text()
    except jax.errors.JaxRuntimeError:  # options of this XLA have other names
        return False
