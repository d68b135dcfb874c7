"""The values of a composed config as plain data, grouped by the files that they come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hydra.core.default_element import GroupDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

Keys = tuple[str, ...]  # a path in a config
Tree = dict[str, Any]

OVER = ("method", "experiment", "budget")  # groups whose files change the values of parts, in this order
UNREAD = ("hydra", "sweep", "debug")  # groups that choose no parts


@dataclass(frozen=True)
class Layers:
    """The values in the files that a command composes, without those of its command line.

    Args:
        choices: group -> option.
        parts: values of all files but those of method/, experiment/ and budget/.
        method: values of method/, which may change those of parts.
        experiment: values of experiment/, which may change both.
        budget: values of budget/, which may change all of them.
        files: path of a value -> the last file that sets it, without its ending.
    """

    choices: dict[str, str | None]
    parts: Tree = field(default_factory=dict)
    method: Tree = field(default_factory=dict)
    experiment: Tree = field(default_factory=dict)
    budget: Tree = field(default_factory=dict)
    files: dict[Keys, str] = field(default_factory=dict)


@lru_cache(maxsize=8)
def read_layers(entry: str, overrides: tuple[str, ...]) -> Layers:
    """Read the files that a command composes.

    Args:
        entry: name of the file in configs/ that it begins with.
        overrides: of its command line; those that choose no group have no effect.
    """
    loader = GlobalHydra.instance().config_loader()
    found = loader.compute_defaults_list(entry, list(overrides), RunMode.RUN)
    choices = {group.partition("@")[0]: name for group, name in found.overrides.known_choices.items()}
    made = Layers(choices)
    for default in found.defaults:
        path = default.config_path or ""
        group = path.partition("/")[0]
        if not path or group in UNREAD:
            continue
        content = content_of(path)
        for name in reversed((default.package or "").split(".") if default.package else []):
            content = {name: content}
        merge_tree(getattr(made, group if group in OVER else "parts"), content)
        made.files.update((keys, path) for keys, _ in tree_leaves(content))
    return made


def load_layer(path: str) -> Any:
    """A config file as Hydra finds it."""
    return GlobalHydra.instance().config_loader().repository.load_config(path)  # type: ignore[attr-defined]


def content_of(path: str) -> Tree:
    """The values of a config file, with references as text."""
    found = OmegaConf.to_container(load_layer(path).config)
    return found if isinstance(found, dict) else {}  # type: ignore[return-value]


def choices_of(path: str) -> dict[str, str | None]:
    """The options that a file and its defaults choose, by `override /group: option`."""
    group, _, _ = path.rpartition("/")
    chosen: dict[str, str | None] = {}
    for default in load_layer(path).defaults_list:
        if not isinstance(default, GroupDefault):
            name = str(default.path)
            chosen |= choices_of(f"{group}/{name}") if name != "_self_" else {}
        elif default.override:
            chosen[str(default.group).lstrip("/")] = default.value  # type: ignore[assignment]
    return chosen


def merge_tree(tree: Tree, other: Tree) -> None:
    """Merge the values of a tree into another, in place."""
    for key, value in other.items():
        there = tree.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            merge_tree(there, value)
        else:
            tree[key] = merged({}, value) if isinstance(value, dict) else value


def merged(*trees: Tree) -> Tree:
    """Several trees merged into one; later values take precedence."""
    result: Tree = {}
    for tree in trees:
        merge_tree(result, tree)
    return result


def tree_leaves(tree: Tree, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the path and value of each leaf of a tree; an empty mapping has none."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from tree_leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def select(tree: Any, path: Sequence[str], default: Any = None) -> Any:
    """The value at a path."""
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return default
        tree = tree[key]
    return tree


def has(tree: Tree, path: Sequence[str]) -> bool:
    """Whether a tree has a path."""
    absent = object()
    return select(tree, path, absent) is not absent
