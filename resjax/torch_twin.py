"""The network of a `Spec` in PyTorch, to measure against: the same layers, the same names, the same training step.

Only `resjax.benchmark` and its test use it; PyTorch is no dependency of resjax.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

from resjax.models.resnet import POOLED, STEMS
from resjax.models.shortcuts import projects
from resjax.models.spec import ORDERS, Spec, UnitShape


def missing(spec: Spec, config: ConfigDict) -> list[str]:
    """What this network or recipe has and the twin has not; empty where a twin can be built."""
    o = config.optimizer
    wanted = {
        "fully connected units": spec.dense,
        "no BN": spec.norm == "none",
        "gates": spec.gate != "none",
        "dropout on the shortcut": spec.shortcut_dropout > 0,
        "stochastic depth": spec.stochastic_depth > 0,
        "rematerialisation": spec.remat,
        f"optimizer.name={o.name}": o.name != "sgd",
        "gradient clipping": o.clip_norm > 0,
        "gradient accumulation": o.accumulate > 1,
        "decay of kernels only": o.decay_mask != "all",
    }
    return [name for name, present in wanted.items() if present]


class Twin(nn.Module):
    """[N, C, H, W] images -> [N, K] logits; parameters are named as in `resjax.models.resnet.ResNet`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.stem, width = nn.Module(), spec.input_channels
        for i, (kernel, share, stride) in enumerate(STEMS[spec.stem], 1):
            out = int(spec.stem_width * share)
            self.stem.add_module(f"conv{i}", conv(width, out, kernel, stride))
            self.stem.add_module(f"norm{i}", norm(spec, out))
            width = out
        self.units = []
        for shape in spec.unit_shapes():
            if shape.index == 0:
                self.add_module(f"stage{shape.stage}", nn.Module())
            unit = TwinUnit(spec, shape)
            self.get_submodule(f"stage{shape.stage}").add_module(f"unit{shape.index}", unit)
            self.units.append(unit)
        if "n" in ORDERS[spec.order].lead:
            self.norm = norm(spec, spec.widths[-1])
        self.head = nn.Linear(spec.widths[-1], spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, len(STEMS[self.spec.stem]) + 1):
            x = self.stem.get_submodule(f"norm{i}")(self.stem.get_submodule(f"conv{i}")(x))
            x = activate(self.spec, x)
        if self.spec.stem in POOLED:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for unit in self.units:
            x = unit(x)
        lead = ORDERS[self.spec.order].lead
        x = self.norm(x) if "n" in lead else x
        x = activate(self.spec, x) if lead else x
        return self.head(x.mean((2, 3)))


class TwinUnit(nn.Module):
    """`resjax.models.units.Unit`."""

    def __init__(self, spec: Spec, shape: UnitShape) -> None:
        super().__init__()
        self.spec, self.shape = spec, shape
        order, layers, width = ORDERS[spec.order], spec.weight_layers(shape), shape.in_width
        for i, (kernel, out, stride) in enumerate(layers, 1):
            tokens = order.last + order.after if i == len(layers) else order.layer
            tokens = tokens.removeprefix(order.lead) if i == 1 and shape.first else tokens
            for token in tokens:
                if token == "c":
                    self.add_module(f"conv{i}", conv(width, out, kernel, stride))
                    width = out
                elif token == "n":
                    self.add_module(f"norm{i}", norm(spec, width))
        if projects(spec, shape):
            self.shortcut = nn.Module()
            stride = 1 if spec.shortcut_pool else shape.stride
            self.shortcut.add_module("conv", conv(shape.in_width, shape.width, 1, stride))
            if not order.lead:
                self.shortcut.add_module("norm", norm(spec, shape.width))

    def forward(self, x: Tensor) -> Tensor:
        spec, order, count = self.spec, ORDERS[self.spec.order], len(self.spec.weight_layers(self.shape))
        y = x if self.shape.first else self.run(order.lead, x, 1)
        source = y if projects(spec, self.shape) else x
        for i in range(1, count + 1):
            tokens = order.last if i == count else order.layer
            y = self.run(tokens.removeprefix(order.lead) if i == 1 else tokens, y, i)
        if spec.shortcut != "none":
            y = spec.shortcut_scale * self.skip(source) + spec.branch_scale * y
        return self.run(order.after, y, count)

    def run(self, tokens: str, y: Tensor, i: int) -> Tensor:
        for token in tokens:
            y = activate(self.spec, y) if token == "a" else self.get_submodule(NAMES[token] + str(i))(y)
        return y

    def skip(self, x: Tensor) -> Tensor:
        shape, stride = self.shape, self.shape.stride
        if projects(self.spec, shape):
            if self.spec.shortcut_pool and stride > 1:
                x = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
            for part in self.shortcut.children():
                x = part(x)
            return x
        if shape.changes:
            return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, shape.width - shape.in_width))
        return x


NAMES = {"c": "conv", "n": "norm"}


def activate(spec: Spec, x: Tensor) -> Tensor:
    return F.relu(x) if spec.activation == "relu" else torch.sigmoid(x)


def conv(width: int, out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, bias=False)


def norm(spec: Spec, width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=spec.bn_epsilon, momentum=1 - spec.bn_momentum)


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


def training_step(
    twin: Twin, config: ConfigDict, images: np.ndarray, labels: np.ndarray, device: str
) -> tuple[Callable[[], float], list[str]]:
    """One training step of PyTorch at its best on `device`, and what that is in words.

    Channels last; on a GPU with cuDNN's autotuner, TF32 as XLA has it by default, bfloat16 where the spec says so,
    and `torch.compile` if it works. The returned function takes one step, waits for it and returns the loss.

    Args:
      images: [N, H, W, C]; labels: [N].
    """
    o, cuda = config.optimizer, device == "cuda"
    said = ["channels_last"]
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        said += ["cudnn.benchmark", "tf32"]
    model = twin.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=o.learning_rate,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        nesterov=o.nesterov,
        fused=True,
    )
    x = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(labels.copy()).long().to(device)
    half = twin.spec.dtype == "bfloat16"
    said += ["bfloat16 autocast"] if half else []

    def stepper(forward: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                logits = forward(x)
                loss = F.cross_entropy(logits, y, label_smoothing=o.label_smoothing)
            loss.backward()
            optimizer.step()
            return loss.item()  # waits for the loss

        return step

    step = stepper(model)
    if cuda:
        try:
            compiled = stepper(torch.compile(model))
            compiled()
            return synchronised(compiled), [*said, "torch.compile"]
        except Exception as error:  # the compiler needs a toolchain that many machines lack, and fails in many ways
            said.append(f"torch.compile failed: {type(error).__name__}")
    return synchronised(step) if cuda else step, said


def synchronised(step: Callable[[], float]) -> Callable[[], float]:
    """`step` that also waits for the optimizer's kernels, which come after the loss."""

    def waited() -> float:
        loss = step()
        torch.cuda.synchronize()
        return loss

    return waited
