"""Paths on the command line, which are quoted for Hydra.

Hydra's grammar refuses `=`, parentheses, quotes, `~` and all letters but ASCII in a value without quotes, and
so refuses `ckpt_path=RUN/checkpoints/step=00000120.ckpt`. For a key that holds a path, a value that the
grammar refuses is used literally. A value that it accepts keeps its meaning: `a,b` is a sweep, `${key}` a
reference.
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

LISTS = ("input", "task.input", "task.results", "results")  # keys that hold one path or a list of paths
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
NUMBERS = ("data.held_out",)  # keys that hold a path or a number
SWEEPING = ("-m", "--multirun", "sweep=", "hydra.mode=")  # beginnings of arguments
CHANGES = "override."  # eval.py: +override.KEY=VALUE changes the config of the checkpoint


def literal_arguments(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command line in which paths are quoted so that Hydra reads them literally.

    Args:
        arguments: of the command line.

    Raises:
        UserError: a path has control characters, or may mean one path or several.
    """
    arguments = list(arguments)
    single = not any(each.startswith(SWEEPING) for each in arguments)
    return [quote_path(each, single) if is_path(each.partition("=")[0]) else each for each in arguments]


def is_path(key: str) -> bool:
    """Whether a key of an override holds a path."""
    return config_key(key) in PATHS


def config_key(key: str) -> str:
    """The key of an override, in the config of the command or of its checkpoint."""
    return key.lstrip("+").removeprefix(CHANGES)


def quote_path(argument: str, single: bool) -> str:
    """An override of a path, quoted for Hydra; `single` where the command is no sweep."""
    key, sign, value = argument.partition("=")
    name = config_key(key)
    if not sign:
        return argument
    if name == "hydra.run.dir" and value.startswith('"') and started_by_lightning():
        return f"{key}={quoted(value[1:-1])}"  # Lightning puts quotes around any path
    check_characters(name, value)
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException:
        return f"{key}={quote_literal(key, value, single or name in SINGLE)}"
    return f"{key}={quote_parsed(name, value, parsed)}"


def check_characters(key: str, value: str) -> None:
    """Refuse control characters, line breaks, and characters that are not valid UTF-8."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise UserError(
            f"{key}={ascii(value)[1:-1]} has a line break, a control character or one that the locale "
            "cannot read: give a path without, and rename what is there"
        )


def quote_parsed(name: str, text: str, parsed: Override) -> str:
    """A value that Hydra accepts: unchanged, except that `~` is expanded and a number is quoted as a path."""
    value = None if parsed.is_sweep_override() else parsed.value()
    if isinstance(value, int | float) and not isinstance(value, bool) and name not in NUMBERS:
        return quoted(text.strip())
    if isinstance(value, list) and any(is_home(item) for item in value):
        return f"[{','.join(path_text(str(item)) for item in value)}]"
    return path_text(str(value)) if is_home(value) else text


def quote_literal(key: str, text: str, single: bool) -> str:
    """A value that Hydra does not accept, quoted literally; unchanged, to be refused, if it has quotes."""
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
    """The items between commas; None where quotes or brackets may contain a comma."""
    items = [item.strip() for item in text.split(",")]
    return items if all(items) and not set("'\"[]{}") & set(text) else None


def readable(item: str) -> bool:
    """Whether Hydra accepts an item of a list, apart from `~` at its beginning."""
    try:
        OverridesParser.create().parse_override(f"key={item.removeprefix('~') or '/'}")
    except HydraException:
        return False
    return True


def path_text(path: str) -> str:
    """A path quoted for Hydra, with `~` expanded; `${key}` in it remains a reference."""
    full = expanded(path)
    return enquoted(full) if "${" in full else quoted(full)


def is_home(value: Any) -> bool:
    """Whether a value begins with `~`."""
    return isinstance(value, str) and value.startswith("~")


def expand_homes(config: DictConfig) -> None:
    """Expand `~` in the paths of a config, in place; references are not changed."""
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
