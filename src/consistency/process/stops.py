"""Ctrl-C and SIGTERM at any moment: one exception, and one sentence on what is saved."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from consistency.process.rank import is_first

STOPPING = (signal.SIGINT, signal.SIGTERM)

Account = Callable[[], str]  # what is saved, and how to go on


def nothing_begun() -> str:
    """The account of a process that has done nothing yet."""
    return "nothing has been begun, and nothing was changed: repeat the command"


class _Accounts:
    """The account that holds now, and those that it stands inside of."""

    def __init__(self) -> None:
        self.now: Account = nothing_begun
        self.depth = 0


class _Signals:
    """What has come since signals are heard, and whether it waits."""

    def __init__(self) -> None:
        self.any = False
        self.came: Stopped | None = None  # kept, for a library may turn it into an error of its own
        self.waits = False


class Listener(Protocol):
    """What notes signals in place of `stop`, and ends the process between two pieces of work."""

    def between(self) -> None:
        """End the work here if this process, or another of its group, has been told to stop."""
        ...

    def together(self) -> None:
        """The same at a place that all processes of the group come to, and where they wait for each other."""
        ...


class _Listeners:
    """The one that is at work; None where a signal takes effect at once."""

    def __init__(self) -> None:
        self.now: Listener | None = None


_accounts = _Accounts()
_signals = _Signals()
_listeners = _Listeners()


class Stopped(BaseException):
    """The process was told to stop by a signal.

    Not an `Exception`, so that no library takes it for a failure that it may pass over; and no
    `KeyboardInterrupt`, for which Lightning has a message and an exit status of its own.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum
        self.account = _accounts.now

    def line(self) -> str:
        """For the user."""
        return f"stopped by {self}: {self.account()}"


class Interrupted(Stopped):
    """The run was asked to stop, and did so between two pieces of work, when all is as it should be.

    Args:
        signum: the signal.
        step: optimiser steps made, which are saved then; None outside training.
    """

    def __init__(self, signum: int, step: int | None = None) -> None:
        super().__init__(signum)
        self.step = step


@contextmanager
def account(now: Account) -> Iterator[None]:
    """What to say when a signal comes inside the block; of the outermost one, also after it."""
    former, _accounts.now = _accounts.now, now
    _accounts.depth += 1
    try:
        yield
    finally:
        _accounts.depth -= 1
        if _accounts.depth:
            _accounts.now = former


def settle_account(now: Account) -> None:
    """Replace the account of the block that is at work: something has been finished."""
    _accounts.now = now


def current() -> str:
    """The account that holds now."""
    return _accounts.now()


def stop(signum: int, frame: object = None) -> None:
    """A handler of signals: raise `Stopped`, now or when the work begins; a second one ends the process."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_DFL)
    mark_signal()
    _signals.came = Stopped(signum)
    if not _signals.waits:
        raise _signals.came


def mark_signal() -> None:
    """Note that a signal has come, in a handler that does not raise `Stopped` itself."""
    _signals.any = True


def has_come() -> bool:
    """Whether the process has been told to stop."""
    return _signals.any


def listen(listener: Listener | None) -> None:
    """Ask this listener between two pieces of work from now on; None for no one."""
    _listeners.now = listener


def stop_between() -> None:
    """Call it between two pieces of long work: whoever listens may end it here."""
    if _listeners.now is not None:
        _listeners.now.between()


def stop_together() -> None:
    """Call it once on every process of a group, after long work whose pieces they have shared."""
    if _listeners.now is not None:
        _listeners.now.together()


def raise_again() -> None:
    """Raise the `Stopped` that waits, or that a library has swallowed or turned into an error of its own.

    A signal in the middle of a library's work leaves its objects half made, and cleaning up after the
    exception may fail on them: OmegaConf then raises an `AttributeError`, of which `Stopped` is no cause.
    """
    _signals.waits = False
    if _signals.came is not None:
        raise _signals.came from None


@contextmanager
def heard(waits: bool = False) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped`.

    Args:
        waits: raise it no earlier than at `raise_again`, where the short work of a library comes first.
    """
    _signals.any, _signals.came, _signals.waits = False, None, waits
    former = {signum: signal.signal(signum, stop) for signum in STOPPING}
    try:
        yield
    finally:
        for signum, handler in former.items():
            if signal.getsignal(signum) is stop:  # not where one has come, or `end_at_once` was called
                signal.signal(signum, handler)


@contextmanager
def put_off() -> Iterator[None]:
    """Hear signals at the end of the block only: some libraries swallow what is raised while they load."""
    came: list[int] = []

    def note(signum: int, frame: object) -> None:
        mark_signal()
        came.append(signum)

    former = {signum: signal.signal(signum, note) for signum in STOPPING}
    try:
        yield
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
    if came:
        raise Stopped(came[0])


def end_at_once() -> None:
    """From now on say the account and leave: all is done, and no library that is being closed may object."""

    def leave(signum: int, frame: Any) -> None:
        say_stopped(Stopped(signum))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signum)

    for signum in STOPPING:
        signal.signal(signum, leave)


def ignore_at_exit() -> None:
    """Ignore signals once the interpreter has nothing left to do, after all that libraries do at its exit.

    Python would give them back to the system there, which ends a process that has finished with their status
    and without a line.
    """
    atexit.register(lambda: [signal.signal(signum, signal.SIG_IGN) for signum in STOPPING])


def end_within(seconds: float, status: int) -> None:
    """End the process by then, even if a thread of a library that the signal cut short never ends.

    Args:
        seconds: from now.
        status: to end with.
    """
    timer = threading.Timer(seconds, os._exit, [status])
    timer.daemon = True  # nothing waits for it
    timer.start()


def say_stopped(stopped: Stopped) -> None:
    """Print the line, on the first process of a group."""
    if is_first():
        print(stopped.line(), file=sys.stderr, flush=True)
