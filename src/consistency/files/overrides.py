"""Changes of the command line to a config that is resolved already, where one value stands in several places.

In configs/ the network stands once, and `denoiser.net: ${net}` refers to it; in a checkpoint it stands twice.
A change of `net.width` is made in both, wherever the copies still agree.
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
REFERENCE = re.compile(r"^\s*(?:- )?(\w+):.*\$\{([\w.]+)\}", re.M)  # a key, and what its value refers to


def overridden(
    config: dict[str, Any], changes: Mapping[str, Any], used: Collection[str], key: str = "override"
) -> dict[str, Any]:
    """The config with changes, each made in every copy of what it changes.

    Copies are equal sections elsewhere, and equal values under keys that configs/ fill by reference.

    Args:
        config: plain data, resolved.
        changes: plain data, merged into it: mappings key by key, lists and other values as a whole.
        used: sections that anything is built from. A change that reaches none of them is refused.
        key: of the command line, for messages.

    Raises:
        UserError: a change would have no effect; it names the key that has.
    """
    changed, everywhere = thawed(config), list(mapping_leaves(config))
    asked = list(mapping_leaves(changes))
    for path, value in asked:
        check_whole(config, path, key)
        copies = [*copied_sections(config, path), *copied_values(everywhere, path, value_at(config, path))]
        if not any(place[0] in used for place in (path, *copies)):
            raise without_effect(config, path, value, used, key)
        for place in copies:
            put(changed, place, value)
    for path, value in asked:  # what was named itself stands above what follows from another
        put(changed, path, value)
    return changed


def mapping_leaves(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every value below mappings with its keys; a list is one value."""
    if isinstance(node, Mapping) and (node or not path):
        for name, child in node.items():
            yield from mapping_leaves(child, (*path, name))
    else:
        yield path, node


def walk_sections(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """Every mapping with its keys, those in lists as well."""
    if isinstance(node, dict):
        yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from walk_sections(child, (*path, name))


def copied_sections(config: dict[str, Any], path: Keys) -> Iterator[Keys]:
    """The same key in every section that equals one around it."""
    for end in range(1, len(path)):
        around = value_at(config, path[:end])
        if isinstance(around, dict) and around and (end == 1 or TARGET in around):
            for place, section in walk_sections(config):
                if section == around and place != path[:end]:
                    yield (*place, *path[end:])


def copied_values(everywhere: Leaves, path: Keys, old: Any) -> Iterator[Keys]:
    """Places of the same value whose keys are filled from this one in configs/."""
    names = references(folders()).get(".".join(map(str, path)), frozenset())
    for place, value in everywhere:
        if place == path or place[-1] not in names:
            continue
        if same_plain(value, old):
            yield place
        elif isinstance(value, list):
            yield from ((*place, i) for i, item in enumerate(value) if same_plain(item, old))


def same_plain(a: Any, b: Any) -> bool:
    """Whether two plain values are equal, and neither is a container or nothing."""
    return isinstance(a, str | int | float) and type(a) is type(b) and a == b


@lru_cache(maxsize=8)
def references(among: tuple[Path, ...]) -> dict[str, frozenset[str]]:
    """By key of a config, the last parts of the keys that configs fill by reference to it.

    Args:
        among: folders of configs.
    """
    found: dict[str, set[str]] = {}
    for file in (path for folder in among for path in folder.rglob("*.yaml")):
        for name, key in REFERENCE.findall(file.read_text("utf-8")):
            found.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}


def value_at(node: Any, path: Keys) -> Any:
    """The value at these keys of mappings, or ABSENT."""
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
    """Set the value at these keys; what stands in the way of a mapping gives way."""
    *above, last = path
    for name in above:
        if isinstance(node, dict) and not isinstance(node.get(name), dict | list):
            node[name] = {}
        node = node[name]
    node[last] = thawed(value)


def without_effect(
    config: dict[str, Any], path: Keys, value: Any, used: Collection[str], key: str
) -> UserError:
    """What to say of a change that reaches nothing."""
    alike = [".".join(map(str, place)) for place, _ in mapping_leaves(config) if place[-1] == path[-1]]
    effective = [place for place in alike if place.partition(".")[0] in used]
    instead = f"+{key}.{min(effective, key=len)}" if effective else f"a key of {', '.join(sorted(used))}"
    name = ".".join(map(str, path))
    return UserError(
        f"{key}.{printable_path(name)}={printable_path(value)} would change nothing: this "
        "checkpoint is not evaluated by that "
        f"section; use {instead}"
    )
