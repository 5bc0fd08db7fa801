"""The network of a `Spec` in PyTorch, to measure against: the same layers, the same names, the same training step.

PyTorch is not a dependency of resjax. The twin builds what it knows to be the same, and `missing` names everything
else.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

from resjax.benchmark import known
from resjax.models import layout
from resjax.models.layout import Layer, Layers, UnitLayout
from resjax.models.spec import Spec


def missing(spec: Spec, config: ConfigDict) -> list[str]:
    """What the twin does not know to be the same in this network or recipe; empty if it can be built."""
    return known.missing(spec, config, (*BUILD, *COMPUTE))


class Twin(nn.Module):
    """[N, C, H, W] images -> [N, K] logits; parameters are named as in `resjax.models.resnet.ResNet`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.stem_layers, self.head_layers = layout.stem(spec), layout.head(spec)
        self.stem = nn.Module()
        build(spec, self.stem, self.stem_layers)
        self.units = []
        for shape in spec.unit_shapes():
            stage, name = shape.path
            if shape.index == 0:
                self.add_module(stage, nn.Module())
            unit = TwinUnit(spec, layout.unit(spec, shape))
            self.get_submodule(stage).add_module(name, unit)
            self.units.append(unit)
        build(spec, self, self.head_layers)
        self.autocast = spec.dtype == "bfloat16"

    def forward(self, x: Tensor) -> Tensor:
        x = run(self.stem, self.stem_layers, x)
        for unit in self.units:
            x = unit(x)
        return run(self, self.head_layers, x)


class TwinUnit(nn.Module):
    """`resjax.models.units.Unit`."""

    def __init__(self, spec: Spec, unit: UnitLayout) -> None:
        super().__init__()
        self.spec, self.unit = spec, unit
        build(spec, self, unit.lead + unit.branch + unit.after)
        self.excitation, self.shortcut, self.gate = nn.Module(), nn.Module(), nn.Module()
        build(spec, self.excitation, unit.excitation)
        build(spec, self.shortcut, unit.shortcut)
        build(spec, self.gate, unit.gate)

    def forward(self, x: Tensor) -> Tensor:
        spec, unit = self.spec, self.unit
        y = run(self, unit.lead, x)
        source = y if unit.activated else x
        y = run(self, unit.branch, y)
        if unit.excitation:
            y = y * run(self.excitation, unit.excitation, y)[:, :, None, None]
        if spec.shortcut != "none":
            skip = run(self.shortcut, unit.shortcut, source)
            y = y if spec.branch_scale == 1 else spec.branch_scale * y
            skip = skip if spec.shortcut_scale == 1 else spec.shortcut_scale * skip
            if unit.gate:
                gate = run(self.gate, unit.gate, source)
                y, skip = gate * y if spec.gate == "exclusive" else y, (1 - gate) * skip
            y = skip + y
        return run(self, unit.after, y)


def build(spec: Spec, module: nn.Module, layers: Layers) -> None:
    """Gives the module the layers that have parameters, under their names."""
    for layer in layers:
        if layer.name:
            module.add_module(layer.name, BUILD[layer.kind](spec, layer))


def run(module: nn.Module, layers: Layers, x: Tensor) -> Tensor:
    """`resjax.models.layers.run`."""
    for layer in layers:
        x = module.get_submodule(layer.name)(x) if layer.name else COMPUTE[layer.kind](layer, x)
    return x


def conv(spec: Spec, layer: Layer) -> nn.Module:
    """`resjax.models.layers.convolve`."""
    return nn.Conv2d(
        layer.in_width,
        layer.width,
        layer.kernel,
        layer.stride,
        padding=layer.dilation * (layer.kernel // 2),
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
    )


def dense(spec: Spec, layer: Layer) -> nn.Module:
    """`resjax.models.layers.multiply` and `classify`."""
    return nn.Linear(layer.in_width, layer.width, bias=layer.bias is not None)


def norm(spec: Spec, layer: Layer) -> nn.Module:
    """`resjax.models.layers.normalize`, over the whole batch."""
    return nn.BatchNorm2d(layer.width, eps=spec.bn_epsilon, momentum=1 - spec.bn_momentum)


BUILD: dict[str, Callable[[Spec, Layer], nn.Module]] = {
    "conv": conv,
    "dense": dense,
    "classifier": dense,
    "norm": norm,
}
COMPUTE: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    "relu": lambda layer, x: F.relu(x),
    "sigmoid": lambda layer, x: torch.sigmoid(x),
    "max_pool": lambda layer, x: F.max_pool2d(x, layer.kernel, layer.stride, layer.kernel // 2),
    "average_pool": lambda layer, x: F.avg_pool2d(x, layer.stride, ceil_mode=True, count_include_pad=False),
    "subsample": lambda layer, x: x[:, :, :: layer.stride, :: layer.stride],
    "zero_pad": lambda layer, x: F.pad(x, (0, 0, 0, 0, 0, layer.width - layer.in_width)),
    "mean": lambda layer, x: x.mean((2, 3)),
}


def copy(variables: Any, twin: nn.Module) -> None:
    """Puts the params and batch statistics of the unrolled network into its twin."""
    state = twin.state_dict()
    for path, leaf in leaves(variables):
        *module, kind = path
        value = np.asarray(leaf)
        if kind == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        rename = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
        state[".".join([*module, rename.get(kind, kind)])].copy_(torch.from_numpy(value.copy()))


def leaves(variables: Any) -> Iterator[tuple[list[str], Any]]:
    """Every parameter and statistic with its path: `["stem", "conv1", "kernel"]`."""
    for collection in ("params", "batch_stats"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables[collection]):
            yield [key.key for key in path], leaf


class TrainingStep:
    """PyTorch's fastest training step on a device: calling it takes one, waits for it and returns the loss.

    Channels last; on a GPU with cuDNN's autotuner, TF32 as XLA has it by default, and `torch.compile` if it works.
    bfloat16 where the spec says so.

    Args:
      images: [N, H, W, C]; labels: [N].
      mode: what `torch.compile` is asked for on a GPU.

    Attributes:
      how: the settings in words.
    """

    def __init__(
        self,
        twin: Twin,
        config: ConfigDict,
        images: np.ndarray,
        labels: np.ndarray,
        device: str,
        mode: str = "default",
    ) -> None:
        o, self._cuda = config.optimizer, device == "cuda"
        self.how = ["channels_last"]
        if self._cuda:
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            self.how += ["cudnn.benchmark", "tf32"]
        self.how += ["bfloat16 autocast"] if twin.autocast else []
        model: Any = twin  # what Module.to takes is more than its types say
        self._model = model.to(device=device, memory_format=torch.channels_last).train()
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in twin.parameters():
            parts[o.decay_mask == "all" or parameter.ndim > 1].append(parameter)  # kernels: no BN, no bias
        groups: list[dict[str, Any]] = [{"params": parts[True]}, {"params": parts[False], "weight_decay": 0.0}]
        self._optimizer = torch.optim.SGD(
            groups,
            lr=o.learning_rate,
            momentum=o.momentum,
            weight_decay=o.weight_decay,
            nesterov=o.nesterov,
            fused=True,
        )
        x = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
        self._batch = x, torch.from_numpy(labels.copy()).long().to(device)
        self._autocast = partial(torch.autocast, device, torch.bfloat16, enabled=twin.autocast)
        self._loss = partial(F.cross_entropy, label_smoothing=o.label_smoothing)
        if self._cuda:
            eager = self._model
            try:
                self._model = torch.compile(eager, mode=mode)
                self()
                self.how.append("torch.compile" if mode == "default" else f"torch.compile {mode}")
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the compiler needs tools that many machines lack, and fails in many ways
                self._model = eager
                self.how.append(f"torch.compile failed: {type(error).__name__}")

    def advance(self) -> Tensor:
        """Takes a step; on a GPU it may still be under way."""
        x, y = self._batch
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._loss(self._model(x), y)
        loss.backward()
        self._optimizer.step()
        return loss

    def wait(self) -> None:
        """Waits for all that is under way."""
        if self._cuda:
            torch.cuda.synchronize()

    def __call__(self) -> float:
        loss = self.advance().item()
        self.wait()  # for the optimizer's kernels, which come after the loss
        return loss
