"""Explains errors of Hydra, OmegaConf and the system in one line with a remedy."""

import sys
import traceback
from collections.abc import Callable, Iterator
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

from consistency.command.misread import misread, root_names, uncomposed
from consistency.command.unknown import path_as_option, unknown, value_among
from consistency.errors import ArgumentError, UserError, close, nearest
from consistency.files.configs import config_groups, options
from consistency.schema.recipes import without_file

PACKAGE = Path(__file__).parents[1]
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in messages of torch
MERGING = "Error merging override "  # beginning of a message of Hydra


def explain(error: BaseException) -> str | None:
    """The line for the user; None for a bug of this project."""
    chain = list(causes(error))
    if isinstance(chain[-1], ArgumentError) and isinstance(error, InstantiationException):
        return f"{str(error).rpartition('full_key: ')[2]}: {chain[-1]}"
    for kind, explain_cause in EXPLANATIONS.items():
        for cause in chain:
            if isinstance(cause, kind):
                return explain_cause(cause)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__


def missing_config(error: MissingConfigException) -> str:
    """An option that does not exist: the nearest one, or all."""
    chosen = error.missing_cfg_file or ""
    if line := path_as_option(chosen):
        return line
    group, _, name = chosen.rpartition("/")
    if group == "experiment" and (line := without_file(name)):
        return line
    names = error.options or options(group)
    return f"{group or 'config'}={name} is not in configs/{group}: {nearest(name, names)}"


def missing_value(error: MissingMandatoryValue) -> str:
    """A key without a default."""
    return f"{error.full_key} has no value: give one with {error.full_key}=VALUE"


def not_composed(error: ConfigCompositionException) -> str:
    """An override of a key that does not exist: the nearest key."""
    cause = error.__cause__
    if line := uncomposed(error):
        return line
    if str(error).startswith(MERGING):
        return f"{str(error).removeprefix(MERGING)} is of another kind than the value in configs/"
    if not isinstance(cause, OmegaConfBaseException) or not isinstance(cause.parent_node, DictConfig):
        return str(error)
    key, section = str(cause.full_key), cause.parent_node
    line = unknown(key, value_among(key, sys.argv[1:]), section)
    return line or f"unknown key {key}: {nearest_key(str(cause.key), section)}"


def nearest_key(key: str, section: DictConfig) -> str:
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
    """Yield the full keys below a section of a config of plain data."""
    for name, node in section.items() if isinstance(section, dict) else ():
        yield f"{prefix}{name}"
        yield from paths(node, f"{prefix}{name}.")


def unresolved(error: InterpolationResolutionError) -> str:
    """An interpolation that cannot be resolved."""
    return f"{error.full_key}: {str(error).splitlines()[0]}; change it or what it refers to"


def refused_arguments(error: InstantiationException) -> str | None:
    """An error of a library about its arguments; None for a bug in the code of this project.

    Where the frames after Hydra's include this project, only a `ValueError` raised by a library is no bug.
    """
    *_, cause = causes(error)
    files = [Path(frame.filename) for frame in traceback.extract_tb(cause.__traceback__)]
    called = max((i for i, file in enumerate(files) if "hydra" in file.parts), default=-1)
    ours = [file.is_relative_to(PACKAGE) for file in files[called + 1 :]]
    if any(ours) and (ours[-1] or not isinstance(cause, ValueError)):
        return None
    return f"{str(error).rpartition('full_key: ')[2]}: {cause}"


def unread(error: OmegaConfBaseException) -> str | None:
    """A key that was removed, or whose value is of a wrong kind."""
    if not error.full_key:
        return None
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return f"{error.full_key} has no value: give one with {error.full_key}=VALUE"
    return f"{error.full_key}: {str(error).splitlines()[0]}; change it"


def unreachable(error: OSError) -> str | None:
    """A path that cannot be read or written."""
    if error.filename is None:
        return None
    return f"{error.filename}: {error.strerror}; check the path, or choose another with run_dir=PATH"


def no_name(error: ValueError) -> str | None:
    """Null or a number as the option of a group, which Hydra's message does not name; None for a bug."""
    if not str(error).startswith("Config group override must be"):
        return None
    overrides = [argument.lstrip("+").partition("=") for argument in sys.argv[1:]]
    wrong = [
        (group, name)
        for group, _, name in overrides
        if group in config_groups() and name not in options(group)
    ]
    if not wrong:
        return None
    group, name = wrong[0]
    return f"{group}={name} has no value: choose one with {group}=NAME ({', '.join(options(group))})"


def no_memory(error: MemoryError | RuntimeError) -> str | None:
    """Too little memory of the machine or the GPU; None for any other error."""
    text = str(error)
    if not isinstance(error, MemoryError) and not any(sign in text for sign in NO_MEMORY):
        return None
    first = (text.splitlines() or ["no memory is left"])[0]
    return (
        f"out of memory ({first}): lower data.batch_size, data.sample_batch or the size of net, or task.batch"
    )


EXPLANATIONS: dict[type[BaseException], Callable[[Any], str | None]] = {  # the first among the causes is used
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
