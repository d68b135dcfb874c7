"""The identity of a run of a sweep, which follows from its overrides, not from its number."""

import json
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from consistency.schema.rules import FREE, effect

HYDRAS = ("hydra.", "hydra/")
AGAIN = ("ckpt_path", "last")
PLACES = ("run_dir", "trust")
CONTENTS = ("teacher.path", "data.root", "data_dir", "store.path")  # what is there may be something else
LENGTH = "trainer.max_steps"

Settings = dict[str, str]  # key -> value, as JSON


def override_settings(overrides: Sequence[str]) -> Settings:
    """The values that overrides set, in a canonical form: 1e-4 is 0.0001, and their order does not matter.

    Left out is what says where a run is or how it is launched: run_dir, ckpt_path=last, hydra.*. Another
    checkpoint is what a run begins with, or what an evaluation is of.

    Args:
        overrides: of a command line, without sweeps.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = {each.get_key_element(): each.value() for each in parsed}
    return {
        key: json.dumps(ordered(value), default=str)
        for key, value in values.items()
        if not key.lstrip("+~").startswith(HYDRAS) and (key, value) != AGAIN and key not in PLACES
    }


def ordered(value: Any) -> Any:
    """A value with the keys of mappings sorted."""
    if isinstance(value, dict):
        return sorted([repr(key), ordered(item)] for key, item in value.items())
    return [ordered(item) for item in value] if isinstance(value, list) else value


def same_run(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two command lines describe the same run without changes."""
    return override_settings(a) == override_settings(b)


def found_among(known: Sequence[Settings], wanted: Settings, swept: set[str]) -> int | None:
    """Index of the known run that has the wanted settings.

    It is the one whose settings are the same; else the only one that differs in nothing but what a run may
    change on its way while no weight follows from it, as more `trainer.max_steps`, if the sweep does not.

    Args:
        known: settings of each run.
        wanted: settings of a run that is to be made, or gone on with.
        swept: keys that the sweep varies.

    Returns:
        Its place in `known`; None for a run that is new.
    """
    if wanted in known:
        return known.index(wanted)
    fixed = firm(wanted, swept)
    found = [i for i, one in enumerate(known) if firm(one, swept) == fixed and not shorter(wanted, one)]
    return found[0] if len(found) == 1 else None


def firm(one: Settings, swept: set[str]) -> Settings:
    """The settings whose change makes another run."""
    return {
        key: value for key, value in one.items() if key in swept or key in CONTENTS or effect(key) is not FREE
    }


def shorter(one: Settings, other: Settings) -> bool:
    """Whether a run has fewer steps than another, where both set them."""
    try:
        return float(one[LENGTH]) < float(other[LENGTH])
    except (KeyError, ValueError):
        return False


def varied(runs: Sequence[Sequence[str]]) -> set[str]:
    """The keys in which command lines differ."""
    all_of_them = [override_settings(overrides) for overrides in runs]
    keys = {key for one in all_of_them for key in one}
    return {key for key in keys if len({one.get(key) for one in all_of_them}) > 1}
