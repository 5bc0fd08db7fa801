"""How fast networks train here, beside the same networks in PyTorch and in stock Flax.

    python -m resjax.benchmark --config=configs/cifar10.py:v1-20 --config.data.name=synthetic

`measure` takes one config in rounds with its twins; `known` is what the twins have in common, `torch_twin` and
`flax_twin` are the twins.
"""
