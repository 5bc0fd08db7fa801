"""Device kinds: what one of them can do, as its maker states it. Every figure has its source beside it."""

from typing import NamedTuple


class Kind(NamedTuple):
    """One device as JAX counts them.

    Attributes:
      bfloat16, float32: dense multiply-add rate at JAX's default precision, FLOP/s. By that default float32 is
        multiplied in bfloat16 on TPUs and in TF32 on GPUs (docs.jax.dev/en/latest/201/precision.html).
      memory: bytes.
      memory_bandwidth: bytes/s.
      link: bytes/s that it can send to the devices of its domain, all links together, in one direction.
      domain: devices that these links join: a pod of TPUs, the GPUs of a server.
      network: bytes/s that it can send beyond, its share of its host's network; None where no figure is published.
      usable: share of the memory that JAX takes for arrays.
    """

    bfloat16: float
    float32: float
    memory: float
    memory_bandwidth: float
    link: float
    domain: int
    network: float | None
    usable: float = 1.0


GIB = 2**30
# JAX takes three quarters of a GPU's memory unless XLA_CLIENT_MEM_FRACTION says otherwise
# (docs.jax.dev/en/latest/gpu_memory_allocation.html).
GPU = 0.75

# Makers state links for both directions together, and rates of GPUs with sparsity: both are halved here.
KINDS = {
    # docs.cloud.google.com/tpu/docs/v4; six links of 45 GB/s each way: jax-ml.github.io/scaling-book/tpus
    "v4": Kind(275e12, 275e12, 32 * GIB, 1200e9, 6 * 45e9, 4096, None),
    # docs.cloud.google.com/tpu/docs/v5e: 400 GB/s of links; 6.4 Tb/s of network for a pod of 256
    "v5e": Kind(197e12, 197e12, 16e9, 819e9, 400e9 / 2, 256, 6.4e12 / 8 / 256),
    # docs.cloud.google.com/tpu/docs/v5p: 1200 GB/s of links, 50 Gb/s of network
    "v5p": Kind(459e12, 459e12, 95 * GIB, 2765e9, 1200e9 / 2, 8960, 50e9 / 8),
    # docs.cloud.google.com/tpu/docs/v6e: 800 GB/s of links; 25.6 Tb/s of network for a pod of 256
    "v6e": Kind(918e12, 918e12, 32e9, 1638e9, 800e9 / 2, 256, 25.6e12 / 8 / 256),
    # docs.cloud.google.com/tpu/docs/tpu7x: a chip has 2307 TFLOP/s, 192 GiB, 7380 GB/s, 1200 GB/s of links and
    # 100 Gb/s of network; it is two devices
    "tpu7x": Kind(2307e12 / 2, 2307e12 / 2, 96 * GIB, 7380e9 / 2, 1200e9 / 4, 2 * 9216, 100e9 / 8 / 2),
    # nvidia.com/en-us/data-center/a100 (SXM, NVLink 600 GB/s); the 200 Gb/s adapters are those of a DGX A100,
    # developer.nvidia.com/blog/defining-ai-innovation-with-dgx-a100
    "a100-40": Kind(312e12, 156e12, 40e9, 1555e9, 600e9 / 2, 8, 200e9 / 8, GPU),
    "a100-80": Kind(312e12, 156e12, 80e9, 2039e9, 600e9 / 2, 8, 200e9 / 8, GPU),
    # nvidia.com/en-us/data-center/h100 (SXM, 1979 and 989 TFLOP/s with sparsity, NVLink 900 GB/s); adapters of
    # 400 Gb/s: docs.nvidia.com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest
    "h100": Kind(1979e12 / 2, 989e12 / 2, 80e9, 3.35e12, 900e9 / 2, 8, 400e9 / 8, GPU),
    # nvidia.com/en-us/data-center/h200 (SXM); adapters as above
    "h200": Kind(1979e12 / 2, 989e12 / 2, 141e9, 4.8e12, 900e9 / 2, 8, 400e9 / 8, GPU),
    # nvidia.com/en-us/data-center/hgx (HGX B200: 4.5 and 2.2 PFLOP/s with sparsity); an eighth of a DGX B200:
    # 1440 GB, 64 TB/s, 14.4 TB/s of NVLink, 400 Gb/s adapters, docs.nvidia.com/dgx/dgxb200-user-guide
    "b200": Kind(4.5e15 / 2, 2.2e15 / 2, 1440e9 / 8, 64e12 / 8, 14.4e12 / 8 / 2, 8, 400e9 / 8, GPU),
}
