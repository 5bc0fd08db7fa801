"""What weight decay does to the gates' bias b_g (v2 section 3.1), on the digits.

    python -m resjax.sweep --sweep=configs/sweeps/gate_decay.py --workdir=runs/gate_decay

b_g starts at -6 and is a parameter. `all` decays it with every other one, `kernels` does not. The sum of learning
rate times decay over the 300 epochs is 0.34, as in the papers' 64k iterations: decay alone would take b_g to -0.2.
Of a run's end:

    run, state = resjax.experiment.load("runs/gate_decay/runs/all/seed0")
    state.params["stage1"]["unit0"]["gate"]["conv1"]["bias"]
"""

from resjax.sweep import Sweep


def get_sweep() -> Sweep:
    gated = {"model.gate": "shortcut_only", "model.gate_bias": -6.0, "total_epochs": 300.0}
    return Sweep(
        "configs/digits.py:v1-20",
        {mask: {**gated, "optimizer.decay_mask": mask} for mask in ("all", "kernels")},
        seeds=(0, 1, 2),
    )
