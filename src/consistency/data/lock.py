"""One process at a time in a folder."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(directory: Path, beat: Callable[[], object], seconds: float = 1.0) -> Iterator[None]:
    """Hold a folder, which is made; the system lets go of it when the process ends, however it does.

    Args:
        directory: the folder.
        beat: called now and then while another process holds it.
        seconds: between two beats.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock", thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another run that works in {directory}", file=sys.stderr, flush=True)
        while not try_lock(lock, seconds):
            beat()
    try:
        yield
    finally:
        lock.release()


def try_lock(lock: FileLock, seconds: float) -> bool:
    """Try to take the lock for so long."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True
