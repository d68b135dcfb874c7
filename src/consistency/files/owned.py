"""Protection against links in a run directory, by which a write would change a file elsewhere."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from consistency.errors import UserError


def is_own(path: Path) -> bool:
    """Whether a path is a regular file with one name: no symbolic or hard link, pipe or device."""
    try:
        return _is_own(path.lstat())
    except OSError:
        return False


def reopened(path: Path) -> BinaryIO:
    """Open an existing file for changes in place.

    Raises:
        UserError: it is a link, has a second name, or is no regular file.
        OSError: it does not exist, or cannot be written.
    """
    if path.exists() and not is_own(path):
        raise _foreign(path)
    descriptor = os.open(
        path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    )  # opening a pipe would wait for a reader
    if _is_own(os.fstat(descriptor)):
        return os.fdopen(descriptor, "r+b")
    os.close(descriptor)
    raise _foreign(path)


def check_own(path: Path) -> None:
    """Refuse a link, a pipe or a device at the path of a file that will be written.

    Raises:
        UserError: there is one.
    """
    if os.path.lexists(path) and not is_own(path):
        raise _foreign(path)


def check_inside(directory: Path, names: Iterable[str]) -> None:
    """Refuse links in a directory, of these names, that lead out of it.

    Raises:
        UserError: names the first, and where it leads.
    """
    root = Path(os.path.realpath(directory))  # Path.resolve raises an error for a link to itself
    for name in names:
        path = directory / name
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not target.is_relative_to(root):
            raise UserError(
                f"{path} is a link to {target}, out of the run directory, and would be written through: "
                "replace it with a folder, or choose another run_dir"
            )


def _is_own(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _foreign(path: Path) -> UserError:
    return UserError(
        f"{path} is a link, has a second name, or is no regular file, and would be written: remove it, or "
        "replace it with a copy"
    )
