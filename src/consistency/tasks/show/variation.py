"""What a run changed of the experiment that it is a variation of."""

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

PLACES = ("run_dir", "ckpt_path", "net.shape", "net.classes", "trust")  # where it ran, and what it saw
LOGS = "logger"  # where it was logged is not of the experiment
REFERENCE = re.compile(r"\$\{([\w.]+)\}")

Leaves = Mapping[str, Any]  # values by full key


def variation(experiment: str | None, written: dict[str, Any]) -> Table | None:
    """Every value that differs from the experiment's own, where it stands; None if that is not known.

    Args:
        experiment: its name, as a checkpoint has it; None where it has none.
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
        if k not in PLACES and not copied(k, text, ours)
    ]
    return Table(["key", experiment, "this run"], rows)


def leaf_values(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its key."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaf_values(value, f"{path}.{name}".lstrip("."))
    else:
        yield path, node


def copied(key: str, text: Leaves, ours: Leaves) -> bool:
    """Whether a value only repeats what stands elsewhere, or was filled in by the run itself.

    Args:
        key: of the value.
        text: the experiment's config as it is written, references and all.
        ours: the run's.
    """
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        said = text.get(".".join(parts[:end]))
        if not (isinstance(said, str) and "${" in said):
            continue
        whole = REFERENCE.fullmatch(said)
        return whole is None or ours.get(".".join([whole[1], *parts[end:]])) == ours.get(key)
    return False


def yaml_value(values: Leaves, key: str) -> str:
    """A value as YAML has it."""
    if key not in values:
        return "–"
    value = values[key]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
