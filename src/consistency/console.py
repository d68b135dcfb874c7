"""The entry points as shell commands: errors as one line, exit statuses, and signals."""

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
from consistency.process.lifeline import follow_parent, open_lifeline, send_report
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
LONGEST = 1000  # characters of a line of output


def guarded(main: Callable[[], Any]) -> None:
    """Run an entry point. A `UserError` is printed as one line, with status 1; a bug keeps its traceback."""
    ignore_at_exit()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises exceptions instead of printing them
    if not is_first():  # only the first process prints torch's messages about lost connections
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        never_fail_to_print()
        check_supported()
        check_flags(sys.argv[1:])
        trust_as_given(sys.argv[1:])
        if asks_for_help(sys.argv[1:]):
            show_help()
            return
        open_lifeline()
        sys.argv[1:] = arguments(sys.argv[1:])
        with heard(waits=True):  # until Hydra has composed the config
            run_whole(main)
    except Stopped as stopped:
        say_stopped(stopped)
        end_within(PATIENCE, stopped.status)
        sys.exit(stopped.status if is_first() else 0)  # or Lightning would kill the first process at once
    except Exception as error:
        end(error)


def never_fail_to_print() -> None:
    """Print characters that the terminal cannot encode as escapes, so that σ raises no error at the end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def arguments(given: Sequence[str]) -> list[str]:
    """The arguments of a command, rewritten for Hydra."""
    check_added(given)
    paths = literal_arguments(map(as_option, given))
    return named_last(paths) if current_entry() == "eval" else paths


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse unknown options with dashes, which Hydra would read as abbreviations of its own."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith("--") and name not in FLAGS:
            raise UserError(
                f"{name} is no option: write overrides without dashes, {name[2:]}={value or 'VALUE'}"
            )


def as_option(argument: str) -> str:
    """An override for Hydra, which reads `nan` as a number and does not accept `null` for a group."""
    group, _, name = argument.partition("=")
    known = options(group) if name in ("nan", "null") and group in config_groups() else ()
    if name == "null" and "none" in known:
        return f"{group}=none"
    return f"{group}='{name}'" if name in known else argument


def run_whole(main: Callable[[], Any]) -> None:
    """Run an entry point under the name of a run; a signal that a library has swallowed is raised again."""
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
    """Defer signals while libraries are imported: some swallow them, and the run would go on."""
    with put_off():
        yield


@contextmanager
def explain_errors() -> Iterator[None]:
    """Print errors inside Hydra, which would add its own line; in a sweep they are left to the launcher."""
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
    """In a worker of another launcher, such as joblib's: stop on a signal, or when the parent has ended."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    with heard():
        follow_parent()
        try:
            yield
        except Stopped as stopped:
            say_stopped(stopped)
            sys.exit(stopped.status)  # an exception that can be passed to the launcher


def end(error: Exception) -> None:
    """Print an error, report it to the sweep of the run, and exit; a bug of this project is raised."""
    line = explain(error)
    state = next((cause.state for cause in causes(error) if isinstance(cause, UserError)), UserError.state)
    send_report(failed=one_line(line or f"{type(error).__name__}: {error}"), state=state)
    discard_made()
    if line is None:
        raise error
    print(f"error: {one_line(line)}", file=sys.stderr)
    sys.exit(1)


def one_line(text: str) -> str:
    """A message of a library on one line of at most `LONGEST` characters, without control characters."""
    line = strip_controls(text)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
