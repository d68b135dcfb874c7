"""Paths on the command line, as a user types them.

Hydra's grammar refuses `=`, parentheses, quotes, `~` and all but ASCII letters in a value without quotes, and
so refuses `ckpt_path=RUN/checkpoints/step=00000120.ckpt`. Where a key holds a path, a value that the grammar
refuses is taken as it stands. What the grammar reads keeps its meaning: `a,b` is a
sweep, `${key}` a reference.
"""

import unicodedata
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from consistency.errors import UserError
from consistency.files.paths import expanded
from consistency.process.naming import started_by_lightning
from consistency.quoting import enquoted, for_shell, quoted

LISTS = ("input", "task.input", "task.results", "results")  # that hold one path or a list of them
SINGLE = ("run_dir", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.sweeper.storage")
PATHS = (  # every key that holds a path
    *LISTS,
    *SINGLE,  # which cannot be swept over
    *("ckpt_path", "data_dir", "cache", "mask", "operator.path", "teacher.path", "store.path"),
    *(
        "data.root",
        "data.cache",
        "data.held_out",
        "metric.cache",
        "metric.extractor.weights",
        "task.formats.web.cache",
        "distance.backbone",
    ),
)
NUMBERS = ("data.held_out",)  # that hold a path or a number
SWEEPING = ("-m", "--multirun", "sweep=", "hydra.mode=")  # beginnings of arguments
CHANGES = "override."  # eval.py: +override.KEY=VALUE changes the config of the checkpoint


def literal_arguments(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command line in which every path is written so that Hydra reads it as it was typed.

    Args:
        arguments: of the command line.

    Raises:
        UserError: a path has control characters, or may be one path or several.
    """
    given = list(arguments)
    single = not any(each.startswith(SWEEPING) for each in given)
    return [rewritten(each, single) if is_path(each.partition("=")[0]) else each for each in given]


def is_path(key: str) -> bool:
    """Whether a key of an override holds a path."""
    return config_key(key) in PATHS


def config_key(key: str) -> str:
    """The key that an override is of, in the command's config or in that of its checkpoint."""
    return key.lstrip("+").removeprefix(CHANGES)


def rewritten(argument: str, single: bool) -> str:
    """An override of a path, for Hydra; `single` where the command is one run and no sweep."""
    key, sign, value = argument.partition("=")
    name = config_key(key)
    if not sign:
        return argument
    if name == "hydra.run.dir" and value.startswith('"') and started_by_lightning():
        return f"{key}={quoted(value[1:-1])}"  # which puts quotes around any path
    check_characters(name, value)
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException:
        return f"{key}={as_typed(key, value, single or name in SINGLE)}"
    return f"{key}={as_parsed(name, value, parsed)}"


def check_characters(key: str, value: str) -> None:
    """Refuse what no line of a terminal or a log can hold, and what is not UTF-8."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise UserError(
            f"{key}={ascii(value)[1:-1]} has a line break, a control character or one that the locale "
            "cannot read: give a path without, and rename what is there"
        )


def as_parsed(name: str, text: str, parsed: Override) -> str:
    """A value that Hydra reads: text as it is, but for a home directory, or a number that names a folder."""
    value = None if parsed.is_sweep_override() else parsed.value()
    if isinstance(value, int | float) and not isinstance(value, bool) and name not in NUMBERS:
        return quoted(text.strip())
    if isinstance(value, list) and any(is_home(item) for item in value):
        return f"[{','.join(path_text(str(item)) for item in value)}]"
    return path_text(str(value)) if is_home(value) else text


def as_typed(key: str, text: str, single: bool) -> str:
    """A value that Hydra cannot read, taken as it stands; left to Hydra to refuse where that is a guess."""
    if text[:1] in ("'", '"') or "\\" in text:
        return text
    if config_key(key) in LISTS and text.startswith("[") and text.endswith("]"):
        items = split_items(text[1:-1])
        return text if items is None else f"[{','.join(map(path_text, items))}]"
    if single or "," not in text:
        return path_text(text)
    items = split_items(text)
    if items is not None and all(map(readable, items)):
        return ",".join(map(path_text, items))
    one = for_shell(f"{key}={path_text(text)}")
    each = ",".join(map(enquoted, items)) if items else "'FIRST','SECOND'"
    raise UserError(
        f"{key}={text} may be one path or several to sweep over: write one as {one}, and several as "
        f"{for_shell(f'{key}={each}')}"
    )


def split_items(text: str) -> list[str] | None:
    """Items between commas; None where quotes or brackets may hold a comma."""
    items = [item.strip() for item in text.split(",")]
    return items if all(items) and not set("'\"[]{}") & set(text) else None


def readable(item: str) -> bool:
    """Whether Hydra reads an item of a list, but for a home directory at its beginning."""
    try:
        OverridesParser.create().parse_override(f"key={item.removeprefix('~') or '/'}")
    except HydraException:
        return False
    return True


def path_text(path: str) -> str:
    """A path for Hydra with the home directory in place of `~`; `${key}` in it stays a reference."""
    full = expanded(path)
    return enquoted(full) if "${" in full else quoted(full)


def is_home(value: Any) -> bool:
    """Whether a value begins with a home directory."""
    return isinstance(value, str) and value.startswith("~")


def expand_homes(config: DictConfig) -> None:
    """Put home directories into the paths of a config, in place; references stay what they are."""
    for key in (*PATHS, *(f"{CHANGES}{path}" for path in PATHS)):
        above, _, name = key.rpartition(".")
        section = OmegaConf.select(config, above) if above else config
        if not OmegaConf.is_dict(section) or name not in section or OmegaConf.is_interpolation(section, name):
            continue
        value = section[name]
        with open_dict(section):
            if is_home(value):
                section[name] = expanded(value)
            elif OmegaConf.is_list(value) and any(map(is_home, value)):
                section[name] = [expanded(item) if is_home(item) else item for item in value]
