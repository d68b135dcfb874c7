"""What is a run called where nobody gave it a directory? The same on all its processes, and like no other."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from consistency.process.rank import is_first
from consistency.process.stops import put_off

VARIABLE = "CONSISTENCY_RUN"  # read by configs/train.yaml and eval.yaml
LOCK = ".lock"  # in the directory of a run, for as long as it is at work
PATIENCE = timedelta(minutes=10)  # for the first process to say its name

_stores: list[object] = []  # a store that this process serves to the others must stay alive


@contextmanager
def name_run() -> Iterator[None]:
    """Name the run, once for all its processes, for the time of the block.

    The name is not taken from the environment, where a run that started this process may have left its own,
    but by the processes that Lightning starts for a run: they belong to it.
    """
    former = os.environ.get(VARIABLE)
    if not (former and started_by_lightning()):
        os.environ[VARIABLE] = name()
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if former is not None:
            os.environ[VARIABLE] = former


def started_by_lightning() -> bool:
    """Whether a run started this process as one of its own."""
    foreign = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ
    return not foreign and os.environ.get("LOCAL_RANK", "0") != "0" and "WORLD_SIZE" in os.environ


def name() -> str:
    """The same on every process of a group, and on no other."""
    if several("SLURM_NTASKS") and "SLURM_JOB_ID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return slurm()
    if several("WORLD_SIZE") and "TORCHELASTIC_RUN_ID" in os.environ:
        return shared_name(unique())
    return unique()


def unique() -> str:
    """The time, and four characters at random: two runs may begin in the same second."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(2)}"


def several(variable: str) -> bool:
    """Whether a launcher says that there is more than one process."""
    return int(os.environ.get(variable) or 1) > 1


def slurm() -> str:
    """By the numbers of job and step, and how often the job was requeued: all tasks see the same."""
    job, step = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID", "0")
    again = os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"slurm-{job}.{step}" + (f"-{again}" if again != "0" else "")


def shared_name(mine: str) -> str:
    """The first process's name, through the store by which torchrun's processes find each other."""
    with put_off():
        from torch.distributed import TCPStore

        of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=is_first() and not of_agent,
            timeout=PATIENCE,
            wait_for_workers=False,
            multi_tenant=True,  # the process group will meet at the same port
        )
    _stores.append(store)
    key = f"consistency/run/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_first():
        store.set(key, mine)
    return store.get(key).decode()
