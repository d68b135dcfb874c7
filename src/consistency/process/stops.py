"""Stops by Ctrl-C and SIGTERM at any moment: one exception, and one line on what is saved."""

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

Account = Callable[[], str]  # the line on what is saved, and how to resume


def nothing_begun() -> str:
    """The line of a process that has done nothing yet."""
    return "nothing has been begun, and nothing was changed: repeat the command"


class _Accounts:
    """The present account, and the number of blocks of `account` that are open."""

    def __init__(self) -> None:
        self.now: Account = nothing_begun
        self.depth = 0


class _Signals:
    """The state of the handlers: whether a signal has arrived, its exception, and whether it is deferred."""

    def __init__(self) -> None:
        self.any = False
        self.came: Stopped | None = None  # raised again where a library has turned it into another error
        self.waits = False


class Listener(Protocol):
    """An object that handles signals in place of `stop`, and stops the process between two pieces of work."""

    def between(self) -> None:
        """Stop here if a signal has arrived at this process or another of its group."""
        ...

    def together(self) -> None:
        """The same where all processes of the group call this, and wait for each other."""
        ...


class _Listeners:
    """The registered listener; None where a signal takes effect at once."""

    def __init__(self) -> None:
        self.now: Listener | None = None


_accounts = _Accounts()
_signals = _Signals()
_listeners = _Listeners()


class Stopped(BaseException):
    """Raised when a signal stops the process.

    It is no `Exception`, which libraries might catch and ignore, and no `KeyboardInterrupt`, for which
    Lightning has its own message and exit status.

    Args:
        signum: number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum
        self.account = _accounts.now

    def line(self) -> str:
        """The line for the user."""
        return f"stopped by {self}: {self.account()}"


class Interrupted(Stopped):
    """A signal has stopped the run between two steps, or between two pieces of other work.

    Args:
        signum: number of the signal.
        step: optimiser steps made, all of them saved; None outside training.
    """

    def __init__(self, signum: int, step: int | None = None) -> None:
        super().__init__(signum)
        self.step = step


@contextmanager
def account(now: Account) -> Iterator[None]:
    """Set the account for signals inside the block; that of the outermost block also holds after it."""
    former, _accounts.now = _accounts.now, now
    _accounts.depth += 1
    try:
        yield
    finally:
        _accounts.depth -= 1
        if _accounts.depth:
            _accounts.now = former


def settle_account(now: Account) -> None:
    """Replace the account of the present block, when something has been finished."""
    _accounts.now = now


def current() -> str:
    """The line of the present account."""
    return _accounts.now()


def stop(signum: int, frame: object = None) -> None:
    """Signal handler: raise `Stopped`, at once or at `raise_again`; a second signal ends the process."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_DFL)
    mark_signal()
    _signals.came = Stopped(signum)
    if not _signals.waits:
        raise _signals.came


def mark_signal() -> None:
    """Note that a signal has arrived, in a handler that does not raise `Stopped` itself."""
    _signals.any = True


def has_come() -> bool:
    """Whether a signal has arrived."""
    return _signals.any


def listen(listener: Listener | None) -> None:
    """Register a listener, which is called between two pieces of work; None to remove it."""
    _listeners.now = listener


def stop_between() -> None:
    """Call the listener between two pieces of long work; it may stop the process here."""
    if _listeners.now is not None:
        _listeners.now.between()


def stop_together() -> None:
    """Call the listener after long work that all processes of a group have shared; all must call this."""
    if _listeners.now is not None:
        _listeners.now.together()


def raise_again() -> None:
    """Raise a `Stopped` that was deferred, or that a library has swallowed or turned into another error.

    A signal in a library's code leaves its objects half built, and cleaning up after the exception may fail
    on them: OmegaConf then raises an `AttributeError` without `Stopped` as its cause.
    """
    _signals.waits = False
    if _signals.came is not None:
        raise _signals.came from None


@contextmanager
def heard(waits: bool = False) -> Iterator[None]:
    """Raise `Stopped` on SIGINT and SIGTERM inside the block.

    Args:
        waits: defer it to `raise_again`, where a library does short work first.
    """
    _signals.any, _signals.came, _signals.waits = False, None, waits
    former = {signum: signal.signal(signum, stop) for signum in STOPPING}
    try:
        yield
    finally:
        for signum, handler in former.items():
            if signal.getsignal(signum) is stop:  # not after a signal or `end_at_once`
                signal.signal(signum, handler)


@contextmanager
def put_off() -> Iterator[None]:
    """Defer signals to the end of the block: some libraries swallow exceptions while they are imported."""
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
    """From now on, exit directly on a signal: all is done, and an exception might reach a closing library."""

    def leave(signum: int, frame: Any) -> None:
        say_stopped(Stopped(signum))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signum)

    for signum in STOPPING:
        signal.signal(signum, leave)


def ignore_at_exit() -> None:
    """Ignore signals at the exit of the interpreter, after the exit handlers of libraries.

    Python restores the default handlers there, which would end a finished process with the signal's status.
    """
    atexit.register(lambda: [signal.signal(signum, signal.SIG_IGN) for signum in STOPPING])


def end_within(seconds: float, status: int) -> None:
    """End the process after so many seconds, even if a thread of a library never ends after the signal.

    Args:
        seconds: from now.
        status: exit status.
    """
    timer = threading.Timer(seconds, os._exit, [status])
    timer.daemon = True  # the process may end before
    timer.start()


def say_stopped(stopped: Stopped) -> None:
    """Print the line for the user, on the first process of a group."""
    if is_first():
        print(stopped.line(), file=sys.stderr, flush=True)
