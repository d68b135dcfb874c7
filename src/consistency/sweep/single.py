"""Checks that the directory of a sweep is not used as that of a run, and the converse."""

from collections.abc import Iterable
from pathlib import Path

from consistency.errors import UserError
from consistency.quoting import path_argument
from consistency.sweep.identity import HYDRAS, PLACES
from consistency.sweep.runs import directories, is_sweep, order


def check_single(path: str | Path, key: str) -> None:
    """Refuse the directory of a sweep where that of a run is needed.

    Args:
        path: of a run or a file of it.
        key: of the config that names it, for messages.

    Raises:
        UserError: the path is that of a sweep.
    """
    found = directories(Path(path))
    if found:
        raise UserError(
            f"{key}={path} is the directory of a sweep of {len(found)} runs: name one of them, such as "
            f"{path_argument(key, min(found, key=order))}; task=report shows all of them"
        )


def check_keys(swept: Iterable[str]) -> None:
    """Refuse to vary run_dir, trust and the keys of Hydra, which do not make another run.

    Raises:
        UserError: names the first.
    """
    for key in sorted(swept):
        if key in PLACES or key.lstrip("+~").startswith(HYDRAS):
            raise UserError(f"{key} cannot be swept over: give it one value, and vary something else")


def check_free(directory: Path) -> None:
    """Refuse to use the directory of a sweep as that of a run.

    Raises:
        UserError: it is one.
    """
    if is_sweep(directory):
        raise UserError(
            f"run_dir={directory} is the directory of a sweep, which goes on by its own command: choose "
            "another"
        )


def check_no_run(directory: Path) -> None:
    """Refuse to use the directory of a run as that of a sweep."""
    if (directory / "checkpoints").exists() or (directory / "result.json").exists():
        raise UserError(
            f"run_dir={directory} holds a run, and a sweep needs a directory of its own: choose another"
        )
