"""What the user can do about an error, in one line."""

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
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as torch says it
MERGING = "Error merging override "  # as Hydra says it


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
