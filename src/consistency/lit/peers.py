"""The other processes of a distributed run: whether their settings are the same, and whether they live."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from consistency.errors import UserError
from consistency.files.directory import NAME
from consistency.metrics.processes import everybodys, rank, world
from consistency.process import stops

SECONDS = 1.0  # between two checks of the other processes; one that is missing twice has died
LOOKS = 0.5  # seconds between two checks of a flag
LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout")

Facts = Mapping[str, object]  # settings by name, which must be the same on every process


def check_same_facts(facts: Facts) -> None:
    """Refuse to continue where the settings of processes differ.

    Raises:
        UserError: on the first process; the others exit without a message.
    """
    first, *others = everybodys({key: str(value) for key, value in facts.items()})
    for number, other in enumerate(others, 1):
        for key in [*first, *(key for key in other if key not in first)]:
            if first.get(key) != other.get(key):
                refuse_difference(key, first.get(key, "absent"), number, other.get(key, "absent"))


def refuse_difference(key: str, ours: str, number: int, theirs: str) -> None:
    """Name the difference to process `number` in an error on the first process; exit on the others."""
    if rank():
        sys.exit(0)  # with any other status Lightning would kill the first process before it prints the error
    raise UserError(
        f"the processes of this run differ: {key} is {ours} on process 0 and {theirs} on process {number}; "
        "start all with the same command from the same files, and run_dir=PATH on a disk that all of them see"
    )


class Flag:
    """A flag that any process of a group can set and all can read, without waiting for each other.

    Args:
        name: of the flag.
    """

    def __init__(self, name: str) -> None:
        self._store, self._name = dist.distributed_c10d._get_default_store(), name
        self._up, self._looked = False, -LOOKS

    def set(self) -> None:
        """Set the flag."""
        if not self._up:
            self._store.set(self._name, "up")
            self._up = True

    def is_set(self) -> bool:
        """Whether a process has set it; the answer is at most `LOOKS` seconds old."""
        if not self._up and time.monotonic() - self._looked >= LOOKS:
            self._up, self._looked = self._store.check([self._name]), time.monotonic()
        return self._up


class Peers:
    """Watches the processes of a group, and ends this one when another has died; one process prints a line.

    Otherwise collectives would wait for half an hour for the dead process, or fail with pages of addresses.

    Args:
        directory: of the run; its lock file is empty once the first process has ended by itself.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._here = socket.gethostname()
        self._processes = everybodys((self._here, os.getpid()))
        self._me, self._done, self._ending = rank(), threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peers")

    def watch(self) -> None:
        """Begin to watch, in place of Lightning."""
        disable_observer()
        self._thread.start()

    def close(self) -> None:
        """Stop watching: from now on the others may end."""
        self._done.set()

    def dead(self) -> list[int]:
        """Numbers of the processes of this machine that have died."""
        local = ((number, pid) for number, (host, pid) in enumerate(self._processes) if host == self._here)
        return [number for number, pid in local if not is_alive(pid)]

    def end(self, patience: float = 5.0) -> None:
        """Print which processes have died, and exit without any clean-up that would wait for them.

        Args:
            patience: seconds to wait until a death can be seen.
        """
        with self._ending:
            deadline = time.monotonic() + patience
            while not (dead := self.dead()) and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._prints(dead):
                print(f"{missing(dead, len(self._processes))}: {stops.current()}", file=sys.stderr)
            if self._me == 0:
                with suppress(OSError):
                    (self.directory / NAME).write_bytes(b"")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def _prints(self, dead: list[int]) -> bool:
        """Whether this process is the first one alive, and the first of all has not ended by itself."""
        first = next(number for number in range(len(self._processes)) if number not in dead)
        if self._me != first:
            return False
        return self._me == 0 or (self.directory / NAME).stat().st_size > 0

    def _watch(self) -> None:
        before: list[int] = []
        while not self._done.wait(SECONDS):
            dead = self.dead()
            if dead and dead == before and not self._done.is_set():
                self.end()
            before = dead


def exit_after_loss() -> None:
    """End a process that has lost another one before `Peers` was set up; the first process prints the error.

    The first process of each machine prints a line as well, as it may never have reached the first of all.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print("another process of this run has ended, or cannot be reached", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # with any other status Lightning would kill the first process before it prints the error


def disable_observer() -> None:
    """Stop Lightning's thread that kills this process without a message when one of its children dies."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # the thread ends when none is left


def missing(dead: list[int], count: int) -> str:
    """Which processes have died, as a sentence."""
    if not dead:
        return f"another of {count} processes has died or cannot be reached"
    numbers = " and ".join(map(str, dead))
    return f"process{'es' * (len(dead) > 1)} {numbers} of {count} {'have' if len(dead) > 1 else 'has'} died"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user, or a system without /proc
        return True
    return state not in ("Z", "X")


def is_lost(error: BaseException | None) -> bool:
    """Whether an error says that another process cannot be reached."""
    while error is not None:
        if isinstance(error, dist.DistError):
            return True
        if isinstance(error, RuntimeError | ConnectionError) and any(word in str(error) for word in LOST):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def all_processes_agree(facts: Facts, directory: Path) -> Iterator[None]:
    """A context for work of all processes of a group: they compare their settings and watch each other.

    Args:
        facts: settings that must be the same on all.
        directory: of the run.
    """
    if world() == 1:
        yield
        return
    check_same_facts(facts)
    peers = Peers(directory)
    peers.watch()
    try:
        yield
    except Exception as error:
        if is_lost(error):
            peers.end()
        raise
    finally:
        peers.close()
