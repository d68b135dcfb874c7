"""The directories that a command has made, which are removed again when it is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from consistency.process.naming import LOCK
from consistency.process.rank import is_first

_made: list[Path] = []  # by this process, the innermost first


class Noted(Callback):
    """Notes which directories on the path of a run do not exist, before Hydra makes them."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Note those of a run."""
        note(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Note those of a sweep."""
        note(Path(config.hydra.sweep.dir))


def note(directory: Path) -> None:
    """Note a directory and its parents, if they do not exist."""
    _made.clear()
    if is_first():  # the other processes of a run work in the directory of the first
        _made.extend(path for path in (directory, *directory.parents) if not path.exists())


def discard_made() -> None:
    """Remove the noted directories, if they contain nothing but released locks."""
    if _made and not occupied(_made[0]):
        for path in sorted(_made[0].rglob("*"), reverse=True):  # what is in a folder before the folder
            remove_empty(path)
    for path in _made:
        remove_empty(path)
    _made.clear()


def occupied(directory: Path) -> bool:
    """Whether a directory contains anything but folders and released locks, at any depth."""
    return any(not (is_folder(path) or is_free(path)) for path in directory.rglob("*"))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def is_free(path: Path) -> bool:
    """Whether a path is a released lock, which is an empty file."""
    return path.name == LOCK and not path.is_symlink() and path.stat().st_size == 0


def remove_empty(path: Path) -> None:
    """Remove a file or an empty folder; a folder that another run has filled meanwhile is kept."""
    with suppress(OSError):
        path.rmdir() if is_folder(path) else path.unlink()
