"""Explains overrides that Hydra refuses: by the nearest name, or by a spelling that can be pasted."""

import re
import sys
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from consistency.command.paths import LISTS, is_path, split_items
from consistency.errors import UserError, nearest
from consistency.files.configs import CONFIGS, config_groups, files, options
from consistency.process.entry import ENTRIES, current_entry, entry_name
from consistency.quoting import for_shell, quoted
from consistency.schema.sections import known_sections, loaded

AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*)'$", re.M)  # this and four more: messages of Hydra
UNDELETABLE = re.compile(
    r"Could not delete (?:from config\. )?'([^'=]+)(?:=.*)?'(?: does not exist|\. No match)"
)
UNNAMED = re.compile(r"You must specify '([^']+)', e\.g")
UNCHOSEN = re.compile(r"Could not override '([^']+)'\. No match in the defaults list")
ADDED = re.compile(r"Could not append to config\. An item is already at '([^']+)'")


def misread(error: OverrideParseException) -> str:
    """An override that Hydra cannot read."""
    key, sign, value = str(error.override).partition("=")
    if not sign:
        return f"{error.override} is not an override: write it as key=value"
    if value.startswith("["):
        items = split_items(value.strip("[]")) or ["ITEM", "ITEM"]
        working = f"{key}=[{','.join(map(quoted, items))}]"
        return f"{key}={value} cannot be read: quote it, and each item: {for_shell(working)}"
    return f"{key}={value} cannot be read: quote the value twice: {for_shell(f'{key}={quoted(bare(value))}')}"


def bare(value: str) -> str:
    """A value without its quotes."""
    around = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if around else value


def uncomposed(error: ConfigCompositionException) -> str | None:
    """A line for messages of Hydra that have several lines or no remedy; None for any other."""
    text = str(error)
    if found := AMBIGUOUS.search(text):
        return ambiguous(found[1])
    if found := UNDELETABLE.search(text):
        return f"unknown key {found[1]}: {nearest_to(found[1], without_deletions(sys.argv[1:]))}"
    if found := ADDED.search(text):
        return f"{found[1]} has a value already: leave the + out: {without_plus(found[1], sys.argv[1:])}"
    if (found := UNNAMED.search(text)) and found[1] in config_groups():
        return f"{found[1]} has no value: give one with {found[1]}=NAME ({', '.join(options(found[1]))})"
    if (found := UNCHOSEN.search(text)) and found[1] in config_groups():
        return wrong_group(found[1])
    return None


def without_plus(key: str, arguments: Sequence[str]) -> str:
    """The override that changes a key in place of adding it."""
    added = f"+{key}="
    value = next((each.removeprefix(added) for each in arguments if each.startswith(added)), "VALUE")
    return for_shell(f"{key}={value}")


def ambiguous(override: str) -> str:
    """Several values in the override of a single run."""
    key, _, value = override.partition("=")
    one = for_shell(f"{key}={quoted(value)}")
    if is_path(key) and key not in LISTS:
        return f"{override} is several paths: add -m for a run of each, or write one path as {one}"
    listed = for_shell(f"{key}=[{value}]")
    return (
        f"{override} has several values: add -m for a run of each, or write a list, {listed}, or text, {one}"
    )


def wrong_group(group: str) -> str:
    """The message about a group that this entry point does not have."""
    here = current_entry()
    if here == "eval" and group in groups_chosen_by("as"):
        return (
            f"{group}= goes with a file of others: say what it is with as=NAME ({', '.join(options('as'))})"
        )
    if group in added_groups(here):
        return f"{group}= is no choice of an entry point: add it with +{group}=NAME"
    other = next((name for name in ENTRIES if name != here and group in entry_groups(name)), None)
    known = f"it is one of {entry_name(other)}" if other else nearest(group, entry_groups(here))
    return f"{group}= is no choice of {entry_name(here)}: {known}"


def check_added(arguments: Sequence[str]) -> None:
    """Refuse to add a key that nothing reads, before Hydra does: a sweep would start all its runs.

    Args:
        arguments: of the command line.

    Raises:
        UserError: names the nearest key.
    """
    for each in arguments:
        if each.startswith("+") and "=" in each:
            name = re.split(r"[.@=/]", each.lstrip("+"), maxsplit=1)[0]
            if name not in (names := {*known_sections(current_entry()), "hydra"}):
                raise UserError(f"unknown key {each.lstrip('+').partition('=')[0]}: {nearest(name, names)}")


def added_groups(name: str) -> set[str]:
    """The groups that only trusted packages have, which the entry points of this project do not choose."""
    ours = {path.name for path in CONFIGS.iterdir()}
    return {group for group in config_groups() if group not in ours} - entry_groups(name)


def entry_groups(name: str) -> set[str]:
    """The groups of an entry point, including those that its tasks and the options of `as` choose from."""
    more = groups_chosen_by("task") | groups_chosen_by("as") if name == "eval" else set[str]()
    chosen = {key for item in loaded(name)["defaults"] if isinstance(item, dict) for key in map(str, item)}
    return {group for group in config_groups() if group in chosen} | more


def groups_chosen_by(parent: str) -> set[str]:
    """The groups that the files of another group choose options of."""
    text = "".join(file.read_text("utf-8") for file in files(parent))
    return {group for group in config_groups() if f"\n  - /{group}: " in text}


def without_deletions(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command line that change or add a value."""
    return [each for each in arguments if "=" in each and each[0] not in "-~"]


def nearest_to(key: str, overrides: Sequence[str]) -> str:
    """The nearest name to an unknown key, in the config of the command without that key.

    Args:
        key: with dots.
        overrides: of the command, without deletions.
    """
    section = compose_without(current_entry(), overrides)
    names = root_names(section)
    for part in key.split("."):
        if part not in names:
            return nearest(part, names)
        section = section.get(part)
        names = [name for name in map(str, section) if name[0] != "_"] if OmegaConf.is_dict(section) else []
    return "it has no value already; leave that out"


def compose_without(name: str, overrides: Sequence[str]) -> DictConfig:
    """A config with other overrides; without any where these cannot be composed either."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS.absolute()), version_base="1.3"):
        try:
            return compose(name, list(overrides))
        except (HydraException, OmegaConfBaseException):
            return compose(name)


def root_names(root: DictConfig) -> list[str]:
    """The names that overrides may begin with: keys of the config, and groups of the entry point."""
    name = "eval" if "task" in root else "train"
    return sorted({*map(str, root), *entry_groups(name)})
