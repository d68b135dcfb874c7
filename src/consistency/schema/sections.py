"""The sections of a config and the options of their groups, read from the files in configs/."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from consistency.files import configs
from consistency.files.configs import config_groups, options


def as_written(node: Any) -> dict[str, Any]:
    """A config as a dict, with references as text."""
    return OmegaConf.to_container(node)  # type: ignore[return-value]


@lru_cache(maxsize=8)
def loaded(entry: str) -> dict[str, Any]:
    """The config file of an entry point, with references as text."""
    return as_written(OmegaConf.load(configs.CONFIGS / f"{entry}.yaml"))


def methods() -> frozenset[str]:
    """The sections that configs/method/ adds: module, samplers; and those of trusted packages."""
    return sections_in(tuple(configs.files("method")))


@lru_cache(maxsize=8)
def sections_in(files: tuple[Path, ...]) -> frozenset[str]:
    """The sections of some files of configs."""
    return frozenset(name for path in files for name in as_written(OmegaConf.load(path)))


def known_sections(entry: str) -> set[str]:
    """The top-level keys of the config of an entry point."""
    others = sections_in(tuple(configs.files("as"))) if entry == "eval" else ()
    return {*loaded(entry), *config_groups(), *methods(), *others} - {"defaults"}


@lru_cache(maxsize=2)
def required(entry: str) -> tuple[str, ...]:
    """The groups of an entry point that must have an option: those whose files are a section."""
    chosen = [next(iter(item.items())) for item in loaded(entry)["defaults"] if isinstance(item, dict)]
    named = [str(group) for group, name in chosen if name is not None and "/" not in str(group)]
    return (*(group for group in named if not is_spread(group)), *(["module"] if entry == "train" else []))


def is_spread(group: str) -> bool:
    """Whether the files of a group are spread over the whole config, as those of method and experiment."""
    return group != "task" and spread_file(configs.files(group)[0])


def spread_file(file: Path) -> bool:
    """Whether a file of a group is spread over the whole config."""
    return file.read_text("utf-8").startswith("# @package _global_")


def choice_group(group: str) -> str:
    """The group by which a section is chosen."""
    return "method" if group == "module" else group


def option_target(group: str, name: str) -> Any:
    """The node with `_target_` in a file of a group, or in the option that it builds on; None without one."""
    place = configs.file_of(f"{group}/{name}")
    file: Any = OmegaConf.load(place)
    node = file.get(group, {}) if spread_file(place) else file
    if "_target_" in node:
        return node
    first = file.get("defaults", [None])[0]
    return (
        option_target(group, first.partition("@")[0])
        if isinstance(first, str) and first != "_self_"
        else None
    )


def chosen_option(group: str, node: DictConfig) -> str:
    """The option of a group that a node is of, else the name of what it calls."""
    same = (
        name for name in options(group) if getattr(option_target(group, name), "_target_", 0) == node._target_
    )
    return (
        next(same, short_target(node._target_)) if group in config_groups() else short_target(node._target_)
    )


def short_target(target: str) -> str:
    """The name of a class or a function without its package."""
    return target.rpartition(".")[2]
