"""Does it fit into this machine? Asked before anything large is made."""

import os
from pathlib import Path

from consistency.errors import UserError

GIB = 2**30
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def machine_memory() -> int:
    """Bytes of main memory that this process may have."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 2**63
    return min([whole, *(limit for path in LIMITS if (limit := limit_of(Path(path))) is not None)])


def limit_of(path: Path) -> int | None:
    """The number of bytes in a file of the kernel; None where it says `max`, or is not there."""
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def check_memory(what: str, size: int) -> None:
    """Refuse what needs more memory than there is.

    Args:
        what: the key with its value.
        size: bytes that it takes at least.
    """
    there = machine_memory()
    if size > there:
        needed, have = (f"{bytes_ / GIB:.3g} GiB" for bytes_ in (size, there))
        raise UserError(f"{what} needs at least {needed} of memory, and this machine has {have}: lower it")
