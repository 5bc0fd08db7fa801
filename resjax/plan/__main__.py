"""Plans a run on devices that are not here: memory, arithmetic, messages, time of a step, scaling.

    python -m resjax.plan --config=configs/imagenet.py:v1.5-50 --devices=256 --config.batch_size=8192

It compiles the real training step for that many devices, from shapes alone: nothing runs, no state is made, no data
set is opened. Times are estimates from published peaks; `resjax/plan/estimate.py` states the model, and
`resjax/plan/devices.py` the figures with their sources.
"""

from resjax import interrupt

if __name__ == "__main__":
    interrupt.leave_at_once()  # before the imports, which take seconds

import json
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from resjax import checks, cli, files
from resjax.errors import DONE, BadInput, unknown
from resjax.models import counts
from resjax.plan import report
from resjax.plan.compile import measure
from resjax.plan.devices import KINDS
from resjax.plan.estimate import SCALES, Assumed, estimate, scaling


def define(values: flags.FlagValues) -> None:
    usual = Assumed()
    flags.DEFINE_integer("devices", None, "Devices to plan for.", flag_values=values)
    flags.DEFINE_string("kind", "v5e", f"For the scaling: {', '.join(KINDS)}.", flag_values=values)
    flags.DEFINE_float(
        "efficiency", usual.efficiency, "Share of published peaks that is reached.", flag_values=values
    )
    flags.DEFINE_float("overlap", usual.overlap, "Share of the work that hides communication.", flag_values=values)
    flags.DEFINE_boolean("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_string("out", None, "Also write the JSON into this file.", flag_values=values)


def main(argv: list[str]) -> int:
    values = cli.parse(argv, define)
    config, devices = values.config, values.devices
    if devices is None or devices < 1:
        raise BadInput(f"--devices={devices}: give the number of devices to plan for, such as --devices=256")
    if values.kind not in KINDS:
        raise BadInput(unknown("--kind", values.kind, KINDS))
    if not 0 < values.efficiency <= 1:
        raise BadInput(f"--efficiency={values.efficiency}: must lie in (0, 1]")
    if not 0 <= values.overlap <= 1:
        raise BadInput(f"--overlap={values.overlap}: must lie in [0, 1]")
    if values.out and not Path(values.out).absolute().parent.is_dir():
        raise BadInput(f"--out={values.out}: there is no such folder; make it first")
    kind = KINDS[values.kind]
    if kind.network is None and max(devices, *SCALES) > kind.domain:
        raise BadInput(
            f"--devices={devices}: no figure for {values.kind} beyond {kind.domain} devices is published"
        )
    config = checks.described(config)
    checks.validate(config, devices)
    if config.model.dtype == "float64":
        raise BadInput("model.dtype=float64: no device's rate for it is known here: plan with float32 or bfloat16")
    data, fsdp = checks.mesh_shape(config, devices)
    if data * fsdp != devices:
        raise BadInput(
            f"--devices={devices}: the mesh of {data} x {fsdp} takes {data * fsdp} of them; give --devices="
            f"{data * fsdp}, or mesh.data=-1 for those that are left"
        )

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # what comes out of it has no analysis
    cli.use_devices(max(2, devices))
    found = plan(changed(config, data=data, fsdp=fsdp), values.kind, Assumed(values.efficiency, values.overlap))
    print(json.dumps(found, indent=2) if values.json else report.as_text(found))
    if values.out:
        files.write_json(Path(values.out), found)
    return DONE


def plan(config: ConfigDict, kind: str, assumed: Assumed) -> dict[str, Any]:
    """What the command prints, for a config that has been validated; sizes in bytes, times in seconds, of a device.

    Raises:
      BadInput: for durations that cannot be.
    """
    load, compiled = measure(config)
    plain, check = (load, compiled) if load.spec.dtype == "float32" else measure(changed(config, dtype="float32"))
    several = load
    if load.devices == 1:  # what several devices send each other is only seen of several
        several, _ = measure(changed(config, data=2, batch_size=2 * config.batch_size))
    strong = scaling(several, KINDS[kind], assumed, config.batch_size)
    weak = scaling(several, KINDS[kind], assumed)
    return {
        "network": config.name,
        "params": counts.total(load.spec).params,
        "dtype": load.spec.dtype,
        "devices": load.devices,
        "mesh": {"data": load.data, "fsdp": load.fsdp},
        "batch_size": config.batch_size,
        "images": load.images,
        "memory": load.memory,
        "memory_total": sum(load.memory.values()),
        "compiler": compiled._asdict() | {"formula_arguments": load.arguments},
        "compiler_float32": check._asdict() | {"formula_temporaries": plain.temporaries},
        "flop": load.flop,
        "collectives": [c._asdict() | {"times": n} for c, n in load.collectives.most_common()],
        "assumed": assumed._asdict(),
        "estimates": {
            name: estimate(load, each, assumed)._asdict()
            for name, each in KINDS.items()
            if each.network is not None or load.devices <= each.domain
        },
        "kind": kind,
        "strong_scaling": [row._asdict() | {"estimate": row.estimate._asdict()} for row in strong],
        "weak_scaling": [row._asdict() | {"estimate": row.estimate._asdict()} for row in weak],
    }


def changed(config: ConfigDict, **values: Any) -> ConfigDict:
    """A copy of a config with other values of `batch_size`, the mesh's axes or `model.dtype`."""
    config = config.copy_and_resolve_references()
    for name, value in values.items():
        node = next(part for part in (config.mesh, config.model, config) if name in part)
        node[name] = value
    return config


if __name__ == "__main__":
    cli.run(main)
