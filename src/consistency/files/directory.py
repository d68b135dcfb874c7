"""One run in a directory at a time."""

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
    """Work in a directory that no other run works in meanwhile.

    The system lets go of the lock when the process ends, however it does: none is ever stale. The file stays;
    it says who holds the lock, and is empty when nobody does. A process that is killed leaves it filled.

    A file system may have no locks. The run then goes on, and says so: it is the rule that nobody else works
    there, for directories have names of their own, and refusing would forbid such a system altogether.

    Args:
        directory: of the run.
        first: whether this process is the first of its group; others rely on its lock.

    Raises:
        UserError: another run works there; or a link in it leads out of it, where a run would write.
    """
    check_inside(directory, FOLDERS)
    lock = lock_directory(directory) if first else None
    if lock is None:
        yield
        return
    try:
        tell_holder(directory)
        yield
    finally:
        with suppress(OSError):
            (directory / NAME).write_bytes(b"")
        lock.release()


def lock_directory(directory: Path) -> FileLock | None:
    """The lock of a directory, which is made; None where there are none."""
    directory.mkdir(parents=True, exist_ok=True)
    check_own(directory / NAME)
    by = holder(directory)  # before older versions of filelock empty the file
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


def tell_holder(directory: Path) -> None:
    """Write down who works in a directory, for people."""
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # of a full disk, which others will report
        (directory / NAME).write_text(json.dumps(about) + "\n", "utf-8")


def holder(directory: Path) -> str:
    """Who works in a directory, in words; empty where nobody says so."""
    try:
        about = json.loads((directory / NAME).read_text("utf-8"))
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return ""
