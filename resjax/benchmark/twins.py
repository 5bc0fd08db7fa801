"""The training step of a config elsewhere: in PyTorch, and in stock Flax."""

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import flax
import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import machine
from resjax.benchmark import flax_twin
from resjax.models.spec import Spec


class Step(Protocol):
    """Training on one batch: calling it takes a step and waits for it."""

    def __call__(self) -> Any: ...

    def advance(self) -> Any:
        """Takes a step, which may still be under way."""

    def wait(self) -> None:
        """Waits for all that is under way."""


def pytorch(
    config: ConfigDict,
    spec: Spec,
    variables: dict[str, Any] | None,
    images: np.ndarray,
    labels: np.ndarray,
    mode: str = "default",
) -> tuple[Step | None, str]:
    """PyTorch's step and how it was built, or None and why it could not be.

    Args:
      variables: the weights and statistics of the unrolled network to start from; None for PyTorch's own.
      images: [N, H, W, C]; labels: [N].
      mode: what `torch.compile` is asked for on a GPU.
    """
    if importlib.util.find_spec("torch") is None:
        return None, "PyTorch is not installed"
    import torch

    from resjax.benchmark import torch_twin

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = torch_twin.missing(spec, config)
    if {"cuda": "gpu"}.get(device, device) != jax.default_backend():
        reasons.append(f"this device ({jax.default_backend()})")
    if reasons:
        return None, f"no PyTorch twin for: {', '.join(reasons)}"
    torch.set_num_threads(machine.threads())
    twin = torch_twin.Twin(spec)
    if variables:
        torch_twin.copy(variables, twin)
    try:
        step = torch_twin.TrainingStep(twin, config, images, labels, device, mode)
        step()
    except torch.OutOfMemoryError:
        return None, "PyTorch ran out of memory"
    how = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {', '.join(step.how)}"
    return step, how + whole_batch(config, spec)


def stock_flax(
    config: ConfigDict, spec: Spec, variables: dict[str, Any], images: np.ndarray, labels: np.ndarray
) -> tuple[Step | None, str]:
    """Stock Flax's step and how it was built, or None and why it could not be; arguments as in `pytorch`."""
    if reasons := flax_twin.missing(spec, config):
        return None, f"no stock Flax twin for: {', '.join(reasons)}"
    step = flax_twin.TrainingStep(spec, config, variables, images, labels)
    step()
    how = f"stock Flax {flax.__version__}: flax.linen, optax, jit with donated state"
    return step, how + whole_batch(config, spec)


def whole_batch(config: ConfigDict, spec: Spec) -> str:
    """What twins do otherwise, in words."""
    if spec.norm != "batch" or spec.bn_group in (0, config.batch_size):
        return ""
    return f", BN over the whole batch instead of groups of {spec.bn_group}"


BUILD: dict[str, Callable[..., tuple[Step | None, str]]] = {"pytorch": pytorch, "flax": stock_flax}
NAMES = tuple(BUILD)
