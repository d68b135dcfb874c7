"""The differences between a run's config and that of its experiment."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from consistency.files.configs import options
from consistency.schema.recipes import overrides_of
from consistency.table import Table

IGNORED = ("run_dir", "ckpt_path", "net.shape", "net.classes", "trust")  # paths, and values set by the data
LOGS = "logger"  # loggers are not part of an experiment
REFERENCE = re.compile(r"\$\{([\w.]+)\}")

Leaves = Mapping[str, Any]  # values by full key


def config_changes(experiment: str | None, written: dict[str, Any]) -> Table | None:
    """The config values that differ from the experiment's own; None if the experiment is not known.

    Args:
        experiment: name of the experiment in the checkpoint; None if it has none.
        written: the run's config.
    """
    if experiment is None:
        return None
    overrides = overrides_of(experiment)
    if overrides == [f"experiment={experiment}"] and experiment not in options("experiment"):
        return None  # Hydra would read 5 as a number, and a,b as a sweep
    try:
        base = compose("train", overrides)
        theirs = dict(leaf_values(OmegaConf.to_container(base, resolve=True)))
    except (HydraException, OmegaConfBaseException):
        return None
    ours, text = dict(leaf_values(written)), dict(leaf_values(OmegaConf.to_container(base)))
    differ = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
    differ = [key for key in differ if not key.startswith(LOGS)]
    rows = [
        [k, yaml_value(theirs, k), yaml_value(ours, k)]
        for k in differ
        if k not in IGNORED and not is_copied(k, text, ours)
    ]
    return Table(["key", experiment, "this run"], rows)


def leaf_values(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) for every leaf of a config."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaf_values(value, f"{path}.{name}".lstrip("."))
    else:
        yield path, node


def is_copied(key: str, text: Leaves, ours: Leaves) -> bool:
    """Whether a value only follows from another one by a reference, or was computed by the run.

    Args:
        key: of the value.
        text: the experiment's config with references unresolved.
        ours: the run's config.
    """
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        value = text.get(".".join(parts[:end]))
        if not (isinstance(value, str) and "${" in value):
            continue
        whole = REFERENCE.fullmatch(value)
        return whole is None or ours.get(".".join([whole[1], *parts[end:]])) == ours.get(key)
    return False


def yaml_value(values: Leaves, key: str) -> str:
    """The value of a key as YAML text; a dash if the config does not have the key."""
    if key not in values:
        return "–"
    value = values[key]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
