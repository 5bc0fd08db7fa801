"""Joining the processes of a job, so that `jax.devices()` are those of all of them.

SLURM, Open MPI, Cloud TPU and Kubernetes tell each process its place, and JAX reads it; elsewhere flags do. `peers`
is what the processes of a job have in common beside JAX.
"""

import dataclasses
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from resjax.errors import BAD_INPUT, FAILED, BadInput
from resjax.train.meeting import PATIENCE, Meeting, meet, relay
from resjax.train.peers import Alone, Peers, say


@dataclasses.dataclass(frozen=True)
class Place:
    """One process among all of a job.

    Attributes:
      coordinator: HOST:PORT of process 0.
      gpus: the GPUs of this machine that it uses; None for all, or as $JAX_LOCAL_DEVICE_IDS says.
      hint: what to do about processes that do not come.
    """

    coordinator: str
    count: int
    index: int
    gpus: list[int] | None = None
    hint: str = ""


# Variables that all have to be set where a scheduler has started this process as one of a job: JAX's own rules.
SCHEDULERS = {
    "Open MPI": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
    "SLURM": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
}
# How many processes of the job are on this machine, by scheduler.
LOCAL = {"Open MPI": "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM": "SLURM_STEP_TASKS_PER_NODE"}
MORE_TASKS = {"Open MPI": "-npernode", "SLURM": "--ntasks-per-node"}
TPU_HINT = "a TPU slice needs the same command on every one of its workers, with gcloud by --worker=all"


def place(coordinator: str | None, count: int | None, index: int | None, timeout: float) -> Place | None:
    """The place of this process in its job, by flags or by what started it; None if it is alone.

    Raises:
      BadInput: for flags that do not fit together, and a scheduler whose answer cannot be used.
    """
    if (coordinator, count, index) != (None, None, None):
        return _by_flags(coordinator, count, index)
    scheduler = next((name for name, needed in SCHEDULERS.items() if all(v in os.environ for v in needed)), None)
    if scheduler is None and not _on_tpu():
        return None
    from jax._src import clusters  # what `jax.distributed.initialize` finds out has no public name

    # Of a slice, JAX waits here until the name of process 0 is known, and says nothing.
    waiting = threading.Timer(PATIENCE, say, [0, f"waiting for process 0 ({timeout:g} s at most): {TPU_HINT}"])
    waiting.daemon = True
    waiting.start()
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(timeout))
    except Exception as error:  # a metadata server or a node list that cannot be read
        raise BadInput(
            f"this process seems to be one of a job of {scheduler or 'a TPU slice'}, but its place cannot be found "
            f"({' '.join(str(error).split())}): {'' if scheduler else f'{TPU_HINT}; or '}give --coordinator, "
            "--num_processes and --process_id, or --num_processes=1 to run alone"
        ) from error
    finally:
        waiting.cancel()
    address, count, index, gpus = found
    if address is None or count is None or index is None or count == 1:
        return None
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:  # JAX reads it itself
        gpus = None
    if gpus is not None and scheduler in LOCAL:
        _check_gpus(scheduler)
    return Place(address, count, index, list(gpus) if gpus is not None else None, "" if scheduler else TPU_HINT)


def _by_flags(coordinator: str | None, count: int | None, index: int | None) -> Place | None:
    if count == 1 and index in (None, 0):
        return None
    if coordinator is None or count is None or index is None:
        raise BadInput("--coordinator, --num_processes and --process_id go together: give each process all three")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise BadInput(f"--coordinator={coordinator}: must be HOST:PORT of process 0, such as 10.0.0.1:8476")
    if count < 1 or not 0 <= index < count:
        raise BadInput(f"--process_id={index} of --num_processes={count}: must be at least 0 and below that number")
    return Place(coordinator, count, index)


def _on_tpu() -> bool:
    """Whether this machine has TPUs, which may be part of a slice."""
    from jax._src import cloud_tpu_init

    return cloud_tpu_init.running_in_cloud_tpu_vm and os.environ.get("JAX_PLATFORMS") != "cpu"


def _check_gpus(scheduler: str) -> None:
    """Raises BadInput if this process is the only one of its machine and would leave GPUs idle.

    Under SLURM and Open MPI JAX gives each process one GPU, that of its rank on the machine.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(visible.split(",")) if visible else len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    here = os.environ.get(LOCAL[scheduler], "").partition("(")[0]  # 8(x2): eight on each of two machines
    if here == "1" and gpus > 1:
        raise BadInput(
            f"{scheduler} started one process on this machine, and JAX would use one of its {gpus} GPUs: start one "
            f"for each, {MORE_TASKS[scheduler]}={gpus}, or give it all of them, "
            f"JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(gpus)))}"
        )


@contextmanager
def joined(where: Place | None, about: Mapping[str, Any], timeout: float) -> Iterator[Peers | Alone]:
    """Joins the job, and takes leave of it at the end. An error in one process ends all of them.

    Args:
      about: what has to be equal in all processes, as JSON values by name.
      timeout: seconds to wait for the others.

    Raises:
      BadInput: if the others do not come, or are not alike.
    """
    if where is None:
        yield Alone()
        return
    try:
        job = meet(Meeting(where.coordinator, where.index, where.count, about, timeout, where.hint))
    except BadInput as error:
        raise BadInput(f"process {where.index}: {error}" if where.index else str(error)) from error
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w")  # what is printed goes on as it did
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # and Gloo's greetings, a line a device, nowhere
    # Signals are ours (`preemption`): JAX's service would take SIGTERM from us, and knows no Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        relay(where.coordinator) if where.index else where.coordinator,
        where.count,
        where.index,
        local_device_ids=where.gpus,
        cluster_detection_method="deactivate",
        initialization_timeout=int(timeout),
    )
    try:
        devices = job.gather("devices", jax.local_device_count())
        if len(set(devices)) > 1:
            raise BadInput(f"the processes have {', '.join(map(str, devices))} devices: give each as many")
        yield job
        job.gather("done", None)  # nobody closes while another still works
        job.goodbye()
    except BadInput as error:
        job.leave(BAD_INPUT, f"error: {error}")
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            job.wait_for_loss()
        traceback.print_exc()
        job.leave(FAILED, f"error: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
