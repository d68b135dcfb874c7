"""A lock for a folder, so that one process at a time works in it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(directory: Path, beat: Callable[[], object], seconds: float = 1.0) -> Iterator[None]:
    """Create and lock a folder; the operating system releases the lock when the process ends in any way.

    Args:
        directory: the folder.
        beat: called regularly while another process has the lock.
        seconds: between two calls of `beat`.
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
    """Wait for a lock for some seconds; returns whether it was acquired."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True
