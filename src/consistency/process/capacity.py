"""The memory of this machine, and checks of what needs memory before it is allocated."""

import os
from pathlib import Path

from consistency.errors import UserError

GIB = 2**30
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def machine_memory() -> int:
    """Bytes of main memory that this process may use."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 2**63
    return min([whole, *(limit for path in LIMITS if (limit := limit_of(Path(path))) is not None)])


def limit_of(path: Path) -> int | None:
    """The number of bytes in a file of the kernel; None where it holds `max`, or does not exist."""
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def check_memory(what: str, size: int) -> None:
    """Refuse a setting that needs more memory than the machine has.

    Args:
        what: the key with its value.
        size: bytes that it needs at least.

    Raises:
        UserError: there are fewer.
    """
    memory = machine_memory()
    if size > memory:
        needed, have = (f"{bytes_ / GIB:.3g} GiB" for bytes_ in (size, memory))
        raise UserError(f"{what} needs at least {needed} of memory, and this machine has {have}: lower it")
