"""The lock of a run directory, in which one run works at a time."""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from consistency.errors import UserError
from consistency.files.owned import check_inside, check_own
from consistency.process.naming import LOCK as NAME

LOGS = ("csv", "mlflow", "tensorboard", "trackio", "wandb")
FOLDERS = ("cache", "checkpoints", "samples", "teacher", *LOGS)  # of a run, in its directory
LOCKLESS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # of file systems without locks


@contextmanager
def alone_in(directory: Path, first: bool = True) -> Iterator[None]:
    """Hold the lock of a run directory inside the block.

    The system releases the lock when the process ends in any way, so that no lock is ever stale. The file
    remains: it names the holder, and is empty when the lock was released. A killed process leaves it filled.

    Where a file system has no locks, a line is printed and the run goes on without one: two runs rarely have
    the same directory, and such file systems could not be used otherwise.

    Args:
        directory: of the run.
        first: whether this process is the first of its group, which alone takes the lock.

    Raises:
        UserError: another run holds the lock; or a link in the directory leads out of it.
    """
    check_inside(directory, FOLDERS)
    lock = lock_directory(directory) if first else None
    if lock is None:
        yield
        return
    try:
        write_holder(directory)
        yield
    finally:
        with suppress(OSError):
            (directory / NAME).write_bytes(b"")
        lock.release()


def lock_directory(directory: Path) -> FileLock | None:
    """Take the lock of a directory, which is made; None where the file system has no locks."""
    directory.mkdir(parents=True, exist_ok=True)
    check_own(directory / NAME)
    by = lock_holder(directory)  # read first, as older versions of filelock empty the file
    lock = FileLock(directory / NAME, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"run_dir={directory} is in use{by and f' by {by}'}: wait until that run has ended, or choose "
            "another run_dir"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in LOCKLESS:
            raise
        print(f"{directory} lies on a file system without locks: start no other run there", file=sys.stderr)
        return None
    return lock


def write_holder(directory: Path) -> None:
    """Write process, host and time to the file of the lock."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # of a full disk, which later writes report
        (directory / NAME).write_text(json.dumps(holder) + "\n", "utf-8")


def lock_holder(directory: Path) -> str:
    """The holder of a lock as text; empty where the file has none."""
    try:
        holder = json.loads((directory / NAME).read_text("utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return ""
