"""The rank of this process in the variables of its launcher, before the process group is set up."""

import os
from collections.abc import Mapping
from typing import Any

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of the process; where several are set, the first counts
MACHINES = ("NODE_RANK", "GROUP_RANK")  # of the machine, where the process has no rank yet


def is_first() -> bool:
    """Whether this is the first process of its group, or on its own."""
    return int(next((os.environ[key] for key in (*RANKS, *MACHINES) if os.environ.get(key)), "0")) == 0


def speaks_for(processes: Mapping[str, Any]) -> bool:
    """Whether this process may print and write: it is alone, or the first of a group.

    Args:
        processes: the section of the config with `devices` and `num_nodes`. It decides whether the process is
            alone, because a launcher may have started independent processes.
    """
    alone = processes.get("devices") == 1 and processes.get("num_nodes", 1) == 1
    return alone or is_first()
