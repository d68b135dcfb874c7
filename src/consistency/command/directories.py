"""The directories that a command has made, which it removes again when it is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from consistency.process.naming import LOCK
from consistency.process.rank import is_first

_made: list[Path] = []  # by this process, the innermost first


class Noted(Callback):
    """Remembers which directories on the way to that of a run are not there yet, before Hydra makes them."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Of a run."""
        note(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Of a sweep."""
        note(Path(config.hydra.sweep.dir))


def note(directory: Path) -> None:
    """Remember a directory and those above it, as far as they are not there."""
    _made.clear()
    if is_first():  # the other processes of a run work in the directory of the first
        _made.extend(path for path in (directory, *directory.parents) if not path.exists())


def discard_made() -> None:
    """Remove them again where nothing is in them but locks that nobody holds."""
    if _made and not occupied(_made[0]):
        for path in sorted(_made[0].rglob("*"), reverse=True):  # what is in a folder before the folder
            remove_empty(path)
    for path in _made:
        remove_empty(path)
    _made.clear()


def occupied(directory: Path) -> bool:
    """Whether anything but folders and locks that nobody holds is in a directory, at any depth."""
    return any(not (is_folder(path) or is_free(path)) for path in directory.rglob("*"))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def is_free(path: Path) -> bool:
    """Whether a path is the lock of a run that has ended, which is empty."""
    return path.name == LOCK and not path.is_symlink() and path.stat().st_size == 0


def remove_empty(path: Path) -> None:
    """Remove a file or an empty folder; one that another run has filled meanwhile stays."""
    with suppress(OSError):
        path.rmdir() if is_folder(path) else path.unlink()
