"""The name of a run without a run_dir: the same on all its processes, and unlike that of any other run."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from consistency.process.rank import is_first
from consistency.process.stops import put_off

VARIABLE = "CONSISTENCY_RUN"  # read by configs/train.yaml and eval.yaml
LOCK = ".lock"  # file in the directory of a run
PATIENCE = timedelta(minutes=10)  # to wait for the name from the first process

_stores: list[object] = []  # keeps the store alive that this process serves to the others


@contextmanager
def name_run() -> Iterator[None]:
    """Set the environment variable `VARIABLE` to the name of the run inside the block.

    A value that is there already may be that of another run which started this process; it is used only by
    the processes that Lightning starts for a run.
    """
    former = os.environ.get(VARIABLE)
    if not (former and started_by_lightning()):
        os.environ[VARIABLE] = make_name()
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if former is not None:
            os.environ[VARIABLE] = former


def started_by_lightning() -> bool:
    """Whether Lightning started this process for a run that has begun on another."""
    foreign = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ
    return not foreign and os.environ.get("LOCAL_RANK", "0") != "0" and "WORLD_SIZE" in os.environ


def make_name() -> str:
    """A name that is the same on every process of a group, and on no other."""
    if several("SLURM_NTASKS") and "SLURM_JOB_ID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return slurm_name()
    if several("WORLD_SIZE") and "TORCHELASTIC_RUN_ID" in os.environ:
        return shared_name(unique_name())
    return unique_name()


def unique_name() -> str:
    """The time and four random characters, as two runs may start in the same second."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(2)}"


def several(variable: str) -> bool:
    """Whether a variable of a launcher counts more than one process."""
    return int(os.environ.get(variable) or 1) > 1


def slurm_name() -> str:
    """The numbers of job and step, and of restarts of the job, which are the same for all tasks."""
    job, step = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID", "0")
    again = os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"slurm-{job}.{step}" + (f"-{again}" if again != "0" else "")


def shared_name(mine: str) -> str:
    """The name that the first process chose, over the store through which torchrun's processes connect."""
    with put_off():
        from torch.distributed import TCPStore

        of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=is_first() and not of_agent,
            timeout=PATIENCE,
            wait_for_workers=False,
            multi_tenant=True,  # the process group uses the same port later
        )
    _stores.append(store)
    key = f"consistency/run/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_first():
        store.set(key, mine)
    return store.get(key).decode()
