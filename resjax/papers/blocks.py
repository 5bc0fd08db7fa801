"""v1 Fig. 5: the two-layer block of ResNet-34 beside the bottleneck of ResNet-50, which costs about as much.

    python -m resjax.papers v1-fig5

Nothing is run: every number is counted from the layers of the two networks.
"""

from resjax import markdown
from resjax.models import counts, layout
from resjax.models.published import imagenet

NAME = "v1-fig5"
WHAT = "the two-layer block beside the bottleneck; counted, nothing to run"
NETWORKS = {"ResNet-34": "v1-34", "ResNet-50": "v1-50"}


def table() -> str:
    """The second block of both networks, where the shortcut is the identity, and the networks as they are."""
    rows, blocks, networks = [], [], []
    for label, name in NETWORKS.items():
        spec = imagenet(name)
        shape = list(spec.unit_shapes())[1]
        layers = [layer for layer in layout.unit(spec, shape).branch if layer.kind in layout.WEIGHTS]
        blocks.append(counts.added(layers))
        networks.append(counts.total(spec))
        shown = "; ".join(f"{layer.kernel}x{layer.kernel},{layer.width}" for layer in layers)
        costs = (*blocks[-1], *networks[-1])
        rows.append([label, f"{shape.in_width} x {shape.size} x {shape.size}", shown, *(f"{n:,}" for n in costs)])
    columns = ["network", "input of a block", "its layers", "its weights", "its multiply-adds"]
    columns += ["parameters in all", "multiply-adds in all"]
    block, network = (pair[1].macs / pair[0].macs for pair in (blocks, networks))
    return (
        f"# {NAME}: {WHAT}\n\nPaper: v1 Fig. 5 and section 4.1: both blocks have similar time complexity.\n\n"
        f"{markdown.table(columns, rows)}\n\n"
        f"Multiply-adds of the bottleneck over the two-layer block: {block:.3f}; of the networks: {network:.3f}."
    )
