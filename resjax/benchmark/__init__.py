"""How fast networks train here, beside the same networks in PyTorch and in stock Flax.

    python -m resjax.benchmark --config=configs/cifar10.py:v1-20 --config.data.name=synthetic
    python -m resjax.benchmark --suite=cifar --limit=540
    python -m resjax.benchmark --input --config=configs/photos.py --config.data.dir=PHOTOS

`measure` takes one config in rounds, with the `parts` of its step and with its `twins`: `torch_twin` and
`flax_twin`, which `known` keeps to what they know. `suites` are rows; `conduct` measures each in a process of its
own, which is a `point` or the device's `ceilings`, and `report` makes the table. `profile` writes a trace.
`pipeline` measures how photos become batches.
"""
