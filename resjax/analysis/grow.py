"""Units appended to a trained network: a deeper network can be no worse, but training does not have to find that.

v1 section 1: copy a shallower network and let the added layers be identities. First that construction, on the run's
own weights (as in Net2Net, arXiv 1511.05641): residual units whose branch is zero, plain units whose kernels pass
every channel on and whose BN is neutral. Every logit keeps its bits. Then plain and residual units of the network's
kind with fresh weights, trained by the run's own optimizer with all else as it is: do these weights find back to
what the network had without them? v1 says that the solvers at hand do not; on the digits they do.
"""

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resjax.analysis import figure, stacks
from resjax.analysis.runs import OpenedRun, Options, Variables
from resjax.data.augment.device import Normalization, normalize
from resjax.errors import BadInput
from resjax.models import layout
from resjax.models.layers import Part
from resjax.models.layout import WEIGHTS, Layer
from resjax.models.resnet import ResNet, Stage
from resjax.models.spec import ORDERS, Spec, UnitShape
from resjax.models.units import Unit
from resjax.train import optim
from resjax.train.loss import Loss

TAKES = ("step", "images", "seeds")  # of Options
UNITS = (1, 5)  # how many are appended
SEEDS = 3
IMAGES = 2048  # at most, of the training and of the test split
RATES = (0.1, 0.01)
POINTS = 20  # of a training curve
KINDS: dict[str, dict[str, Any]] = {  # what differs from the network's own units
    "plain": {"shortcut": "none", "branch_scale": 1.0, "shortcut_pool": False, "zero_gamma": False},
    "residual": {"shortcut": "A", "shortcut_pool": False},
}
Images = tuple[jax.Array, jax.Array]  # images or features [N, ...], labels [N]


def longer(spec: Spec, more: int) -> tuple[Spec, list[UnitShape]]:
    """The network with `more` units at the end of its last stage, and the shapes of these.

    Raises:
      BadInput: if such a unit cannot be the identity.
    """
    spec = dataclasses.replace(spec, units=(*spec.units[:-1], spec.units[-1] + more))
    shapes = list(spec.unit_shapes())[-more:]
    unit, order = layout.unit(spec, shapes[0]), ORDERS[spec.order]
    if spec.shortcut == "none":
        possible = spec.inner_share == 1 and spec.activation == "relu" and not order.lead
        needs = "layers of one width with a ReLU after each"
    else:
        possible = not unit.gate and not unit.shortcut and spec.shortcut_scale == 1
        possible &= spec.activation == "relu" or "a" not in order.after
        needs = "an identity as its shortcut, without gate, scale or dropout, and no sigmoid after the addition"
    if not possible:
        raise BadInput(f"grow cannot append identities to this network: its unit would need {needs}")
    return spec, shapes


def identity(spec: Spec, shape: UnitShape) -> Variables:
    """The variables with which a unit in evaluation gives what it takes, bit for bit, if a ReLU gave that."""
    unit = layout.unit(spec, shape)
    variables: Variables = jax.device_get(fresh(spec, shape, jax.random.key(0)))
    params, stats = variables["params"], variables["batch_stats"]
    passing: tuple[Layer, ...] = unit.branch + unit.after
    if spec.shortcut != "none":
        passing = unit.after
        last = max(i for i, layer in enumerate(unit.branch) if layer.kind in WEIGHTS)
        weights, *norms = [layer.name for layer in unit.branch[last:] if layer.name]
        for name in norms or [weights]:  # BN's output is zero, or that of the weights where no BN follows
            params[name] = jax.tree.map(np.zeros_like, params[name])
    for layer in passing:
        if layer.kind == "norm":
            stats[layer.name]["var"] = np.full_like(stats[layer.name]["var"], 1 - spec.bn_epsilon)
        elif layer.kind in WEIGHTS:
            kernel = np.zeros_like(params[layer.name]["kernel"])
            middle = (layer.kernel // 2,) * 2 if layer.kind == "conv" else ()
            kernel[middle] = np.eye(layer.width, dtype=kernel.dtype)
            params[layer.name]["kernel"] = kernel
    return variables


def fresh(spec: Spec, shape: UnitShape, key: jax.Array) -> Variables:
    """`params` and `batch_stats` of one unit at the start of training."""
    side = () if spec.dense else (shape.size, shape.size)
    return stacks.start(Unit(spec, shape), key, jnp.zeros((1, *side, shape.in_width)))


def grow(spec: Spec, variables: Variables, more: int) -> tuple[Spec, Variables]:
    """The network with `more` identities at its end: another network, the same function.

    Raises:
      BadInput: if a unit of this network cannot be the identity.
    """
    spec, shapes = longer(spec, more)
    grown = {kind: dict(tree) for kind, tree in variables.items()}
    for shape in shapes:
        stage, unit = shape.path
        for kind, own in identity(spec, shape).items():
            if own:
                grown[kind][stage] = {**grown[kind][stage], unit: own}
    return spec, grown


def logits(spec: Spec, variables: Variables, images: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, K], one operation after another: as a whole, every network rounds in its own way."""
    scores: Any = ResNet(spec).apply(variables, images)
    return scores


@partial(jax.jit, static_argnums=0)
def features(spec: Spec, variables: Variables, images: jax.Array) -> jax.Array:
    """What the last unit gives, the input of the head: [N, H, W, C], or [N, C]."""
    stage = f"stage{len(spec.units)}"
    _, found = ResNet(spec).apply(
        variables,
        images,
        capture_intermediates=lambda module, _: module.path == (stage,),
        mutable=["intermediates"],
    )
    return found["intermediates"][stage]["__call__"][0]


def trained(
    run: OpenedRun, kind: str, more: int, variables: Variables, train: Images, test: Images, *, seeds: int
) -> dict[str, Any]:
    """Appends fresh units and trains them alone, as many steps as the run had, on clean images, with a cosine.

    Args:
      kind: one of `KINDS`; more: how many.
      variables: of the trained network.
      train, test: features of its last unit, and labels.

    Returns:
      `kind`, `units`, `step` [P]; `rate`, the one of `RATES` with the least training loss in the end; at it, of
      every seed, `train_loss`, `train_accuracy` and `test_accuracy` [S, P] in evaluation mode.
    """
    _, shapes = longer(run.spec, more)
    spec = dataclasses.replace(run.spec, convolution="products", scan=True, **KINDS[kind])  # as it is within a loop
    units, head = Stage(spec, tuple(shapes)), Part(run.spec, layout.head(run.spec))
    own_head = {k: {name: tree[name] for name in ("norm", "head") if name in tree} for k, tree in variables.items()}
    between = max(1, run.experiment.durations.total // POINTS)

    def loss(params: Any, stats: Any, images: Images, training: bool) -> tuple[jax.Array, Any]:
        x, labels = images
        own = {"params": params, "batch_stats": stats}
        y, updates = units.apply(own, x, training, mutable=["batch_stats"])
        scores: Any = head.apply(own_head, y, False)
        right = (scores.argmax(1) == labels).mean()
        return cross_entropy(run, scores, labels), (updates.get("batch_stats", {}), right)

    def train_once(rate_and_seed: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        rate, seed = rate_and_seed
        initial, order = jax.random.split(jax.random.key(seed))
        start = stacks.start(units, initial, train[0][:1])
        tx = optim.optimizer(run.config, optax.cosine_decay_schedule(rate, between * POINTS))

        def step(state: Any, i: jax.Array) -> tuple[Any, None]:
            params, stats, opt_state = state
            rows = jax.random.randint(jax.random.fold_in(order, i), (run.config.batch_size,), 0, len(train[1]))
            batch = (train[0][rows], train[1][rows])
            gradients, (stats, _) = jax.grad(loss, has_aux=True)(params, stats, batch, True)
            updates, opt_state = tx.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), stats, opt_state), None

        def look(state: Any) -> dict[str, jax.Array]:
            params, stats, _ = state
            train_loss, (_, train_right) = loss(params, stats, train, False)
            _, (_, test_right) = loss(params, stats, test, False)
            return {"train_loss": train_loss, "train_accuracy": train_right, "test_accuracy": test_right}

        def point(state: Any, i: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            state, _ = jax.lax.scan(step, state, i * between + jnp.arange(between))
            return state, look(state)

        state = (start["params"], start["batch_stats"], tx.init(start["params"]))
        _, later = jax.lax.scan(point, state, jnp.arange(POINTS))
        return jax.tree.map(lambda first, rest: jnp.append(first, rest), look(state), later)

    pairs = (jnp.repeat(jnp.array(RATES), seeds), jnp.tile(jnp.arange(seeds), len(RATES)))
    found = jax.device_get(jax.jit(partial(jax.lax.map, train_once))(pairs))  # of [R S, P]
    found = {name: values.reshape(len(RATES), seeds, -1) for name, values in found.items()}
    best = int(np.nanargmin(found["train_loss"][:, :, -1].mean(1)))
    steps = [i * between for i in range(POINTS + 1)]
    curves = {name: values[best].tolist() for name, values in found.items()}
    return {"kind": kind, "units": more, "step": steps, "rate": RATES[best], **curves}


def cross_entropy(run: OpenedRun, scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean loss that the run was trained with, over the least possible, which smoothed labels keep above 0."""
    loss, targets = Loss.of(run.config), jax.nn.one_hot(labels, run.spec.num_classes)  # [N, K]
    return (loss(scores, targets) - loss.least(targets)).mean()


def measure(run: OpenedRun, options: Options) -> dict[str, Any]:
    """`whole`, the network itself; `grown`, with identities; `trained`, with fresh units of each kind.

    Raises:
      BadInput: if a unit of this network cannot be the identity.
    """
    step, seeds = run.find(options.step), options.seeds or SEEDS
    longer(run.spec, 1)
    variables = run.variables(step)
    train, test = (pictures(run, split, options.images or IMAGES) for split in ("train", "test"))
    scores = logits(run.spec, variables, test[0])
    grown = []
    for more in UNITS:
        again = logits(*grow(run.spec, variables, more), test[0])
        grown.append(
            {
                "units": more,
                "test_accuracy": float((again.argmax(1) == test[1]).mean()),
                "same_bits": bool(np.array_equal(again, scores)),
            }
        )
    on_train = logits(run.spec, variables, train[0])
    own_features = tuple((features(run.spec, variables, images), labels) for images, labels in (train, test))
    return {
        **run.facts(),
        "step": step,
        "seeds": seeds,
        "images": len(train[1]),
        "test_images": len(test[1]),
        "whole": {
            "train_loss": float(cross_entropy(run, on_train, train[1])),
            "train_accuracy": float((on_train.argmax(1) == train[1]).mean()),
            "test_accuracy": float((scores.argmax(1) == test[1]).mean()),
        },
        "grown": grown,
        "trained": [
            trained(run, kind, more, variables, *own_features, seeds=seeds) for more in UNITS for kind in KINDS
        ],
    }


def pictures(run: OpenedRun, split: str, most: int) -> Images:
    """The first images of a split, without augmentation, and their labels."""
    size = min(most, run.config.batch_size)
    with closing(run.experiment.dataset.evaluate(split, size)) as batches:
        kept = list(islice(batches, -(-most // size)))
    there = np.concatenate([batch["mask"] for batch in kept]) > 0
    images, labels = (np.concatenate([batch[name] for batch in kept])[there] for name in ("image", "label"))
    own = Normalization.of(run.experiment.dataset.preprocessing)
    return normalize(jnp.asarray(images), own), jnp.asarray(labels)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """A row for each run: test errors on the left, the training loss of the appended units on the right."""
    images = "; ".join(
        dict.fromkeys(
            f"{run['images']:,} training and {run['test_images']:,} test images" for run in found.values()
        )
    )
    n = "/".join(dict.fromkeys(str(run["seeds"]) for run in found.values()))
    caption = (
        f"{figure.about(found)}; {images}, not augmented; appended units with fresh weights, trained alone, as "
        f"many steps as the run, cosine, the better rate of {' and '.join(map(str, RATES))}; bars and bands: ± "
        f"one sample standard deviation of n={n} seeds; the loss is the run's own over the least possible, in "
        "evaluation mode"
    )
    with figure.panels(path, len(found), 2, (11, 1.4 + 3.2 * len(found)), caption) as axes:
        for (left, right), (label, run) in zip(axes, found.items(), strict=True):
            errors = {"as it is": ([run["whole"]["test_accuracy"]], "k")}
            for at in run["grown"]:
                bits = "the same bits" if at["same_bits"] else "other bits"
                errors[f"{at['units']} as the identity: {bits}"] = ([at["test_accuracy"]], "k")
            for own in run["trained"]:
                colour = f"C{list(KINDS).index(own['kind'])}"
                name, style = f"{own['units']} {own['kind']}", "-" if own["units"] == UNITS[0] else "--"
                errors[f"{name}, trained"] = ([seed[-1] for seed in own["test_accuracy"]], colour)
                name += f", rate {own['rate']:g}"
                figure.band(right, own["step"], own["train_loss"], color=colour, ls=style, label=name)
            for y, (accuracies, colour) in enumerate(errors.values()):
                error = 100 * (1 - np.array(accuracies))
                std = error.std(ddof=1) if len(error) > 1 else None
                left.errorbar(error.mean(), y, xerr=std, fmt="o", color=colour, capsize=4)
            left.set_yticks(range(len(errors)), list(errors))
            left.set(title=f"{label} and units appended", xlabel="test error (%)", ylim=(len(errors) - 0.5, -0.5))
            left.set_xlim(0, 1.05 * max(left.get_xlim()[1], 0.1))
            right.axhline(
                run["whole"]["train_loss"], color="k", ls=":", lw=1.2, label="as it is, or with identities"
            )
            right.set(title=label, ylabel="training loss, over the least possible", yscale="log")
            figure.by_depth(right, "step of the appended units")
            right.legend(fontsize=8)


def profiles(found: Any) -> dict[str, list[float]]:
    """The mean training loss with appended units by step."""
    return {
        f"training loss with {own['units']} {own['kind']}": np.mean(own["train_loss"], axis=0).tolist()
        for own in found["trained"]
    }
