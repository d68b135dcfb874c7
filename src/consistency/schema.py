"""Is every key of a config known, and every value of its kind? The constructors are the schema."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from consistency.errors import UserError, nearest
from consistency.registry import CONFIGS

NUMBERS = {float: "a number", int: "a whole number", bool: "true or false"}


def check_config(config: DictConfig, entry: str) -> None:
    """Refuse what nobody would read, and text where a number is meant, before anything is built.

    Args:
        config: as composed.
        entry: name of the file in configs/ that it was composed from.

    Raises:
        UserError: names the key, and the nearest that is known.
    """
    written = plain(OmegaConf.load(CONFIGS / f"{entry}.yaml"))
    sections = {*written, *groups(), *methods()} - {"defaults"}
    for name in map(str, config):
        known(name, name, sections)
        keys = written.get(name)
        if isinstance(keys, dict) and keys and OmegaConf.is_dict(config[name]):
            for key in map(str, config[name]):
                known(f"{name}.{key}", key, keys)
    for path, node in described(config):
        check_arguments(path, node)


def plain(node: Any) -> dict[str, Any]:
    """A config as a dict, its interpolations as they are written."""
    return OmegaConf.to_container(node)  # type: ignore[return-value]


def described(config: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_`, with its key; what an interpolation refers to has a key of its own."""
    if OmegaConf.is_dict(config) and "_target_" in config:
        yield path, config
    keys = config if OmegaConf.is_dict(config) else range(len(config)) if OmegaConf.is_list(config) else ()
    for key in keys:
        if not OmegaConf.is_interpolation(config, key) and not OmegaConf.is_missing(config, key):
            yield from described(config[key], f"{path}.{key}".lstrip("."))


def groups() -> list[str]:
    """The folders of configs/."""
    return [path.name for path in CONFIGS.iterdir() if path.is_dir()]


def methods() -> Iterator[str]:
    """The sections that configs/method/ adds: module, samplers."""
    for path in (CONFIGS / "method").glob("*.yaml"):
        yield from plain(OmegaConf.load(path))


def check_arguments(path: str, node: DictConfig) -> None:
    """Hold the keys of a node against what its target takes."""
    takes = parameters(node._target_)
    for key, text in plain(node).items():
        if takes is None or key.startswith("_") or OmegaConf.is_missing(node, key):
            continue
        known(f"{path}.{key}", key, takes)
        check_reference(f"{path}.{key}", key, text, node._get_root())
        meant, value = expected(takes[key]), node[key]
        if meant and not OmegaConf.is_config(value) and not fits(value, takes[key]):
            raise UserError(f"{origin(text, f'{path}.{key}')}={shown(value)} must be {meant}")


def check_reference(path: str, key: str, text: Any, root: Any) -> None:
    """Refuse a key added to what only refers to a section, for it would take that section's place."""
    if not (isinstance(text, dict) and text) or "_target_" in text:
        return
    section = OmegaConf.select(root, key)
    if isinstance(section, DictConfig) and "_target_" in section:
        added = next(iter(text))
        raise UserError(f"unknown key {path}.{added}: {path} is the section {key}; say {key}.{added} there")


def known(path: str, key: str, names: Iterable[str]) -> None:
    """Refuse a key that is none of the names."""
    if key not in names:
        raise UserError(f"unknown key {path}: {nearest(key, (n for n in names if not n.startswith('_')))}")


def parameters(target: str) -> dict[str, Any] | None:
    """The arguments of a target and their types; None if it takes any, or is not there at all."""
    try:
        found = get_object(target)
    except Exception:  # instantiate says why, in better words
        return None
    takes: dict[str, Any] = {}
    for made in makers(found):
        arguments = inspect.signature(made).parameters
        takes = {name: hints(made).get(name, Any) for name in arguments if name != "self"} | takes
        if all(a.kind != a.VAR_KEYWORD for a in arguments.values()):
            return takes
    return None


def makers(target: Any) -> list[Callable[..., Any]]:
    """What takes the arguments: a function; a constructor; if it is ours, those it hands **keywords on to."""
    if not inspect.isclass(target):
        return [target]
    ours = target.__module__.startswith("consistency.")
    made = [base.__init__ for base in target.__mro__ if "__init__" in vars(base)]
    return made if ours else made[:1]


def hints(made: Callable[..., Any]) -> dict[str, Any]:
    """Types of the arguments, as far as they can be known."""
    try:
        return get_type_hints(made)
    except (NameError, TypeError):
        return {}


def kinds(hint: Any) -> set[Any]:
    """The members of a union, or the one type."""
    return set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}


def expected(hint: Any) -> str | None:
    """What a number should be, in words; None where no number is meant."""
    return next((words for kind, words in NUMBERS.items() if kind in kinds(hint)), None)


def fits(value: Any, hint: Any) -> bool:
    """Whether a number, a text or null is of a type; other types, as lists, are for the target to judge."""
    allowed = kinds(hint)
    if isinstance(value, str):
        return bool({str, Path, Any} & allowed) or any(get_origin(kind) is Literal for kind in allowed)
    if type(value) is int:
        return bool({int, float} & allowed)
    return type(value) in allowed


def origin(text: Any, path: str) -> str:
    """The key where a value stands: `${sigma.min}` is not the fault of who refers to it."""
    reference = str(text)
    simple = reference.startswith("${") and ":" not in reference and reference.count("$") == 1
    return reference[2:-1] if simple and reference.endswith("}") else path


def shown(value: Any) -> str:
    """A value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
