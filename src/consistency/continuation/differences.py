"""The differences between two resolved configs, each listed once, at the key where its value is set."""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from consistency.files.configs import files
from consistency.schema.kinds import yaml_text
from consistency.schema.rules import PART, PLACE, Effect, effect
from consistency.schema.targets import makers

MISSING = "???"  # OmegaConf's mark of a mandatory value, which is set when a run is built
REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,[^{}]*)?\}")
LOGGER = "logger"  # a group of which several options may be chosen; their list is compared
START = "module.start"  # used at the beginning of a run only

Keys = tuple[str, ...]  # path of keys


class Absent:
    """The value of a key that one of the two configs lacks."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()


@dataclass(frozen=True)
class Difference:
    """A value that differs.

    Args:
        key: where the value is set; keys that refer to it differ as well, and are not listed.
        there: value in the checkpoint.
        here: value in the config.
    """

    key: str
    there: Any
    here: Any

    @property
    def name(self) -> str:
        """The key; of a part, without `._target_`."""
        return self.key.removesuffix(PART)

    @property
    def effect(self) -> Effect:
        """What a change of this key means for a resumed run."""
        return PLACE if self.key == START and self.here is ABSENT else effect(self.key)

    @property
    def remedy(self) -> str:
        """The override that restores the value of the checkpoint."""
        if self.key == START:
            return "leave start=teacher out"
        if self.key.endswith(PART) or isinstance(self.there, dict):
            return group_choice(self.key, self.there)
        return (
            f"leave {self.key} out"
            if self.there is ABSENT
            else f"give {self.key}={override_text(self.there)}"
        )

    def __str__(self) -> str:
        here, there = override_text(self.here), override_text(self.there)
        if self.key.endswith(PART):
            here, there = (str(value).rpartition(".")[2] for value in (self.here, self.there))
        return f"{self.name} is {here} here and {there}"


def find_differences(there: dict[str, Any], here: DictConfig, given: Sequence[str]) -> list[Difference]:
    """All differences between two configs.

    Args:
        there: config of the checkpoint, resolved, plain data.
        here: config of the run, as composed.
        given: keys of the command line. A key that only one config has is ignored, unless it is one of these
            or an argument whose value is not the default: versions of the code add and remove arguments.
    """
    raw, resolved = OmegaConf.to_container(here), OmegaConf.to_container(here, resolve=True)
    found: dict[str, Difference] = {}
    for path, old, new in walk_differences(there, resolved, (), given):
        for key, before, after in locate_difference(raw, path, old, new):
            found.setdefault(key, Difference(key, before, after))
    composed = [
        key for key in found if quoted_key(raw, key) in found
    ]  # from another value, which is named itself
    return [difference for key, difference in found.items() if key not in composed]


def walk_differences(
    there: Any, here: Any, path: Keys, given: Sequence[str]
) -> Iterator[tuple[Keys, Any, Any]]:
    """Yield path, old value and new value of each difference."""
    if MISSING in (there, here) or there == here:
        return
    if not (isinstance(there, dict) and isinstance(here, dict)):
        yield path, there, here
        return
    old, new = there.get("_target_"), here.get("_target_")
    if old is not None and new is not None and old != new:
        yield (*path, "_target_"), old, new  # of different parts nothing else can be compared
        return
    if path == (LOGGER,) and here.keys() != there.keys():
        yield path, [*there], [*here]
    for key in dict.fromkeys([*here, *there]):
        old, new = there.get(key, ABSENT), here.get(key, ABSENT)
        inner = (*path, str(key))
        if ABSENT not in (old, new):
            yield from walk_differences(old, new, inner, given)
        elif is_significant(here.get("_target_"), str(key), new if old is ABSENT else old, inner, given):
            yield inner, old, new


def is_significant(target: str | None, key: str, value: Any, path: Keys, given: Sequence[str]) -> bool:
    """Whether a value that only one config has is a difference."""
    if path[:-1] == (LOGGER,):
        return False  # the list of names says it
    if target is not None:
        known = defaults(target)
        return key not in known or as_list(known[key]) != value
    return any(path[: len(names)] == names for names in (tuple(name.split(".")) for name in given))


def as_list(value: Any) -> Any:
    """A default value with lists in place of tuples, as in configs."""
    return [as_list(item) for item in value] if isinstance(value, tuple) else value


def defaults(target: str) -> dict[str, Any]:
    """The default values of the arguments of a target."""
    found: dict[str, Any] = {}
    for made in makers(get_object(target)):
        arguments = inspect.signature(made).parameters
        found = {name: a.default for name, a in arguments.items() if a.default is not a.empty} | found
    return found


def locate_difference(raw: Any, path: Keys, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield a difference at the key where its value is set; the items of a list may be set at several."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        keys = [referenced_path(raw, (*path, i)) for i, _, _ in pairs]
        if all(key[:-1] != referenced_path(raw, path) for key in keys):  # each refers to a value elsewhere
            yield from ((".".join(key), a, b) for key, (_, a, b) in zip(keys, pairs, strict=True))
            return
    added = ABSENT in (old, new)
    key = (*referenced_path(raw, path[:-1]), path[-1]) if added else referenced_path(raw, path)
    yield ".".join(key), old, new


def referenced_path(raw: Any, path: Keys) -> Keys:
    """The path where the value at a path is set, after following references such as `${sigma.min}`."""
    node = raw
    for i, part in enumerate(path):
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and part.isdecimal():
            node = node[int(part)]
        else:
            return path
        found = REFERENCE.fullmatch(node) if isinstance(node, str) else None
        if found:
            return referenced_path(raw, (*found[1].split("."), *path[i + 1 :]))
    return path


def quoted_key(raw: Any, key: str) -> str | None:
    """The key that a text contains a reference to, as in `${data_dir}/cache`; None for any other value."""
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    found = REFERENCE.search(raw) if isinstance(raw, str) else None
    return found[1] if found else None


def group_choice(key: str, target: Any) -> str:
    """The choice of a group that restores a part."""
    group, _, inner = key.partition(".")
    contents = {path.stem: OmegaConf.load(path) for path in files(group)}
    names = [name for name, text in contents.items() if OmegaConf.select(text, inner) == target]
    return f"give {group}={names[0]}" if len(names) == 1 else f"choose the {group} of that run"


def override_text(value: Any) -> str:
    """A value as an override has it."""
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, list):
        return f"[{','.join(map(override_text, value))}]"
    return repr(value) if value is ABSENT else yaml_text(value)
