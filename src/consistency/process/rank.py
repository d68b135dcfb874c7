"""Which process of a group is this? As its launcher says, before the group has met."""

import os
from collections.abc import Mapping
from typing import Any

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of the process; where several are set, the first counts
MACHINES = ("NODE_RANK", "GROUP_RANK")  # of the machine, where the process has no rank yet


def is_first() -> bool:
    """Whether this is the first process of its group, or on its own."""
    return int(next((os.environ[key] for key in (*RANKS, *MACHINES) if os.environ.get(key)), "0")) == 0


def speaks_for(processes: Mapping[str, Any]) -> bool:
    """Whether this process works for itself alone, or is the first of a group.

    Args:
        processes: the section of the config with `devices` and `num_nodes`, as a launcher may have started
            processes that have nothing to do with each other.
    """
    alone = processes.get("devices") == 1 and processes.get("num_nodes", 1) == 1
    return alone or is_first()
