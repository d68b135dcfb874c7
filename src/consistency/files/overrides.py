"""Overrides of a resolved config, in which a value may occur at several keys.

In configs/ the network occurs once, and `model.net: ${net}` refers to it; in a checkpoint it occurs twice. An
override of `net.width` changes both, as long as the copies are equal.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from consistency.errors import UserError
from consistency.files.config import thawed
from consistency.files.configs import TARGET, folders
from consistency.files.paths import printable_path

Keys = tuple[str | int, ...]
Leaves = list[tuple[Keys, Any]]

ABSENT = object()
REFERENCE = re.compile(r"^\s*(?:- )?(\w+):.*\$\{([\w.]+)\}", re.M)  # a key and its reference


def overridden(
    config: dict[str, Any], changes: Mapping[str, Any], used: Collection[str], key: str = "override"
) -> dict[str, Any]:
    """The config with overrides, each of which changes every copy of its value as well.

    Copies are equal sections at other keys, and equal values at keys that configs/ fill by reference.

    Args:
        config: plain data, resolved.
        changes: plain data, merged into it: mappings key by key, lists and other values as a whole.
        used: sections that objects are built from. An override that changes none of them is refused.
        key: of the command line, for messages.

    Raises:
        UserError: an override would have no effect; names a key that has one.
    """
    changed, everywhere = thawed(config), list(mapping_leaves(config))
    overrides = list(mapping_leaves(changes))
    for path, value in overrides:
        check_whole(config, path, key)
        copies = [*copied_sections(config, path), *copied_values(everywhere, path, value_at(config, path))]
        if not any(place[0] in used for place in (path, *copies)):
            raise without_effect(config, path, value, used, key)
        for place in copies:
            put(changed, place, value)
    for path, value in overrides:  # an override of a key precedes the copy of another override
        put(changed, path, value)
    return changed


def mapping_leaves(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the path and value of each leaf of nested mappings; a list is one value."""
    if isinstance(node, Mapping) and (node or not path):
        for name, child in node.items():
            yield from mapping_leaves(child, (*path, name))
    else:
        yield path, node


def walk_sections(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """Yield the path and content of each mapping, including those in lists."""
    if isinstance(node, dict):
        yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from walk_sections(child, (*path, name))


def copied_sections(config: dict[str, Any], path: Keys) -> Iterator[Keys]:
    """Yield paths of the same key in sections that are equal to a section around it."""
    for end in range(1, len(path)):
        around = value_at(config, path[:end])
        if isinstance(around, dict) and around and (end == 1 or TARGET in around):
            for place, section in walk_sections(config):
                if section == around and place != path[:end]:
                    yield (*place, *path[end:])


def copied_values(everywhere: Leaves, path: Keys, old: Any) -> Iterator[Keys]:
    """Yield paths of equal values whose keys refer to this one in configs/."""
    names = references(folders()).get(".".join(map(str, path)), frozenset())
    for place, value in everywhere:
        if place == path or place[-1] not in names:
            continue
        if same_plain(value, old):
            yield place
        elif isinstance(value, list):
            yield from ((*place, i) for i, item in enumerate(value) if same_plain(item, old))


def same_plain(a: Any, b: Any) -> bool:
    """Whether two values are equal texts or numbers of the same type."""
    return isinstance(a, str | int | float) and type(a) is type(b) and a == b


@lru_cache(maxsize=8)
def references(among: tuple[Path, ...]) -> dict[str, frozenset[str]]:
    """Key of a config -> the last parts of the keys whose values refer to it in configs/.

    Args:
        among: folders of configs.
    """
    found: dict[str, set[str]] = {}
    for file in (path for folder in among for path in folder.rglob("*.yaml")):
        for name, key in REFERENCE.findall(file.read_text("utf-8")):
            found.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}


def value_at(node: Any, path: Keys) -> Any:
    """The value at a path of nested mappings, or ABSENT."""
    for name in path:
        if not isinstance(node, dict) or name not in node:
            return ABSENT
        node = node[name]
    return node


def check_whole(config: dict[str, Any], path: Keys, key: str) -> None:
    """Refuse to change an item of a list."""
    for end in range(1, len(path)):
        if isinstance(value_at(config, path[:end]), list):
            name = ".".join(map(str, path[:end]))
            raise UserError(
                f"{key}.{printable_path(name)} is a list: change it as a whole, "
                f"+{key}.{printable_path(name)}=[...]"
            )


def put(node: Any, path: Keys, value: Any) -> None:
    """Set the value at a path; values that are no mapping are replaced by mappings along the path."""
    *above, last = path
    for name in above:
        if isinstance(node, dict) and not isinstance(node.get(name), dict | list):
            node[name] = {}
        node = node[name]
    node[last] = thawed(value)


def without_effect(
    config: dict[str, Any], path: Keys, value: Any, used: Collection[str], key: str
) -> UserError:
    """The error for an override that has no effect."""
    alike = [".".join(map(str, place)) for place, _ in mapping_leaves(config) if place[-1] == path[-1]]
    effective = [place for place in alike if place.partition(".")[0] in used]
    instead = f"+{key}.{min(effective, key=len)}" if effective else f"a key of {', '.join(sorted(used))}"
    name = ".".join(map(str, path))
    return UserError(
        f"{key}.{printable_path(name)}={printable_path(value)} would change nothing: this "
        "checkpoint is not evaluated by that "
        f"section; use {instead}"
    )
