"""Device kinds: what one of them can do. Every figure has its source beside it."""

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
# (docs.jax.dev/en/latest/201/gpu-memory.html).
GPU = 0.75

# Makers state links for both directions together: they are halved here. Rates of GPUs are dense, without sparsity.
KINDS = {
    # docs.cloud.google.com/tpu/docs/v4; six links of 45 GB/s each way: tpus.md of github.com/jax-ml/scaling-book
    "v4": Kind(275e12, 275e12, 32 * GIB, 1200e9, 6 * 45e9, 4096, None),
    # docs.cloud.google.com/tpu/docs/v5e: 400 GB/s of links; 6.4 Tb/s of network for a pod of 256
    "v5e": Kind(197e12, 197e12, 16e9, 819e9, 400e9 / 2, 256, 6.4e12 / 8 / 256),
    # docs.cloud.google.com/tpu/docs/tpu7x, column v5p: 1200 GB/s of links, 50 Gb/s of network
    "v5p": Kind(459e12, 459e12, 95 * GIB, 2765e9, 1200e9 / 2, 8960, 50e9 / 8),
    # docs.cloud.google.com/tpu/docs/v6e.md.txt: 800 GB/s of links; 100 Gb/s of network:
    # docs.cloud.google.com/tpu/docs/tpu7x, column v6e
    "v6e": Kind(918e12, 918e12, 32e9, 1638e9, 800e9 / 2, 256, 100e9 / 8),
    # docs.cloud.google.com/tpu/docs/tpu7x: a chip has 2307 TFLOP/s, 192 GiB, 7380 GB/s, 1200 GB/s of links and
    # 100 Gb/s of network; it is two devices
    "tpu7x": Kind(2307e12 / 2, 2307e12 / 2, 96 * GIB, 7380e9 / 2, 1200e9 / 4, 2 * 9216, 100e9 / 8 / 2),
    # SXM. Rates: compute/accelerator/README.md of github.com/stas00/ml-engineering; memory:
    # thundercompute.com/blog/nvidia-a100-specs-full-guide; NVLink of 600 GB/s among eight:
    # devblogs.nvidia.com/introducing-hgx-a100-most-powerful-accelerated-server-platform-for-ai-hpc;
    # an adapter of 200 Gb/s for each (NF5688M6): closed/Inspur/documentation/start_from_device/Start_From_Device.md
    # of github.com/mlcommons/inference_results_v1.1
    "a100-40": Kind(312e12, 156e12, 40e9, 1555e9, 600e9 / 2, 8, 200e9 / 8, GPU),
    "a100-80": Kind(312e12, 156e12, 80e9, 2039e9, 600e9 / 2, 8, 200e9 / 8, GPU),
    # SXM. Rates and memory: compute/accelerator/README.md of github.com/stas00/ml-engineering; NVLink of 900 GB/s:
    # network/README.md there; eight GPUs with an adapter of 400 Gb/s each: core-components.html of
    # docs.nvidia.com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest
    "h100": Kind(989e12, 494.5e12, 80e9, 3.35e12, 900e9 / 2, 8, 400e9 / 8, GPU),
    "h200": Kind(989e12, 494.5e12, 141e9, 4.8e12, 900e9 / 2, 8, 400e9 / 8, GPU),
    # Rates of an HGX B200 and 8 TB/s: glennklockwood.com/garden/processors/B200; an eighth of a DGX B200's 1440 GB
    # and 14.4 TB/s of NVLink, adapters of 400 Gb/s:
    # docs.nvidia.com/dgx/dgxb200-user-guide/introduction-to-dgxb200.html
    "b200": Kind(2250e12, 1100e12, 1440e9 / 8, 8e12, 14.4e12 / 8 / 2, 8, 400e9 / 8, GPU),
}
