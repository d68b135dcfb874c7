"""The edge to the shell: what went wrong in one line, and an exit status."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from consistency.command.directories import discard_made
from consistency.command.explained import causes, explain
from consistency.command.misread import check_added
from consistency.command.newest import named_last
from consistency.command.packages import trust_as_given
from consistency.command.paths import literal_arguments
from consistency.command.usage import asks_for_help, show_help
from consistency.errors import UserError, strip_controls
from consistency.files.configs import config_groups, options
from consistency.process.entry import current_entry
from consistency.process.lifeline import follow_parent, hold, send_report
from consistency.process.naming import name_run
from consistency.process.rank import is_first
from consistency.process.stops import (
    Stopped,
    end_at_once,
    end_within,
    heard,
    ignore_at_exit,
    put_off,
    raise_again,
    say_stopped,
)
from consistency.process.supported import check_supported

FLAGS = {  # of Hydra
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun"),
    *(
        "--shell-completion",
        "--config-path",
        "--config-name",
        "--config-dir",
        "--experimental-rerun",
        "--info",
    ),
}
PATIENCE = 10.0  # seconds for libraries to close after a signal
LONGEST = 1000  # characters of a line that a library may fill


def guarded(main: Callable[[], Any]) -> None:
    """Run an entry point. A user's mistake ends in one line and status 1; a bug keeps its traceback."""
    ignore_at_exit()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands exceptions on instead of printing them
    if not is_first():  # which writes what torch has to say of lost connections
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        never_fail_to_print()
        check_supported()
        check_flags(sys.argv[1:])
        trust_as_given(sys.argv[1:])
        if asks_for_help(sys.argv[1:]):
            show_help()
            return
        hold()
        sys.argv[1:] = arguments(sys.argv[1:])
        with heard(waits=True):  # for Hydra to compose the config
            run_whole(main)
    except Stopped as stopped:
        say_stopped(stopped)
        end_within(PATIENCE, stopped.status)
        sys.exit(stopped.status if is_first() else 0)  # or Lightning would kill the first process at once
    except Exception as error:
        end(error)


def never_fail_to_print() -> None:
    """Print what the encoding of the terminal lacks as an escape: σ must not end a run that has measured."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def arguments(given: Sequence[str]) -> list[str]:
    """The arguments of a command as Hydra is to read them."""
    check_added(given)
    paths = literal_arguments(map(as_option, given))
    return named_last(paths) if current_entry() == "eval" else paths


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse options with dashes that Hydra does not have: it would take them for short forms of its own."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith("--") and name not in FLAGS:
            raise UserError(
                f"{name} is no option: write overrides without dashes, {name[2:]}={value or 'VALUE'}"
            )


def as_option(argument: str) -> str:
    """An override as Hydra should read it, to which `nan` is a number and `null` no choice of a group."""
    group, _, name = argument.partition("=")
    known = options(group) if name in ("nan", "null") and group in config_groups() else ()
    if name == "null" and "none" in known:
        return f"{group}=none"
    return f"{group}='{name}'" if name in known else argument


def run_whole(main: Callable[[], Any]) -> None:
    """Run an entry point under a name of its own; a signal stays one, whatever a library has made of it."""
    try:
        with name_run():
            main()
    except KeyboardInterrupt as error:
        raise Stopped(signal.SIGINT) from error
    except (Exception, SystemExit):
        raise_again()
        raise
    raise_again()
    end_at_once()


@contextmanager
def loading() -> Iterator[None]:
    """A signal while libraries are imported waits for them: some swallow it, and the run would go on."""
    with put_off():
        yield


@contextmanager
def explain_errors() -> Iterator[None]:
    """The same inside Hydra, which would add a line of its own; in a sweep Hydra decides what goes on."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    raise_again()
    try:
        with in_a_worker():
            yield
    except Exception as error:
        raise_again()
        if HydraConfig.get().mode != RunMode.RUN:
            raise
        end(error)


@contextmanager
def in_a_worker() -> Iterator[None]:
    """In a process of another launcher, such as joblib's: save and end when told to, or with that process."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    with heard():
        follow_parent()
        try:
            yield
        except Stopped as stopped:
            say_stopped(stopped)
            sys.exit(stopped.status)  # which can be handed on to the launcher


def end(error: Exception) -> None:
    """Say what went wrong, to the sweep of the run as well, and exit; or let a fault of ours through."""
    line = explain(error)
    state = next((cause.state for cause in causes(error) if isinstance(cause, UserError)), UserError.state)
    send_report(failed=one_line(line or f"{type(error).__name__}: {error}"), state=state)
    discard_made()
    if line is None:
        raise error
    print(f"error: {one_line(line)}", file=sys.stderr)
    sys.exit(1)


def one_line(text: str) -> str:
    """Whatever a library says, without line breaks, colours and other control characters, and not endless."""
    shown = strip_controls(text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
