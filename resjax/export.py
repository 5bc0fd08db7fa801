"""Writes a finished network as one StableHLO program, weights included, that runs without resjax.

    python -m resjax.export --workdir=runs/photos --out=photos.stablehlo

    exported = jax.export.deserialize(bytearray(open("photos.stablehlo", "rb").read()))
    logits = jax.jit(exported.call)(images)  # uint8 [N, S, S, C] -> float32 [N, K]

The number of images is left open, and the program is for CPU, CUDA and TPU. S, the names of the classes and how
photos are resized and cropped to S x S are in photos.stablehlo.json beside it: that much is up to the caller, as
photos have all sizes. With --preprocessing=outside so is normalisation: images are float32, (pixels - mean) / std.

JAX reads a program that it has written for at least six months. Calling one runs what is in it: load only files
that you trust, with flatbuffers installed beside JAX. exported.mlir_module() is its StableHLO as text.

ONNX is not written here: jax2onnx, which makes it from JAX functions, asks for an older Orbax than resjax does, so
it needs an environment of its own. python -m resjax.weights export writes the weights for PyTorch, which has an
ONNX exporter.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import dataclasses
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from absl import flags

from resjax import cli, files
from resjax.data.augment.device import Normalization, normalize
from resjax.errors import DONE, BadInput
from resjax.member import WEIGHTS, say
from resjax.models.resnet import ResNet
from resjax.predictor.load import named
from resjax.predictor.predictor import Predictor

PLATFORMS = ("cpu", "cuda", "tpu")
WHERE = ("inside", "outside")


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "A run.", flag_values=values)
    said = f"A file or folder of weights, or hf://OWNER/NAME; with --workdir {', '.join(WEIGHTS)} of the run."
    flags.DEFINE_string("weights", None, said, flag_values=values)
    flags.DEFINE_string("arch", None, "The network of a file, a name of configs/imagenet.py.", flag_values=values)
    flags.DEFINE_enum("preprocessing", WHERE[0], WHERE, "Where pixels are normalised.", flag_values=values)
    flags.DEFINE_string("out", None, "The new file.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define, config=False)
    if not values.out:
        raise BadInput("--out is missing: give a new file, such as model.stablehlo")
    out, beside = (files.new("--out", values.out + ending) for ending in ("", ".json"))
    model = named(values.workdir, values.weights, values.arch)
    for note in model.notes:
        say(f"note      {note}")
    inside = values.preprocessing == WHERE[0]
    try:
        content = exported(model, inside).serialize()
    except ImportError as error:  # an environment that is older than this command
        raise BadInput(f"--out={out} is written with flatbuffers: pip install flatbuffers") from error
    try:
        files.replace(out, bytes(content))
        files.write_json(beside, described(model, inside))
    except OSError as error:
        raise BadInput(f"--out={out} could not be written ({error.strerror}); give another file") from error
    say(f"written   {out}, {len(content):,} bytes for {', '.join(PLATFORMS)}; {beside}")
    return DONE


def exported(model: Predictor, inside: bool) -> jax.export.Exported:
    """Images [N, S, S, C] -> logits float32 [N, K], N open; uint8 if they are normalised inside, else float32."""
    # The products of `models.convolution` are for the CPU that traces them, and one program is for all platforms.
    network = ResNet(dataclasses.replace(model.spec, convolution="xla"))
    variables = jax.device_get(model.variables)
    normalization = Normalization.of(model.preprocessing)

    def run(images: jax.Array) -> Any:
        x = normalize(images, normalization) if inside else images
        return network.apply(variables, x, train=False)

    (n,) = jax.export.symbolic_shape("n")
    shape = (n, model.side, model.side, model.preprocessing.channels)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8 if inside else jnp.float32)
    return jax.export.export(jax.jit(run), platforms=PLATFORMS)(images)


def described(model: Predictor, inside: bool) -> dict[str, Any]:
    """What a caller of the program must know, as JSON values."""
    own = model.preprocessing
    return {
        "input": {
            "dtype": str(np.dtype(np.uint8 if inside else np.float32)),
            "shape": ["n", model.side, model.side, own.channels],
            "normalized": "by the program" if inside else "by the caller: (pixels - mean) / std",
        },
        "output": {"dtype": "float32", "shape": ["n", model.spec.num_classes], "is": "logits"},
        "preprocessing": own.json(),
    }


if __name__ == "__main__":
    cli.run(main)
