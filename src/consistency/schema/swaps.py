"""Values that an experiment, a method or a budget sets for parts that the command line has replaced.

`experiment=ict_digits` chooses curriculum=doubling and sets curriculum.s1. With `curriculum=constant`, or a
method that chooses another curriculum, that value fits nothing: it is dropped, and a line says so. Values of
the command line are never dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from consistency.files.configs import config_groups
from consistency.schema.kinds import yaml_text
from consistency.schema.layers import (
    UNREAD,
    Keys,
    Layers,
    Tree,
    choices_of,
    has,
    merged,
    read_layers,
    select,
    tree_leaves,
)

METRIC = ("optimized_metric",)  # names a sampler
NAMED = ("samplers", "callbacks")  # groups that hold parts by name
WHOLE = ("experiment", *UNREAD)  # groups whose choice replaces no part


@dataclass(frozen=True)
class Value:
    """A value in a config file whose part has been replaced.

    Args:
        keys: where it stands.
        value: as it is written.
        file: that sets it.
        fits: whether the new part has such a key.
        other: what the new part has there by itself.
    """

    keys: Keys
    value: Any
    file: str
    fits: bool
    other: Any = None

    @property
    def key(self) -> str:
        """Its key."""
        return ".".join(self.keys)

    def __str__(self) -> str:
        default = f" (default {yaml_text(self.other)})" if self.fits else ""
        return f"{self.key}={yaml_text(self.value)}{default}"


@dataclass(frozen=True)
class Swaps:
    """The consequences of the choices of a command line.

    Args:
        values: dropped ones and kept ones.
        lines: what to say of them.
    """

    values: tuple[Value, ...] = ()
    lines: tuple[str, ...] = ()


def drop_replaced(config: DictConfig) -> tuple[str, ...]:
    """Drop values from a training config that were set for parts which have been replaced.

    Args:
        config: as composed, while Hydra knows the command; changed in place. A second call changes nothing.

    Returns:
        Lines for the user: what was dropped, and what was kept although the part is another.
    """
    overrides = command()
    found = swaps(overrides) if overrides is not None else Swaps()
    for value in found.values:
        if not value.fits:
            drop(config, value)
    return found.lines


def command() -> tuple[str, ...] | None:
    """The overrides of the training run that Hydra composes; None outside of one."""
    composing = HydraConfig.initialized() and GlobalHydra.instance().is_initialized()
    if not composing or HydraConfig.get().job.config_name != "train":
        return None
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # as they are written
    return tuple(given)


def config_file_of(key: str) -> str | None:
    """The file of configs/ that sets a key, without its ending; None if the command line does."""
    overrides = command()
    keys = tuple(key.split("."))
    if overrides is None or is_given(keys, given_in(overrides)):
        return None
    return read_layers("train", choosing(overrides)).files.get(keys)


def option_in_use(group: str) -> str | None:
    """The chosen option of a group; None for a name that is no group."""
    return HydraConfig.get().runtime.choices.get(group) if command() is not None else None


def given_in(overrides: tuple[str, ...]) -> dict[str, str]:
    """The keys of a command line with their values as text."""
    parts = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in parts}


def choosing(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides that choose an option of a group."""
    parts = ((o, *o.lstrip("+~").partition("=")[::2]) for o in overrides)
    known = config_groups()
    return tuple(o for o, key, value in parts if key in known and not value.startswith("{"))


def drop(config: DictConfig, value: Value) -> None:
    """Remove a value from a config, with mappings that are empty then; a metric gets its default."""
    if value.keys == METRIC:
        config.optimized_metric = value.other
        return
    *parents, last = value.keys
    node = OmegaConf.select(config, ".".join(parents)) if parents else config
    if not isinstance(node, DictConfig) or last not in node:
        return
    with open_dict(config):
        del node[last]
        while parents and not len(node):
            *parents, last = parents
            node = OmegaConf.select(config, ".".join(parents)) if parents else config
            del node[last]


def swaps(overrides: tuple[str, ...]) -> Swaps:
    """Compare the config of a command with that of its experiment alone."""
    given, groups = given_in(overrides), given_in(choosing(overrides))
    if not groups.keys() - {*WHOLE}:
        return Swaps()
    here = read_layers("train", choosing(overrides))
    alone = read_layers("train", choice_overrides(groups, "experiment"))
    method = read_layers("train", choice_overrides(groups, "experiment", "method"))
    sized = read_layers("train", choice_overrides(groups, "experiment", "method", "data", "budget"))
    each = values_of_swapped(here, alone, method, sized)
    found = {value.keys: value for value in each}  # the last file that sets a key
    values = tuple(value for value in found.values() if not is_given(value.keys, given))
    return Swaps(values, (*replacement_lines(values, here, alone), *masked(here, alone, {*groups})))


def choice_overrides(groups: dict[str, str], *names: str) -> tuple[str, ...]:
    """The overrides that choose some groups."""
    return tuple(f"{name}={groups[name]}" for name in names if name in groups)


def is_given(keys: Keys, given: dict[str, str]) -> bool:
    """Whether the command line has a value for a path, or for a mapping that it is in."""
    if len(keys) == 1:
        return keys[0] in given
    return any(".".join(keys[:i]) in given for i in range(2, len(keys) + 1))


def values_of_swapped(here: Layers, alone: Layers, method: Layers, sized: Layers) -> Iterator[Value]:
    """Yield the values that method, experiment and budget set for parts that have been replaced.

    Args:
        here: as composed.
        alone: as the experiment alone is.
        method: as experiment and method alone are.
        sized: as these two are with the data and the budget of the command line.
    """
    of_method = list(compare_values(here.method, here, here.parts, method.parts))
    yield from of_method
    fitting = merged(here.parts, without_values(here.method, of_method))
    of_budget = {keys for keys, _ in tree_leaves(here.budget)}
    found = compare_values(here.experiment, here, fitting, merged(alone.parts, alone.method))
    yield from (value for value in found if value.keys not in of_budget)  # which stand whatever these say
    yield from compare_values(here.budget, here, fitting, merged(sized.parts, sized.method))


def without_values(tree: Tree, values: list[Value]) -> Tree:
    """A tree without the values that are dropped."""
    dropped = {value.keys for value in values if not value.fits}
    kept: Tree = {}
    for keys, value in tree_leaves(tree):
        if keys not in dropped:
            for key in reversed(keys):
                value = {key: value}
            kept = merged(kept, value)
    return kept


def compare_values(own: Tree, here: Layers, new: Tree, old: Tree) -> Iterator[Value]:
    """Compare the values of a file with the parts in use, and with the parts that it was written for.

    Args:
        own: the values.
        here: the composition, for the names of files.
        new: the parts that they are used with.
        old: the parts that they were written for.
    """
    for keys, value in tree_leaves(own):
        if value is None and keys[0] in NAMED and len(keys) == 2:  # what is left out, if it is there
            continue
        own_value = select(new, keys)
        swapped = target(new, keys) != target(old, keys) or own_value != select(old, keys)
        if keys == METRIC:
            gone = value in (old.get("samplers") or {}) and value not in (new.get("samplers") or {})
            fits, swapped = not gone, gone
        else:
            fits = has(new, keys) or not (has(old, keys) or swapped)
        if not fits or (swapped and own_value != value):
            yield Value(keys, value, here.files[keys], fits, own_value)


def target(tree: Tree, keys: Keys) -> Any:
    """The `_target_` of the mapping at the end of a path."""
    node = select(tree, keys[:-1])
    return node.get("_target_") if isinstance(node, dict) else None


def replacement_lines(values: tuple[Value, ...], here: Layers, alone: Layers) -> Iterator[str]:
    """Yield a line for each group that was replaced, about the values that were set for it."""
    by_group: dict[str, list[Value]] = {}
    for value in values:
        by_group.setdefault(group_of(value.keys, here, alone), []).append(value)
    for group, inside in by_group.items():
        new, old = here.choices.get(group), alone.choices.get(group)
        said = []
        for file in dict.fromkeys(value.file for value in inside):
            for fits, what in ((False, "dropped"), (True, "kept")):
                each = [str(value) for value in inside if value.file == file and value.fits == fits]
                said += [f"{', '.join(each)} of {file}.yaml {what}"] if each else []
        where = f"{group}={new} in place of {old}" if new != old else f"{group}={new}"
        yield f"{where}: {'; '.join(said)}"


def group_of(keys: Keys, here: Layers, alone: Layers) -> str:
    """The group whose new option a value meets: that of its section, else one that brings sections."""
    if keys == METRIC:
        return "samplers"
    changed = [group for group, name in here.choices.items() if name != alone.choices.get(group)]
    return next((group for group in (keys[0], "method", "start") if group in changed), "method")


def masked(here: Layers, alone: Layers, given: set[str]) -> Iterator[str]:
    """Yield a line about parts of the chosen method that the experiment overrides."""
    new, old, experiment = here.choices.get("method"), alone.choices.get("method"), here.choices["experiment"]
    if new is None or old is None or new == old or experiment is None:
        return
    wanted, before = choices_of(f"method/{new}"), choices_of(f"method/{old}")
    stays = choices_of(f"experiment/{experiment}")
    parts = [
        group
        for group, name in wanted.items()
        if group not in given and stays.get(group, name) != name and before.get(group) != name
    ]
    if parts:
        theirs, ours = (" ".join(f"{g}={c[g]}" for g in parts) for c in (stays, wanted))
        yield (
            f"method={new} chooses {ours}, but experiment/{experiment}.yaml chooses {theirs}, which stands: "
            f"give {ours} as well for the method's own"
        )
