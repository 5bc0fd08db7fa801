"""VGG-16 and VGG-19 (arXiv 1409.1556, Table 1, columns D and E) as rows of layers: to count, not to train."""

from resjax.models.layout import Layer, Layers

BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # 3x3 convolutions before each 2x2 max-pool
WIDTHS = (64, 128, 256, 512, 512)
DENSE = (4096, 4096, 1000)


def layers(depth: int) -> Layers:
    """The layers that have weights, each with a bias, on 224 x 224 images."""
    width, size, row = 3, 224, []
    for count, out in zip(BLOCKS[depth], WIDTHS, strict=True):
        for _ in range(count):
            row.append(Layer("conv", width, out, size, kernel=3, bias=0.0))
            width = out
        size //= 2
    width *= size**2
    for out in DENSE:
        row.append(Layer("dense", width, out, 1, bias=0.0))
        width = out
    return tuple(row)
