"""The edge to the shell: what went wrong in one line, and an exit status."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from consistency.command.directories import discard_made
from consistency.command.misread import check_added, misread, root_names, uncomposed
from consistency.command.newest import named_last
from consistency.command.packages import trust_as_given
from consistency.command.paths import literal_arguments
from consistency.command.unknown import path_as_option, unknown, value_among
from consistency.command.usage import asks_for_help, show_help
from consistency.errors import ArgumentError, UserError, close, nearest, strip_controls
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
from consistency.schema.recipes import without_file

PACKAGE = Path(__file__).parent
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as torch says it
MERGING = "Error merging override "  # as Hydra says it
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


def explain(error: BaseException) -> str | None:
    """What the user can do about it; None for a fault of ours."""
    chain = list(causes(error))
    if isinstance(chain[-1], ArgumentError) and isinstance(error, InstantiationException):
        return f"{str(error).rpartition('full_key: ')[2]}: {chain[-1]}"
    for kind, say in SAYINGS.items():
        for cause in chain:
            if isinstance(cause, kind):
                return say(cause)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__


def missing_config(error: MissingConfigException) -> str:
    """A group file that is not there: which are."""
    chosen = error.missing_cfg_file or ""
    if said := path_as_option(chosen):
        return said
    group, _, name = chosen.rpartition("/")
    if group == "experiment" and (said := without_file(name)):
        return said
    names = error.options or options(group)
    return f"{group or 'config'}={name} is not in configs/{group}: {nearest(name, names)}"


def missing_value(error: MissingMandatoryValue) -> str:
    """A key without a default."""
    return f"{error.full_key} has no value: give one with {error.full_key}=VALUE"


def not_composed(error: ConfigCompositionException) -> str:
    """An override of something that is not there: the nearest key that is."""
    cause = error.__cause__
    if said := uncomposed(error):
        return said
    if str(error).startswith(MERGING):
        return f"{str(error).removeprefix(MERGING)} is of another kind than what stands there in configs/"
    if not isinstance(cause, OmegaConfBaseException) or not isinstance(cause.parent_node, DictConfig):
        return str(error)
    key, section = str(cause.full_key), cause.parent_node
    said = unknown(key, value_among(key, sys.argv[1:]), section)
    return said or f"unknown key {key}: {near(str(cause.key), section)}"


def near(key: str, section: DictConfig) -> str:
    """The nearest key of a section; else the same key of another section; else all keys of this one."""
    names = [str(name) for name in section if not str(name).startswith("_")]
    names = root_names(section) if section._get_parent() is None else names
    if not names:
        return "that section is empty or refers to another: change it there"
    everything = OmegaConf.to_container(section._get_root())
    elsewhere = [p for p in paths(everything) if p.endswith(f".{key}") and not p.startswith("hydra.")]
    if elsewhere and not close(key, names):
        return f"did you mean '{min(elsewhere, key=len)}'?"
    return nearest(key, names)


def paths(section: Any, prefix: str = "") -> Iterator[str]:
    """The full keys below a section of a plain config."""
    for name, node in section.items() if isinstance(section, dict) else ():
        yield f"{prefix}{name}"
        yield from paths(node, f"{prefix}{name}.")


def unresolved(error: InterpolationResolutionError) -> str:
    """An interpolation that leads nowhere."""
    return f"{error.full_key}: {str(error).splitlines()[0]}; change it or what it refers to"


def refused_arguments(error: InstantiationException) -> str | None:
    """What a library said of its arguments; a fault in our own code, unless it is a value, is a bug."""
    *_, cause = causes(error)
    files = [Path(frame.filename) for frame in traceback.extract_tb(cause.__traceback__)]
    called = max((i for i, file in enumerate(files) if "hydra" in file.parts), default=-1)
    ours = [file.is_relative_to(PACKAGE) for file in files[called + 1 :]]
    if any(ours) and (ours[-1] or not isinstance(cause, ValueError)):
        return None
    return f"{str(error).rpartition('full_key: ')[2]}: {cause}"


def unread(error: OmegaConfBaseException) -> str | None:
    """A key that is read but has been taken away, or holds what cannot stand there."""
    if not error.full_key:
        return None
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return f"{error.full_key} has no value: give one with {error.full_key}=VALUE"
    return f"{error.full_key}: {str(error).splitlines()[0]}; change it"


def unreachable(error: OSError) -> str | None:
    """A place that cannot be read or written."""
    if error.filename is None:
        return None
    return f"{error.filename}: {error.strerror}; check the path, or choose another with run_dir=PATH"


def no_name(error: ValueError) -> str | None:
    """Null or a number where Hydra composes a group, which it says without the group; else a bug."""
    if not str(error).startswith("Config group override must be"):
        return None
    given = [word.lstrip("+").partition("=") for word in sys.argv[1:]]
    wrong = [
        (group, name) for group, _, name in given if group in config_groups() and name not in options(group)
    ]
    if not wrong:
        return None
    group, name = wrong[0]
    return f"{group}={name} has no value: choose one with {group}=NAME ({', '.join(options(group))})"


def no_memory(error: MemoryError | RuntimeError) -> str | None:
    """More memory than the machine or the GPU has; any other error of a library at work is a bug."""
    text = str(error)
    if not isinstance(error, MemoryError) and not any(sign in text for sign in NO_MEMORY):
        return None
    first = (text.splitlines() or ["no memory is left"])[0]
    return (
        f"out of memory ({first}): lower data.batch_size, data.sample_batch or the size of net, or task.batch"
    )


SAYINGS: dict[type[BaseException], Callable[[Any], str | None]] = {  # the first that is among the causes
    UserError: str,
    MissingConfigException: missing_config,
    MissingMandatoryValue: missing_value,
    OverrideParseException: misread,
    ConfigCompositionException: not_composed,
    InterpolationResolutionError: unresolved,
    InstantiationException: refused_arguments,
    OmegaConfBaseException: unread,
    OSError: unreachable,
    HydraException: str,
    MemoryError: no_memory,
    RuntimeError: no_memory,
    ValueError: no_name,
}
