"""Planning past this machine: what a run would need and how long its step would take on devices that are not here.

    python -m resjax.plan --config=configs/imagenet.py:v1.5-50 --devices=256 --config.batch_size=8192

`compile` compiles the real training step, `collectives` reads what it sends, `memory` counts what it keeps, `load`
holds what one device has to do, `devices` is the table of device kinds, `estimate` the model of time.
"""
