"""The other processes of a run: are they doing the same, and are they alive?"""

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

SECONDS = 1.0  # between two looks; who is missing twice has died
LOOKS = 0.5  # seconds between two looks at a flag
LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout")

Facts = Mapping[str, object]  # by name; what every process must say alike


def check_same_facts(facts: Facts) -> None:
    """Refuse to go on where processes of a group would do different things.

    Raises:
        UserError: on the first process; the others leave in silence, for the first says why.
    """
    first, *others = everybodys({key: str(value) for key, value in facts.items()})
    for number, other in enumerate(others, 1):
        for key in [*first, *(key for key in other if key not in first)]:
            if first.get(key) != other.get(key):
                refuse(key, first.get(key, "absent"), number, other.get(key, "absent"))


def refuse(key: str, ours: str, number: int, theirs: str) -> None:
    """Name what differs."""
    if rank():
        sys.exit(0)  # with any other status Lightning would kill the first process before it says why
    raise UserError(
        f"the processes of this run differ: {key} is {ours} on process 0 and {theirs} on process {number}; "
        "start all with the same command from the same files, and run_dir=PATH on a disk that all of them see"
    )


class Flag:
    """A mark that any process of a group sets and all see, none of which waits for another.

    Args:
        name: of the mark.
    """

    def __init__(self, name: str) -> None:
        self._store, self._name = dist.distributed_c10d._get_default_store(), name
        self._up, self._looked = False, -LOOKS

    def raise_(self) -> None:
        """Set it."""
        if not self._up:
            self._store.set(self._name, "up")
            self._up = True

    def is_up(self) -> bool:
        """Whether a process has set it, at most `LOOKS` seconds ago."""
        if not self._up and time.monotonic() - self._looked >= LOOKS:
            self._up, self._looked = self._store.check([self._name]), time.monotonic()
        return self._up


class Peers:
    """Ends this process, with one line on the first one left, soon after another of the group has died.

    Collectives may wait for half an hour for a process that is no more, or fail with pages of addresses.

    Args:
        directory: of the run, whose lock file is empty once the first process has ended by itself.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._here = socket.gethostname()
        self._processes = everybodys((self._here, os.getpid()))
        self._me, self._done, self._ending = rank(), threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peers")

    def watch(self) -> None:
        """Begin to look after the others, in place of Lightning."""
        relieve_observer()
        self._thread.start()

    def close(self) -> None:
        """Look no longer: from now on they may leave."""
        self._done.set()

    def dead(self) -> list[int]:
        """Processes of this machine that have died."""
        local = ((number, pid) for number, (host, pid) in enumerate(self._processes) if host == self._here)
        return [number for number, pid in local if not is_alive(pid)]

    def end(self, patience: float = 5.0) -> None:
        """Say who has died, and leave without any clean-up that would wait for them."""
        with self._ending:
            deadline = time.monotonic() + patience
            while not (dead := self.dead()) and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._speaks(dead):
                print(f"{missing(dead, len(self._processes))}: {stops.current()}", file=sys.stderr)
            if self._me == 0:
                with suppress(OSError):
                    (self.directory / NAME).write_bytes(b"")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def _speaks(self, dead: list[int]) -> bool:
        """Whether this process is the first one left, and the first of all has not ended by itself."""
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


def leave_unmet() -> None:
    """End a process whose group has lost another before all had met; the first one says why, where it can.

    A process of another machine says so itself, for there the first one may never have been reached.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print("another process of this run has ended, or cannot be reached", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # with any other status Lightning would kill the first process before it says why


def relieve_observer() -> None:
    """Stop Lightning's thread that kills this process, without a word, when one that it started has died."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # it ends when none of them is left


def missing(dead: list[int], count: int) -> str:
    """Who has died, in words."""
    if not dead:
        return f"another of {count} processes has died or cannot be reached"
    numbers = " and ".join(map(str, dead))
    return f"process{'es' * (len(dead) > 1)} {numbers} of {count} {'have' if len(dead) > 1 else 'has'} died"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # of another user, or no such place on this system
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
def in_step(facts: Facts, directory: Path) -> Iterator[None]:
    """Work that all processes of a group do alike; alone, simply work.

    Args:
        facts: what they must agree in.
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
