"""Checks that every key of a config is known and every value has the right type, by the constructors."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from consistency.errors import UserError, nearest
from consistency.files.configs import config_groups, options
from consistency.schedule.sigma import Sigma
from consistency.schema import swaps
from consistency.schema.kinds import PART, kind_in_words, misfit, value_fits, yaml_text
from consistency.schema.options import Eval, Train
from consistency.schema.sections import (
    as_written,
    choice_group,
    chosen_option,
    known_sections,
    loaded,
    option_target,
    required,
    short_target,
)
from consistency.schema.targets import parameters

OPTIONS: dict[str, type] = {"train": Train, "eval": Eval}
MADE_OF_PARTS = ("callbacks", "logger", "samplers")  # groups that hold parts by name
OPTIONAL = ("logger",)  # groups that a run can do without: ~logger
LARGEST = 2**63 - 1
OTHERS = 200  # characters of the list of names in a message
ADDED = {("module", "model")}  # arguments that `consistency.build` adds


def check_composed(config: DictConfig, entry: str) -> None:
    """Check a composed command by `check_options` and `check_config`.

    Args:
        config: as composed.
        entry: name of the file in configs/ that it was composed from.

    Raises:
        UserError: names the key, and what to do about it.
    """
    check_options(config, entry)
    check_config(config, entry)


def check_options(config: DictConfig, entry: str) -> None:
    """Refuse options of a wrong type or out of bounds, and groups without a choice; imports no library."""
    check_fields("", config, OPTIONS[entry])
    absent = {group for group in OPTIONAL if config.get(group) is None}
    for group in (group for group in required(entry) if group not in absent):
        section = config.get(group)
        names = ", ".join(options(group)) or "see configs/method"
        if not OmegaConf.is_dict(section):
            raise UserError(f"{group} has no value: choose one with {choice_group(group)}=NAME ({names})")
        if group not in MADE_OF_PARTS and "_target_" not in section:
            raise UserError(
                f"{group}._target_ has no value: choose one with {choice_group(group)}=NAME ({names})"
            )
        check_parts(group, section)


def check_config(config: DictConfig, entry: str) -> None:
    """Refuse keys that nothing reads, and values of a wrong type, before anything is built.

    Args:
        config: as composed, or as a checkpoint brings it.
        entry: name of the file in configs/ that it was composed from.

    Raises:
        UserError: names the key, and the nearest that is known or what the value should be.
    """
    options, names = loaded(entry), known_sections(entry)
    for name in map(str, config):
        check_key(name, name, names)
        keys = options.get(name)
        if isinstance(keys, dict) and keys and OmegaConf.is_dict(config[name]):
            for key in map(str, config[name]):
                check_key(f"{name}.{key}", key, keys)
    check_fields("", config, OPTIONS[entry])
    if "sigma" in config:
        check_fields("sigma.", config.sigma, Sigma)
    check_finite(config)
    nodes = list(nodes_with_target(config))
    for path, node in nodes:
        check_special(path, node)
        check_leads(path, node)
    for path, node in nodes:
        check_parts_suit(path, node)
    for path, node in nodes:
        check_arguments(path, node)


def nodes_with_target(config: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield every node with a `_target_` and its key; targets of interpolations have keys of their own."""
    if OmegaConf.is_dict(config) and "_target_" in config:
        yield path, config
    keys = config if OmegaConf.is_dict(config) else range(len(config)) if OmegaConf.is_list(config) else ()
    for key in keys:
        if not OmegaConf.is_interpolation(config, key) and not OmegaConf.is_missing(config, key):
            yield from nodes_with_target(config[key], f"{path}.{key}".lstrip("."))


def check_fields(prefix: str, section: Any, bounds: type) -> None:
    """Check a section by the fields of a dataclass, and by its constructor, which checks bounds."""
    if not OmegaConf.is_dict(section):
        raise UserError(f"{prefix[:-1]}={yaml_text(section)} must be a mapping, as in configs/train.yaml")
    types = get_type_hints(bounds)
    names = [f.name for f in fields(bounds) if f.name in section]  # a missing value is not
    for name in names:
        check_kind(f"{prefix}{name}", reference_text(section, name), section[name], types[name])
    bounds(**{name: section[name] for name in names})


def check_finite(node: Any, path: str = "") -> None:
    """Refuse NaN, infinities, and integers beyond 64 bits, at any depth."""
    for key in node if OmegaConf.is_dict(node) else range(len(node)):
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        here, value = f"{path}.{key}".lstrip("."), node[key]
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{here}={value} must be a finite number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"{here}={value} must be at most {LARGEST}")
        if OmegaConf.is_config(value):
            check_finite(value, here)


def check_parts(group: str, section: DictConfig) -> None:
    """Refuse callbacks, loggers and samplers that are neither parts nor null."""
    for name in section if group in MADE_OF_PARTS else ():
        part = section[name]
        if part is not None and not (OmegaConf.is_dict(part) and "_target_" in part):
            raise UserError(f"{group}.{name}={yaml_text(part)} must be {PART} or null")


def check_parts_suit(path: str, node: DictConfig) -> None:
    """Refuse parts of a type that the target does not accept, before their keys are checked."""
    for key, argument in (parameters(node._target_) or {}).items():
        value = node[key] if key in node else None  # noqa: SIM401 - get() would hide a wrong reference
        if isinstance(value, DictConfig) and "_target_" in value:
            check_kind(f"{path}.{key}", reference_text(node, key), value, argument.hint, node._target_)


def reference_text(node: DictConfig, key: str) -> Any:
    """The text of a reference; None for a value that is no reference."""
    return node._get_node(key)._value() if OmegaConf.is_interpolation(node, key) else None  # type: ignore[union-attr]


def check_arguments(path: str, node: DictConfig) -> None:
    """Check the keys of a node by the arguments of its target."""
    takes = parameters(node._target_)
    if takes is None:
        return
    for key, text in as_written(node).items():
        if key.startswith("_") or OmegaConf.is_missing(node, key):
            continue
        if key not in takes and (file := swaps.config_file_of(f"{path}.{key}")):
            raise UserError(not_taken(f"{path}.{key}", file, node))
        check_key(f"{path}.{key}", key, takes)
        check_reference(f"{path}.{key}", key, text, node._get_root())
        check_kind(f"{path}.{key}", text, node[key], takes[key].hint, node._target_)
        if node[key] == "" and node._target_.startswith("consistency."):
            raise UserError(f"{origin_key(text, f'{path}.{key}')}= is empty: give a value")
    check_complete(path, node, [name for name, argument in takes.items() if argument.required])


def check_complete(path: str, node: DictConfig, needed: Iterable[str]) -> None:
    """Refuse a node that lacks a required argument; a partial one may get it later."""
    for name in needed:
        if name not in [*node] and not node.get("_partial_") and (path, name) not in ADDED:
            raise UserError(f"{path}.{name} has no value: give one with +{path}.{name}=VALUE")


def check_special(path: str, node: DictConfig) -> None:
    """Check the keys of a node that Hydra itself reads, such as `_partial_`."""
    name = node._target_
    if not isinstance(name, str) or "." not in name:
        raise UserError(f"{path}._target_={yaml_text(name)} must be the full name of a class or a function")
    for key in {"_partial_", "_recursive_"} & {*map(str, node)}:
        if not isinstance(node[key], bool):
            raise UserError(f"{path}.{key}={yaml_text(node[key])} must be true or false")


def check_kind(path: str, text: Any, value: Any, hint: Any, holder: str = "") -> None:
    """Refuse a value that does not fit an annotation.

    Args:
        path: its key.
        text: the value as it is written, which may refer to another.
        value: as it is.
        hint: the annotation.
        holder: name of the class or function whose annotation it is.
    """
    if value_fits(value, hint):
        return
    wrong = misfit(origin_key(text, path), value, hint)
    assert wrong is not None
    where, found, meant = wrong
    group = where.rpartition(".")[2]
    suited = (
        [name for name in options(group) if value_fits(option_target(group, name), meant)]
        if group in config_groups()
        else []
    )
    which = f"; choose one with {group}=NAME ({', '.join(suited)})" if suited else ""
    if OmegaConf.is_dict(found) and "_target_" in found:
        option, user = chosen_option(group, found), path.rpartition(".")[0]
        line = f"{where}={option} does not suit {user} ({short_target(holder)})"
        raise UserError(line + (which or f": it must be {kind_in_words(meant)}"))
    raise UserError(f"{where}={yaml_text(found)} must be {kind_in_words(meant)}{which}")


def check_reference(path: str, key: str, text: Any, root: Any) -> None:
    """Refuse a key added to a reference to a section, which it would replace."""
    if not (isinstance(text, dict) and text) or "_target_" in text:
        return
    section = OmegaConf.select(root, key)
    if isinstance(section, DictConfig) and "_target_" in section:
        added = next(iter(text))
        raise UserError(f"unknown key {path}.{added}: {path} is the section {key}; say {key}.{added} there")


def check_key(path: str, key: str, names: Iterable[str]) -> None:
    """Refuse a key that is none of the names."""
    if key not in names:
        remedy = nearest(key, (n for n in names if not n.startswith("_")))
        raise UserError(f"unknown key {path}: {remedy}")


def not_taken(path: str, file: str, node: DictConfig) -> str:
    """The message about a key that a config sets for a part that does not accept it."""
    group, _, name = file.rpartition("/")
    others = ", ".join(option for option in options(group) if option != name)
    another = f"choose another {group} ({others})" if 0 < len(others) <= OTHERS else f"choose another {group}"
    method = swaps.option_in_use("method") if path.startswith("module.") else None
    whose = f" of method={method}" if method is not None else ""
    return (
        f"{group}={name} sets {path}, which {short_target(node._target_)}{whose} does not take: "
        f"{another}, or leave "
        f"it out with '~{path}'"
    )


def check_leads(path: str, node: DictConfig) -> None:
    """Refuse a reference to a key that does not exist, for instance because its part was replaced."""
    root = node._get_root()
    for key, text in as_written(node).items():
        there = origin_key(text, "")
        if there and OmegaConf.select(root, there, default=root) is root:
            owners = [part.partition(".")[0] for part in (path, there)]
            names = [swaps.option_in_use(owner) for owner in owners]
            if names[0] is not None and there in config_groups():  # a group of other methods
                raise UserError(
                    f"{owners[0]}={names[0]} needs {there}, and nothing of configs/{there} is chosen: choose "
                    f"another {owners[0]}, or {there}=NAME ({', '.join(options(there))})"
                )
            if None in names:
                raise UserError(f"{path}.{key} refers to {there}, which is not there: give it a value")
            user, part = (f"{owner}={name}" for owner, name in zip(owners, names, strict=True))
            raise UserError(
                f"{user} reads {there}, which {part} does not have: choose another {owners[0]} or {owners[1]}"
            )


def origin_key(text: Any, path: str) -> str:
    """The key where a value is set, which messages name: for a reference, the key that it refers to."""
    reference = str(text)
    simple = reference.startswith("${") and ":" not in reference and reference.count("$") == 1
    return reference[2:-1] if simple and reference.endswith("}") else path
